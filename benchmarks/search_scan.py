"""The most similar boxes of a gallery: ours beside faiss, usearch, torch and a plain single-precision product.

    OMP_WAIT_POLICY=passive python benchmarks/search_scan.py    # 1,000,000 x 256, 10,000,000 mapped: minutes, 8 GB
    python benchmarks/search_scan.py --quick                    # 50,000 x 64, nothing is written

The gallery is a mixture of people: ``--people`` directions, each seen again with noise. Ways take turns, in an order
drawn anew each round, with equal threads; each answers the same queries. ``recall`` is the share of the float64 scan's
top 20 that a way finds, ``same`` the share of queries whose top 20 it gives in that very order. The plain product ends
with its similarities: nothing is ranked. A gallery mapped from files is searched, and one opened as
a search keeps it, in a process of its own each. Passive waiting keeps one library's idle threads from taking the
processors from the next. Processor milliseconds are those of all threads: on a busy machine they say more than the
clock.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.records import Detections
from diffps.search.nearest import nearest
from stages.finding.gallery_files import GalleryWriter, load_gallery
from stages.finding.segments import NamedFile

RESULTS = Path(__file__).parent / "results" / "search_scan.json"
TOP = 20
PART = 1 << 16  # rows of one file of a gallery
PLAIN = "float32 product (numpy), not ranked"


def gallery(rows: int, dimensions: int, people: int, seed: int = 0) -> NDArray[np.float16]:
    """Unit rows in half precision; made in parts, so that ten million fit."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, dimensions), np.float32)
    result = np.empty((rows, dimensions), np.float16)
    for start in range(0, rows, PART):
        part = rng.standard_normal((min(PART, rows - start), dimensions), np.float32)
        part += 1.5 * centres[rng.integers(0, people, len(part))]
        result[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return result


def exact_top(query: NDArray[np.float32], parts: list[NDArray[np.float16]]) -> NDArray[np.int64]:
    """The scan in float64 that the others are compared with."""
    unit = query.astype(np.float64)
    unit = np.rint(unit / np.linalg.norm(unit) * 2**24) / 2**24
    similarity = np.concatenate([part.astype(np.float64) @ unit for part in parts])
    return np.argsort(-similarity, kind="stable")[:TOP]


def ways(rows: NDArray[np.float16]) -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.int64] | None]]:
    """name -> what answers one query."""
    import faiss
    import torch
    from usearch.index import MetricKind, search

    threads = os.cpu_count() or 1
    faiss.omp_set_num_threads(threads)
    torch.set_num_threads(threads)
    parts = [rows[start : start + PART] for start in range(0, len(rows), PART)]
    single = rows.astype(np.float32)
    flat = faiss.IndexFlatIP(rows.shape[1])
    flat.add(single)
    half = faiss.IndexScalarQuantizer(rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    half.train(single[:1000])
    half.add(single)
    tensor = torch.from_numpy(single)

    def torch_topk(query: NDArray[np.float32]) -> NDArray[np.int64]:
        return torch.topk(tensor @ torch.from_numpy(query), TOP).indices.numpy()

    def product(query: NDArray[np.float32]) -> None:
        single @ query

    def partitioned(query: NDArray[np.float32]) -> NDArray[np.int64]:
        similarity = single @ query
        best = np.argpartition(-similarity, TOP)[:TOP]
        return best[np.argsort(-similarity[best], kind="stable")]

    def usearch_exact(query: NDArray[np.float32]) -> NDArray[np.int64]:
        found = search(rows, query.astype(np.float16), TOP, MetricKind.IP, exact=True, threads=threads)
        return found.keys.astype(np.int64)

    return {
        "ours, float16": lambda query: nearest(query[None], parts, TOP).rows[0],
        PLAIN: product,
        "float32 product and argpartition (numpy)": partitioned,
        "float32 product and topk (torch)": torch_topk,
        "faiss flat, float32": lambda query: flat.search(query[None], TOP)[1][0],
        "faiss flat, float16": lambda query: half.search(query[None], TOP)[1][0],
        "usearch exact, float16": usearch_exact,
    }


def compare(rows: NDArray[np.float16], queries: NDArray[np.float32], rounds: int) -> list[dict[str, Any]]:
    """A row per way: milliseconds a query, the ratio to the plain product in the same round, what it finds."""
    expected = [exact_top(query, [rows]) for query in queries]
    methods = ways(rows)
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    processor: dict[str, list[float]] = {name: [] for name in methods}
    agreement: dict[str, list[tuple[float, bool]]] = {name: [] for name in methods}
    rng = random.Random(0)
    for number in range(-1, rounds):  # the first is a warm-up
        for name in rng.sample(list(methods), len(methods)):
            for query, right in zip(queries, expected, strict=True):
                start, used = time.perf_counter(), time.process_time()
                found = methods[name](query)
                spent, used = time.perf_counter() - start, time.process_time() - used
                if number >= 0:
                    seconds[name].append(spent)
                    processor[name].append(used)
                if found is not None:
                    agreement[name].append((len(np.intersect1d(found, right)) / TOP, bool((found == right).all())))
    table = []
    for name, times in seconds.items():
        ratios = np.array(times) / np.array(seconds[PLAIN])
        work = np.array(processor[name]) / np.array(processor[PLAIN])
        row: dict[str, Any] = {
            "way": name,
            **quantiles(times),
            "times_plain": round(float(np.median(ratios)), 3),
            "processor_ms": round(1000 * float(np.median(processor[name])), 2),
            "processor_times_plain": round(float(np.median(work)), 3),
        }
        if agreement[name]:
            recalls, same = zip(*agreement[name], strict=True)
            row |= {"recall": round(float(np.mean(recalls)), 4), "same": round(float(np.mean(same)), 4)}
        table.append(row)
        print(row, flush=True)
    return table


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def quantiles(seconds: list[float]) -> dict[str, float]:
    found = np.quantile(np.array(seconds) * 1000, [0.5, 0.25, 0.75, 0.95]).tolist()
    return {name: round(value, 2) for name, value in zip(("ms", "q25", "q75", "p95"), found, strict=True)}


def write_parts(files: list[Path], rows: int, dimensions: int, people: int) -> None:
    """A gallery in files of PART rows: the same people everywhere, other numbers in each."""
    content = gallery(PART, dimensions, people)
    rng = np.random.default_rng(1)
    for number, file in enumerate(files):
        part = content[: min(PART, rows - number * PART)]
        part = part[rng.permutation(len(part))]
        np.roll(part, number, axis=1).tofile(file)


def mapped(folder: Path, rows: int, dimensions: int, people: int, asked: int) -> dict[str, Any]:
    """A gallery in files of PART rows: how long mapping takes, queries, and the memory of a process that only
    searches."""
    files = [folder / f"{number}" for number in range(-(-rows // PART))]
    writer = multiprocessing.get_context("spawn").Process(target=write_parts, args=(files, rows, dimensions, people))
    writer.start()
    writer.join()
    queries = np.fromfile(files[0], np.float16, asked * dimensions).reshape(asked, dimensions).astype(np.float32)
    start = time.perf_counter()
    parts = [np.memmap(file, np.float16, "r").reshape(-1, dimensions) for file in files]
    opened = time.perf_counter() - start
    nearest(queries[:1], parts, TOP)
    seconds, rankings = [], []
    for query in queries:
        start = time.perf_counter()
        rankings.append(nearest(query[None], parts, TOP).rows[0])
        seconds.append(time.perf_counter() - start)
    # Read before the plain scan, which needs more.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    same = [bool((found == exact_top(query, parts)).all()) for found, query in zip(rankings, queries, strict=True)]
    return {
        "rows": rows,
        "mapping_ms": round(1000 * opened, 1),
        **quantiles(seconds),
        "same": sum(same) / asked,
        "load": round(os.getloadavg()[0], 1),
        "bytes": rows * dimensions * 2,
        "own_memory_mb": int(status["RssAnon"].split()[0]) // 1024,
        "peak_resident_mb": int(status["VmHWM"].split()[0]) // 1024,  # with the mapped file's pages, all of them
    }


def loaded(folder: Path, rows: int, dimensions: int) -> dict[str, Any]:
    """A gallery as a search keeps it, five boxes an image: how long opening it takes, its bytes checked, from the page
    cache and from the disk."""
    rng = np.random.default_rng(0)
    boxes = np.tile(np.array([10, 20, 40, 90], np.float32), (5, 1))
    step = PART // 5 // 4
    with GalleryWriter(folder, "0" * 64, dimensions) as writer:
        for start in range(0, rows // 5, step):
            batch = []
            for number in range(start, min(start + step, rows // 5)):
                name = f"holiday/{number:07}.jpg"
                digest = hashlib.sha256(name.encode()).hexdigest()
                embeddings = rng.standard_normal((5, dimensions), np.float32)
                detections = Detections(boxes, np.ones(5, np.float32), embeddings)
                batch.append((NamedFile(name, digest, 3_000_000, number), (3000, 4000), detections))
            writer.append(batch)
    seconds: dict[str, list[float]] = {"warm": [], "cold": []}
    for _ in range(5):
        for state, times in seconds.items():
            if state == "cold":
                forget(folder.iterdir())
            start_time = time.perf_counter()
            gallery = load_gallery(folder).searched
            times.append(time.perf_counter() - start_time)
            assert len(gallery) == rows // 5 * 5
            del gallery
    return {"boxes": rows, "images": rows // 5, **{state: quantiles(times) for state, times in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000, help="rows of the gallery mapped from files")
    parser.add_argument("--dimensions", type=int, default=256)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--mapped", type=int, help="map so many rows here and print what it took")
    parser.add_argument("--loaded", type=int, help="open a gallery of so many boxes and print what it took")
    parser.add_argument("--folder", type=Path, help="where files are written; a temporary folder otherwise")
    options = parser.parse_args()
    if options.quick:
        options.rows, options.large, options.dimensions, options.rounds = 50_000, 100_000, 64, 2
    if options.mapped or options.loaded:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            if options.mapped:
                print(json.dumps(mapped(Path(folder), options.mapped, options.dimensions, 1000, options.queries)))
            else:
                print(json.dumps(loaded(Path(folder), options.loaded, options.dimensions)))
        return
    opened = alone("loaded", options.rows, options)
    large = [alone("mapped", rows, options) for rows in (options.rows, options.large)]
    rows = gallery(options.rows, options.dimensions, options.people)
    rng = np.random.default_rng(2)
    picked = rows[rng.integers(0, len(rows), options.queries)].astype(np.float32)
    queries = picked + 0.03 * rng.standard_normal(picked.shape, np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    table = compare(rows, queries.astype(np.float32), options.rounds)
    together = []
    for _ in range(options.rounds):
        start = time.perf_counter()
        nearest(queries, [rows], TOP)
        together.append(time.perf_counter() - start)
    content = {
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "load": os.getloadavg()[0],
            **{name: version(name) for name in ("numpy", "torch", "faiss-cpu", "usearch")},
        },
        "rows": options.rows,
        "dimensions": options.dimensions,
        "queries": options.queries,
        "rounds": options.rounds,
        "one_query": table,
        "all_queries_together": quantiles(together),
        "mapped": large,
        "opening_a_gallery": opened,
    }
    print(content["all_queries_together"], *large, opened, sep="\n")
    if not options.quick:
        RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def alone(what: str, rows: int, options: argparse.Namespace) -> dict[str, Any]:
    """In a process of its own, whose memory is its own."""
    command = [sys.executable, __file__, f"--{what}", str(rows), "--dimensions", str(options.dimensions)]
    command += ["--queries", str(options.queries)] + (["--folder", str(options.folder)] if options.folder else [])
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
