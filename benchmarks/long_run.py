"""Memory and open files of encode, extract and evaluate over thousands of images: flat, or growing with every image?

Tiny JPEGs, each another file, in the layout of one's own photographs; a checkpoint of sixteen channels on a canvas of
64. Every command is a process of its own, looked at four times a second through /proc.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
STAGES = ("index", "encode", "extract", "train", "evaluate")
TAPS = {
    "detection": "up-level1-repeat0-vit-block0-self-k",
    "guidance": "up-level1-repeat0-vit-block0-cross-map.person",
    "level1": ["up-level1-repeat0-vit-block0-self-k"],
    "level2": ["up-level0-repeat1-res-out"],
    "level3": ["down-level1-repeat0-vit-out"],
}
KEPT = sorted({name.removesuffix(".person") for name in (*TAPS["level1"], *TAPS["level2"], *TAPS["level3"])})
SAMPLE_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--keep", action="store_true", help="write the numbers and the picture to results/")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_project(Path(folder), arguments.images)
        samples = {stage: watch(stage, Path(folder)) for stage in STAGES}
    content = {"images": arguments.images, "stages": {stage: summary(found) for stage, found in samples.items()}}
    print(json.dumps(content, indent=1))
    if arguments.keep:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "long_run.json").write_text(json.dumps(content, indent=1) + "\n")
        draw(samples, RESULTS / "long_run.png")


def make_project(folder: Path, images: int) -> None:
    """Photographs, a table of boxes, a checkpoint and parameters."""
    from diffps.backbone.builtin.topology import Widths, make_random

    (folder / "own/images").mkdir(parents=True)
    lines = ["split,image,x,y,w,h,person"]
    for number in range(images):
        name = f"{number:05}.jpg"
        picture = Image.new("RGB", (96, 96), (number % 251, number % 241, number % 239))
        picture.save(folder / "own/images" / name, comment=name.encode())
        split = "train" if number % 50 == 0 else "test"
        lines.append(f"{split},{name},20,10,30,70,p{number % 40}")
    (folder / "own/persons.csv").write_text("\n".join(lines) + "\n")
    make_random(folder / "models/tiny", Widths(unet=(16, 16, 16, 16), heads=(1, 1, 1, 1), text=16))
    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    raw["index"] = {"dataset": "folder", "root": "own", "tolerate": 1.0}
    raw["encode"] |= {"checkpoint": "models/tiny", "canvas": [64, 64]}
    raw["extract"] |= {"taps": [*KEPT, "up-level1-repeat0-vit-block0-cross-map"]}
    raw["train"] |= {"taps": TAPS, "epochs": 1, "milestones": [], "batch": 5}
    raw["train"]["model"] |= {"channels": 16, "head_channels": 32, "head_weights": "random", "embedding": {"size": 24}}
    raw["evaluate"] |= {"baseline": False, "score_threshold": 0.0}
    raw["runtime"] = {"device": "cpu", "threads": 1, "batch": 16, "vae_batch": 16}
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(raw, file)


def watch(stage: str, folder: Path) -> list[tuple[float, int, int]]:
    """(seconds, resident bytes, open files) of a command from its start to its end."""
    command = [sys.executable, "-m", "pipeline", stage]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    began, found = time.monotonic(), []
    place = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        try:
            resident = int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            found.append((time.monotonic() - began, resident, len(list((place / "fd").iterdir()))))
        except (OSError, IndexError):
            break
        time.sleep(SAMPLE_SECONDS)
    _, told = process.communicate()
    if process.returncode:
        sys.exit(f"{stage} failed:\n{told[-2000:]}")
    return found


def summary(samples: list[tuple[float, int, int]]) -> dict[str, Any]:
    """Medians of the second and of the last quarter of a run, when the model is loaded: the growth is between them."""
    quarter = max(len(samples) // 4, 1)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    found: dict[str, Any] = {"seconds": round(samples[-1][0], 1), "samples": len(samples)}
    for column, name, unit in ((1, "resident_mb", 1e6), (2, "open_files", 1)):
        found[name] = [round(statistics.median(sample[column] for sample in part) / unit, 1) for part in (second, last)]
        found[f"most_{name}"] = round(max(sample[column] for sample in samples) / unit, 1)
    return found


def draw(samples: dict[str, list[tuple[float, int, int]]], path: Path) -> None:
    """Memory above, open files below, by share of each command's time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, files) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 5), layout="constrained")
    for stage, found in samples.items():
        seconds, resident, opened = np.array(found).T
        memory.plot(seconds / seconds[-1], resident / 1e6, label=stage)
        files.plot(seconds / seconds[-1], opened)
    memory.set_ylabel("resident MB")
    memory.legend(frameon=False, ncols=len(samples), fontsize=8)
    files.set_ylabel("open files")
    files.set_xlabel("share of the command's time")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
