"""What the store's benchmarks share: the seven taps at real size on disk in every format, fair rounds, results."""

import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import ArraySpec, FeatureStore, GroupKey, fingerprint, parse_encoding, tap_name

RESULTS = Path(__file__).parent / "results"
UP3, UP2, UP1 = "up-level3", "up-level2", "up-level1"
# What DiffPS reads on Stable Diffusion 2.1: stride of the grid on the canvas, channels.
TAPS = {
    f"{UP3}-repeat1-vit-block0-self-k": (8, 320),
    f"{UP3}-repeat0-vit-block0-self-v": (8, 320),
    f"{UP3}-repeat0-vit-block0-self-k": (8, 320),
    f"{UP3}-repeat0-vit-block0-self-q": (8, 320),
    f"{UP2}-repeat2-vit-block0-self-q": (16, 640),
    f"{UP2}-repeat1-vit-block0-self-v": (16, 640),
    f"{UP1}-repeat2-vit-block0-self-q": (32, 1280),
}
Image = dict[str, NDArray[np.float16]]
Work = Callable[[Sequence[int]], None]  # do it for these images


def specs(canvas: int, encoding: str) -> list[ArraySpec]:
    """The taps' arrays under one encoding, in a group of their own."""
    recipe = {"benchmark": encoding}
    group = GroupKey("train", "identity", fingerprint(recipe), 0)
    parsed = parse_encoding(encoding)
    return [
        ArraySpec(group, tap_name(tap, parsed), (canvas // stride, canvas // stride, channels), parsed, recipe)
        for tap, (stride, channels) in TAPS.items()
    ]


def scene(i: int) -> str:
    return f"{i:04}.jpg"


class Images:
    """Image i of a fixed random set: no two alike, made in milliseconds. ``image(i)``: tap -> (H, W, C) float16."""

    def __init__(self, canvas: int) -> None:
        rng = np.random.default_rng(0)
        self._base = {
            tap: rng.standard_normal((canvas // stride, canvas // stride, channels), np.float32).astype(np.float16)
            for tap, (stride, channels) in TAPS.items()
        }

    def image(self, i: int) -> Image:
        return {tap: np.roll(x, i, 1) for tap, x in self._base.items()}


def fill_store(root: Path, canvas: int, encoding: str, count: int) -> None:
    """``count`` images through the store's own writer."""
    store, arrays, source = FeatureStore(root), specs(canvas, encoding), Images(canvas)
    rows = [(scene(i), f"digest {i}") for i in range(count)]
    with store.writer(arrays, rows) as writer:
        for task in writer.pending():
            with writer.shard(task) as sink:
                for row in task.rows:
                    image = source.image(row)
                    sink.append({spec.name: image[spec.name.partition("@")[0]] for spec in task.specs})


def fill_npy(root: Path, canvas: int, count: int) -> None:
    """One file per image and tap: what the reference extractor writes."""
    source = Images(canvas)
    for i in range(count):
        folder = root / f"{i:04}"
        folder.mkdir(parents=True, exist_ok=True)
        for tap, x in source.image(i).items():
            np.save(folder / f"{tap}.npy", x)


def fill_safetensors(root: Path, canvas: int, count: int) -> None:
    """One file per image; also what plain ``preadv`` reads, as it is one piece."""
    from safetensors.numpy import save_file

    root.mkdir(parents=True, exist_ok=True)
    source = Images(canvas)
    for i in range(count):
        save_file(source.image(i), root / f"{i:04}.safetensors")


def files_below(*roots: Path) -> list[Path]:
    return [path for root in roots for path in root.rglob("*") if path.is_file()]


def forget(paths: Iterable[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def warm_up(paths: Iterable[Path]) -> None:
    """Bring files into the page cache."""
    for path in paths:
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def in_threads(work: Work, threads: int) -> Work:
    """The same work on images dealt out to ``threads`` threads."""
    if threads == 1:
        return work

    def run(images: Sequence[int]) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, [images[start::threads] for start in range(threads)]))

    return run


def take_turns(
    ways: Mapping[str, Work],
    images: Sequence[int],
    rounds: int,
    before: Callable[[str], None] = lambda way: None,
    share: int | None = None,
) -> dict[str, list[float]]:
    """Seconds per image of each way, once a round, in an order and over images shuffled anew each round.

    ``share``: only so many of the images in a round, drawn anew."""
    rng = random.Random(0)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in rng.sample(list(ways), len(ways)):
            order = rng.sample(images, share or len(images))
            before(way)
            start = time.perf_counter()
            ways[way](order)
            seconds[way].append((time.perf_counter() - start) / len(order))
    return seconds


def summarise(
    seconds: Mapping[str, list[float]], reference: str, image_bytes: Mapping[str, float]
) -> list[dict[str, Any]]:
    """A row per way: median and quartiles of milliseconds an image, of the ratio to ``reference`` in the same round,
    GB/s of its own bytes."""
    rows = []
    for way, times in seconds.items():
        ratios = [mine / theirs for mine, theirs in zip(times, seconds[reference], strict=True)]
        rows.append(
            {
                "way": way,
                "ms": _spread([1000 * t for t in times]),
                f"times_{reference}": _spread(ratios),
                "gb_per_s": round(image_bytes[way] / statistics.median(times) / 1e9, 3),
            }
        )
    return rows


def _spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(median), 4), "q25": round(float(low), 4), "q75": round(float(high), 4)}


def report(name: str, tables: Mapping[str, list[dict[str, Any]]], facts: Mapping[str, Any], reference: str) -> None:
    """Print the tables; with a ``name`` also write ``results/<name>.json`` and a picture of the ratios."""
    key = f"times_{reference}"
    for title, rows in tables.items():
        print(f"\n{title}")
        for row in rows:
            times = f"{row['ms']['median']:9.2f} ms  x{row[key]['median']:.2f}"
            print(f"  {row['way']:42} {times}  {row['gb_per_s']:.2f} GB/s")
    if name:
        RESULTS.mkdir(exist_ok=True)
        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}
        content = {"machine": machine, **facts, "tables": tables}
        (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
        _picture(RESULTS / f"{name}.png", tables, reference)


def _picture(path: Path, tables: Mapping[str, list[dict[str, Any]]], reference: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    key = f"times_{reference}"
    figure, axes = plt.subplots(1, len(tables), figsize=(1 + 5 * len(tables), 4), squeeze=False, layout="constrained")
    for axis, (title, rows) in zip(axes[0], tables.items(), strict=True):
        medians = np.array([row[key]["median"] for row in rows])
        spread = np.abs(np.array([[row[key]["q25"], row[key]["q75"]] for row in rows]).T - medians)
        axis.barh([row["way"] for row in rows], medians, xerr=spread, color="#4c78a8")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.invert_yaxis()
        axis.set(title=title, xlabel=f"time, {reference} = 1")
    figure.savefig(path, dpi=110)
    plt.close(figure)
