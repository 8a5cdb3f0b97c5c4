"""Training in bfloat16 and float16 beside float32 on a GPU: losses over 200 steps, seconds a step, scores.

    python benchmarks/precision_gpu.py             # needs a CUDA GPU
    python benchmarks/precision_gpu.py --steps 10  # fewer; with --device cpu every step of the script anywhere

Two heads on the demo's drawn scenes: the demo's own, and one of the paper's widths (C = 1024, a whole layer4 of
ResNet-50). Each is trained three times from the same first weights on the same batches; only ``train.precision``
differs. Losses are compared in windows, as a single step's loss is noise.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
PRECISIONS = ("float32", "bfloat16", "float16")
WIDE = ["model.channels=1024", "model.head_channels=2048", "model.head_blocks=3", "model.embedding.size=1024"]
HEADS = {"demo": [], "paper's widths": WIDE}
SCENES, BATCH = 200, 5
WINDOWS = 10


def main() -> None:
    """Train all of them, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/precision_gpu.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("precision_gpu.py: there is no CUDA GPU here, so nothing was measured")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else options.device,
        "torch": torch.__version__,
        "steps": options.steps,
    }
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)
        shutil.copy(ROOT / "presets/demo.yaml", "params.yaml")
        runtime = [f"runtime.device={options.device}", "extract.transcode=[]"]
        for stage in ("index", "encode", "extract"):
            diffps(stage, runtime)
        epochs = max(1, options.steps * BATCH // SCENES)
        scenes = min(SCENES, options.steps * BATCH)
        for name, changes in HEADS.items():
            train = [f"train.{change}" for change in changes]
            train += [f"train.epochs={epochs}", "train.milestones=[]", f"train.scenes={scenes}"]
            found[name] = compare(train, runtime)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


def compare(train: list[str], runtime: list[str]) -> dict[str, Any]:
    """One head in every precision: means of the loss by window, against float32's, seconds a step, scores."""
    rows: dict[str, Any] = {}
    for precision in PRECISIONS:
        shutil.rmtree("results", ignore_errors=True)
        diffps("train", [*train, f"train.precision={precision}", *runtime])
        diffps("evaluate", ["evaluate.baseline=false", "evaluate.knock_outs=false", *runtime])
        with Path("results/train/losses.csv").open(newline="") as file:
            losses = [float(row["total"]) for row in csv.DictReader(file)]
        trained = json.loads(Path("results/train/metrics.json").read_text())
        scores = json.loads(Path("results/evaluate/metrics.json").read_text())
        width = max(1, len(losses) // WINDOWS)
        rows[precision] = {
            "loss": [fmean(losses[start : start + width]) for start in range(0, len(losses), width)],
            "seconds_a_step": trained["seconds"] / trained["steps"],
            "map": scores["search"]["map"],
            "detection_ap": scores["detection"]["ap"],
        }
    exact = rows["float32"]["loss"]
    for row in rows.values():
        row["loss_against_float32"] = [loss / other for loss, other in zip(row["loss"], exact, strict=True)]
    return rows


def diffps(stage: str, changes: list[str]) -> None:
    """One command in a process of its own; what it says is shown where it fails."""
    given = [text for change in changes for text in ("--set", change)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", stage, *given], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{stage}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
