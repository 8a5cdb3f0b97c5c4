"""Bytes and error of every encoding, per tap: on features of a real UNet, on heavy-tailed and on spiked ones.

    python benchmarks/store_size.py --checkpoint builtin:streets   # trained; on drawn scenes: a minute or two
    python benchmarks/store_size.py --checkpoint builtin:streets --quick   # two scenes, no sizes, no files
    python benchmarks/store_size.py --checkpoint models/sd21-base --canvas 1280 --device cuda

Real: the stages index, encode and extract run below a temporary folder, in float32, features kept as float16.
Heavy-tailed: Student's t with three degrees of freedom. Spiked: normal, with four positions a hundred times as large.
Massive: a normal tensor, and each tap of a transformer block of the model itself, with two channels a thousand times
as large at every position (fixed), as large transformers have, or at every sixteenth position another one (moving);
their other channels are scored alone.
Sizes are those of real files at the canvas of 1280, errors those of
``cache.state_error`` on the second half of the images; a basis is fitted on the first. The built-in UNets are narrower
than Stable Diffusion's: there project:64 keeps the share of a tap's channels that 64 are in SD 2.1, so that it
compresses as much; the table says how many of how many.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from store_common import RESULTS, files_below, fill_store, specs

from cache import fit_basis, parse_encoding, state_error
from cache.encodings import BLOCK, Encoding, Project
from diffps.taps import standard_taps

ENCODINGS = ("float16", "int8", "bitround:7", "project:64")
SCENES = 8
SYNTHETIC = ("heavy-tailed", "spiked")
MASSIVE = ("massive fixed", "massive moving")
FIXED = [7, 11]  # channels
LARGE = 50  # standard deviations; no usual value is


def real_features(
    checkpoint: str, canvas: int, device: str, folder: Path, scenes: int
) -> dict[str, NDArray[np.float32]]:
    """tap -> (images, H, W, C) of ``scenes`` drawn scenes."""
    from dataclasses import replace

    from pipeline.config import load_params
    from stages import encode, extract, index
    from stages.features.opening import open_store
    from stages.job import QuietJob

    here = Path.cwd()
    changes = [
        f"index.streets.train_scenes={max(SCENES, scenes)}",
        f"index.streets.test_scenes={SCENES}",
        "index.streets.train_identities=8",
        "index.streets.test_identities=8",
        f"encode.canvas=[{canvas}, {canvas}]",
        "encode.views=[identity]",
        "train.flip=feature",
        f"encode.checkpoint={checkpoint}",
        "extract.encoding=float16",
    ]
    params, runtime = load_params(here / "presets/demo.yaml", changes)
    os.chdir(folder)
    try:
        for stage in (index, encode, extract):
            stage.run(params, replace(runtime, device=device), QuietJob())
        store = open_store(runtime.store)
        arrays = [s for s in store.arrays() if s.group.split == "train" and s.name.endswith("@float16")]
        reader = store.reader(arrays)
        names = [name for name, _ in sorted(store.rows("train").scenes.items())][:scenes]
        return {a.name[:-8]: np.stack([reader.read_float(name, a.name) for name in names]) for a in arrays}
    finally:
        os.chdir(here)


def synthetic(kind: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    shape = (2, 80, 80, 320)
    if kind == "heavy-tailed":
        return rng.standard_t(3, shape).astype(np.float32)
    x = rng.standard_normal(shape, np.float32)
    x[:, [5, 20, 50, 70], [10, 40, 60, 3]] *= 100
    return x


def massive(x: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """``x`` in standard deviations, with a few values a thousand times as large."""
    rng = np.random.default_rng(0)
    x = x / x.std()
    if kind == "massive fixed":
        x[..., FIXED] *= 1000
    else:
        rows = x.reshape(-1, x.shape[-1])
        places = np.arange(0, len(rows), 16)
        rows[places, rng.integers(0, x.shape[-1], len(places))] *= 1000
    return x


def others_error(x: NDArray[np.float32], encoding: Encoding) -> float:
    """Median relative error of a position over the values that are not massive."""
    found = encoding.decode(encoding.encode(x))
    usual = np.abs(x) < LARGE
    usual[..., FIXED] = False
    error = np.linalg.norm(np.where(usual, found - x, 0), axis=-1)
    return float(np.median(error / np.linalg.norm(np.where(usual, x, 0), axis=-1)))


def complete(name: str, tap: str, x: NDArray[np.float32]) -> Encoding:
    """The encoding of ``tap``, its basis fitted on ``x`` and as wide as the tap's share of SD 2.1's channels allows."""
    encoding = parse_encoding(name)
    if not isinstance(encoding, Project):
        return encoding
    channels, table = x.shape[-1], standard_taps()
    standard = table[tap].channels if tap in table else channels
    kept = min(channels, max(1, round(encoding.k * channels / standard)))
    return Project(kept, fit_basis(x.reshape(-1, channels)[::4], kept))


def one_scale_per_channel(x: NDArray[np.float32]) -> dict[str, float]:
    """What int8 would lose without blocks: for comparison."""
    rows = x.reshape(len(x), -1, x.shape[-1])
    scale = (np.abs(rows).max(1, keepdims=True) / 127).astype(np.float16).astype(np.float32)
    found = np.rint(rows / np.maximum(scale, 1e-12)).clip(-127, 127) * scale
    norm = np.linalg.norm(rows, axis=-1)
    error = np.linalg.norm(found - rows, axis=-1)
    return {
        "relative_l2": float(np.linalg.norm(found - rows) / np.linalg.norm(rows)),
        "location_median": float(np.median(error[norm > 0] / norm[norm > 0])),
    }


def sizes(folder: Path) -> dict[str, float]:
    """Bytes of the seven taps at canvas 1280 in each encoding, as files, against float16."""
    found = {}
    for name in ENCODINGS:
        if name.startswith("project"):
            from cache.budget import Budget, PlannedArray

            found[name] = Budget(arrays=[PlannedArray(s, 16) for s in specs(1280, name)], shard=16).nbytes / 16
            continue
        fill_store(folder / name.replace(":", ""), 1280, name, 2)
        found[name] = sum(p.stat().st_size for p in files_below(folder / name.replace(":", "") / "features.zarr")) / 2
    return {name: size / found["float16"] for name, size in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default="builtin:random")
    parser.add_argument("--canvas", type=int, default=256)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    from dataclasses import asdict

    with tempfile.TemporaryDirectory() as folder:
        scenes = 2 if arguments.quick else SCENES
        features = real_features(arguments.checkpoint, arguments.canvas, arguments.device, Path(folder), scenes)
        normal = np.random.default_rng(1).standard_normal((2, 80, 80, 320), np.float32)
        plain = {"normal": normal, **{tap: x for tap, x in features.items() if "vit-block" in tap}}
        features |= {kind: synthetic(kind) for kind in SYNTHETIC}
        features |= {f"{tap}, {kind}": massive(x, kind) for tap, x in plain.items() for kind in MASSIVE}
        rows: list[dict[str, Any]] = []
        for tap, images in features.items():
            fitted, x = images[: len(images) // 2], images[len(images) // 2 :]
            of = {"tap": tap, "channels": x.shape[-1]}
            for name in ENCODINGS:
                encoding = complete(name, tap.partition(",")[0], fitted)
                kept = encoding.stored_channels(x.shape[-1])
                row = {**of, "kept": kept, "encoding": name, **asdict(state_error(x, encoding))}
                if tap.endswith(MASSIVE):
                    row["others_median"] = others_error(x, encoding)
                rows.append(row)
            one = one_scale_per_channel(x)
            rows.append({**of, "kept": x.shape[-1], "encoding": "int8, one scale a channel", **one})
        shares = {} if arguments.quick else sizes(Path(folder))
    for row in rows:
        values = "  ".join(f"{key} {value:.4f}" for key, value in row.items() if isinstance(value, float))
        channels = f"{row['kept']} of {row['channels']}"
        print(f"{row['tap']:52} {row['encoding']:26} {channels:>12}  {values}")
    if arguments.quick:
        return
    print("bytes at canvas 1280 against float16 (random features, which do not compress):")
    print("  " + ", ".join(f"{name} {share:.4f}" for name, share in shares.items()))
    RESULTS.mkdir(exist_ok=True)
    facts = {"checkpoint": arguments.checkpoint, "canvas": arguments.canvas, "scenes": SCENES, "block": BLOCK}
    name = "store_size_" + arguments.checkpoint.replace(":", "_").replace("/", "_")
    content = {**facts, "size_against_float16": shares, "errors": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    _picture(rows, name)


def _picture(rows: list[dict[str, Any]], name: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    taps = list(dict.fromkeys(row["tap"] for row in rows))
    kinds = list(dict.fromkeys(row["encoding"] for row in rows))
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(taps) + 1.5), layout="constrained")
    for kind in kinds:
        there = [row for row in rows if row["encoding"] == kind]
        axis.plot([row["location_median"] for row in there], [taps.index(row["tap"]) for row in there], "o", label=kind)
    axis.set(xscale="symlog", xlabel="median relative error of a location", yticks=range(len(taps)), yticklabels=taps)
    axis.set_xscale("symlog", linthresh=1e-4)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    figure.savefig(RESULTS / f"{name}.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
