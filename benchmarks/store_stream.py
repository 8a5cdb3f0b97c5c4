"""Streaming a store that memory does not hold: the ring beside the best that plain reads make of the same disk.

    python benchmarks/store_stream.py --folder DIR    # canvas 1280, 48 images: 26 GB below DIR, kept; half an hour
    python benchmarks/store_stream.py --quick         # canvas 256, 20 images: seconds, nothing is written

Batches of five images of seven taps, dropped from the page cache before each turn so that nothing is read that lies in
memory; ways take turns in an order drawn anew each round. ``plain`` reads as many bytes, one file an image, into reused
memory with ``preadv``, with and without asking for the whole file first, in 1, 2, 4 and 8 threads: the disk's best is
that of these eight whose median is best. The ring verifies every checksum. ``ring`` reads a store that memory does not
hold: it has found out whether the way past the page cache or through it is faster. Each of the two is there as well,
with 8 threads, and ``as it was``: through it, with two. ``its pieces`` reads the ranges that the ring reads, both ways
in 8 threads, with nothing done to them: what the ring could reach at most with these files. ``computing``: the consumer
sleeps after each batch as long as the disk's best takes to read one, as a head on a GPU would; what it waits beyond
that is lost, looked at from an empty ring on, so that nothing read ahead flatters it. ``beside another``: a second
process streams other images. ``slow disk``: a limit of the kernel's (cgroup blkio) on bytes a second. Other ways
(``peers``) take part in a quarter of the rounds: some take a minute each.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from store_common import RESULTS, TAPS, files_below, fill_npy, fill_store, forget, specs
from store_read import zarr_python
from stream_peers import (
    LITDATA,
    STREAMING,
    fill_litdata,
    fill_streaming,
    litdata,
    np_load,
    streaming,
    tensorstore,
)
from stream_ways import BATCH, Way, at_once, images_of, pieces, plain_ways, ring, streams, waited

SLOW = 300_000_000  # bytes a second
TITLES = ("random", "sequential", "computing", "beside another", "slow disk", "peers")
ENCODINGS = ("float16", "int8")
RINGS: dict[str, dict[str, Any]] = {
    "ring": {"settled": True},
    "ring, past the cache": {},
    "ring, through it": {"room": 1 << 62, "threads": 8},
    "ring, as it was": {"room": 1 << 62, "threads": 2},
}
Found = dict[str, list[tuple[float, float]]]  # way -> (seconds, processor seconds) per image of each round


def in_turns(
    ways: Mapping[str, Way], count: int, share: int, rounds: int, files: Sequence[Path], *, shuffled: bool = True
) -> Found:
    """With nothing in the page cache before each turn."""
    rng = Random(0)
    found: Found = {way: [] for way in ways}
    for _ in range(rounds):
        for way in rng.sample(list(ways), len(ways)):
            start = rng.randrange(count - share + 1)
            images = rng.sample(range(count), share) if shuffled else list(range(start, start + share))
            work = ways[way](images)
            forget(files)
            begun, processor = time.perf_counter(), time.process_time()
            work()
            found[way].append(((time.perf_counter() - begun) / share, (time.process_time() - processor) / share))
    return found


def table(found: Found, nbytes: int) -> dict[str, Any]:
    """Rows of ms and GB/s; the disk's best; the ring's share of it in the same rounds."""
    best = min((way for way in found if way.startswith("plain")), key=lambda way: np.median(np.array(found[way])[:, 0]))
    reference = np.array(found[best])
    rows = {}
    for way, pairs in found.items():
        seconds, processor = np.array(pairs).T
        rows[way] = {
            "ms": spread(1000 * seconds),
            "processor_ms": spread(1000 * processor),
            "share_of_best": spread(reference[:, 0] / seconds),
            "gb_per_s": round(nbytes / float(np.median(seconds)) / 1e9, 2),
        }
    return {"bytes": nbytes, "rounds": len(reference), "best": best, "ways": rows}


def spread(values: Any) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(median), 3), "q25": round(float(low), 3), "q75": round(float(high), 3)}


@contextmanager
def slow_disk(folder: Path) -> Iterator[bool]:
    """This process reads ``SLOW`` bytes a second at most; false where the kernel has no such limit to give."""
    group = Path("/sys/fs/cgroup/blkio/stream")
    device = folder.stat().st_dev
    try:
        group.mkdir(exist_ok=True)
        (group / "blkio.throttle.read_bps_device").write_text(f"{os.major(device)}:{os.minor(device)} {SLOW}")
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError as error:
        print(f"no slow disk here: {error}")
        yield False
        return
    try:
        yield True
    finally:
        (group.parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


@contextmanager
def another(root: Path, canvas: int) -> Iterator[None]:
    """A second process that streams without end."""
    command = [sys.executable, __file__, "--forever", str(canvas), "--folder", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def forever(root: Path, canvas: int) -> None:
    count = images_of(canvas)
    ready, rng, files = ring(root, canvas, "float16"), Random(7), files_below(root / "store")
    print("begun", flush=True)
    while True:
        forget(files)
        ready(rng.sample(range(count), 10))()


def fill(root: Path, canvas: int, count: int) -> None:
    if (root / "done").exists():
        return
    for encoding in ("float16", "int8"):
        fill_store(root / "store", canvas, encoding, count)
        fill_streaming(root / f"streaming-{encoding}", canvas, encoding, count)
        fill_litdata(root / f"litdata-{encoding}", canvas, encoding, count)
    fill_npy(root / "npy", canvas, count)
    (root / "plain").mkdir(exist_ok=True)
    size = image_bytes(canvas, "float16")
    rng = np.random.default_rng(0)
    for i in range(count):
        (root / "plain" / f"{i:04}").write_bytes(rng.bytes(size))
    os.sync()
    (root / "done").touch()


def image_bytes(canvas: int, encoding: str) -> int:
    return sum(spec.image_bytes for spec in specs(canvas, encoding))


@dataclass(frozen=True)
class Disk:
    """What is measured: ``share`` of ``count`` images a turn, ``files`` out of the page cache before it."""

    root: Path
    canvas: int
    count: int
    share: int
    rounds: int
    files: Sequence[Path]

    def measure(self, title: str, encoding: str) -> dict[str, Any]:
        nbytes = image_bytes(self.canvas, encoding)
        plains = plain_ways(self.root, nbytes)
        rings = self.rings(encoding)
        few = {way: plains[way] for way in ("plain, 2 threads, asked", "plain, 8 threads", "plain, 8 threads, asked")}
        ranges = {
            f"its pieces, {'past' if direct else 'through'} the cache": pieces(self.root, self.canvas, encoding, direct)
            for direct in (True, False)
        }
        floats = {"ring, to float32": ring(self.root, self.canvas, encoding, settled=True, output="float32")}
        with contextlib.ExitStack() as stack:
            if title == "beside another":
                stack.enter_context(another(self.root, self.canvas))
            if title == "slow disk" and not stack.enter_context(slow_disk(self.root)):
                return {}
            ways = {"random": rings | ranges | floats | plains, "peers": rings | few | self.peers(encoding)}.get(
                title, rings | ranges | few
            )
            rounds = {"peers": max(1, self.rounds // 4), "slow disk": max(1, self.rounds // 2)}.get(title, self.rounds)
            found = table(self.turns(ways, rounds, shuffled=title != "sequential"), nbytes)
        if title == "computing":
            found |= self.lost(encoding, found["ways"][found["best"]]["ms"]["median"] / 1000)
        print(f"\n{title}, {encoding}: the disk's best is {found['best']} {found.get('lost', '')}")
        for way, row in found["ways"].items():
            print(
                f"  {way:32} {row['ms']['median']:8.1f} ms {row['gb_per_s']:6.2f} GB/s "
                f"{row['share_of_best']['median']:6.2f} processor {row['processor_ms']['median']:7.1f} ms",
                flush=True,
            )
        return found

    def turns(
        self, ways: Mapping[str, Way], rounds: int, shuffled: bool = True
    ) -> dict[str, list[tuple[float, float]]]:
        return in_turns(ways, self.count, self.share, rounds, self.files, shuffled=shuffled)

    def rings(self, encoding: str) -> dict[str, Way]:
        return {way: ring(self.root, self.canvas, encoding, **options) for way, options in RINGS.items()}

    def lost(self, encoding: str, image_seconds: float) -> dict[str, Any]:
        """Share of the time in which a consumer waits that is as fast as the disk's best."""
        pause, rng = BATCH * image_seconds, Random(0)
        made = {way: streams(self.root, self.canvas, encoding, **options) for way, options in RINGS.items()}
        found: dict[str, list[float]] = {way: [] for way in made}
        for _ in range(self.rounds):
            for way in rng.sample(list(made), len(made)):
                slots = made[way](rng.sample(range(self.count), self.count // BATCH * BATCH))
                forget(self.files)
                found[way].append(waited(slots, pause))
        return {"pause_ms": round(1000 * pause, 1), "lost": {way: spread(shares) for way, shares in found.items()}}

    def peers(self, encoding: str) -> dict[str, Way]:
        ways: dict[str, Callable[[Sequence[int]], None] | None] = {
            "zarr-python": zarr_python(self.root / "store", self.canvas, encoding),
            "tensorstore": tensorstore(self.root / "store", self.canvas, encoding),
            STREAMING: streaming(self.root / f"streaming-{encoding}", BATCH),
            LITDATA: litdata(self.root / f"litdata-{encoding}", BATCH),
        }
        if encoding == "float16":
            ways |= {f"np.load per tap, {n} threads": np_load(self.root / "npy", n) for n in (2, 8)}
        return {name: at_once(way) for name, way in ways.items() if way is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the data goes: the disk to measure")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--only", choices=TITLES)
    parser.add_argument("--forever", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    canvas, share = (256, 10) if arguments.quick else (1280, 15)
    count = images_of(canvas)
    with tempfile.TemporaryDirectory() as scratch:
        root = arguments.folder or Path(scratch)
        if arguments.forever:
            forever(root, arguments.forever)
        fill(root, canvas, count)
        rounds = 2 if arguments.quick else arguments.rounds
        disk = Disk(root, canvas, count, share, rounds, files_below(root))
        titles = (arguments.only,) if arguments.only else TITLES
        results = {title: {encoding: disk.measure(title, encoding) for encoding in ENCODINGS} for title in titles}
        if not arguments.quick:
            write(results, {"canvas": canvas, "images": count, "batch": BATCH, "taps": len(TAPS)})


def write(results: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Into results/store_stream.json; what an earlier run measured of other titles stays."""
    path = RESULTS / "store_stream.json"
    before = json.loads(path.read_text()) if path.exists() else {}
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
    path.write_text(json.dumps(before | {"machine": machine, **facts, **results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
