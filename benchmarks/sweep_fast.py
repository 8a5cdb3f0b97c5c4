"""Does a smaller setting rank ablations as the full one does? Measured on the demo's data.

The full setting is the demo's; the fast one shrinks it as presets/fast.yaml shrinks PRW's: half the canvas, a quarter
of the channels, about a quarter of the frames and a third of the epochs, mirrored features instead of a cached view.
Both train the module ablations and score them on the same gallery; Kendall's tau compares the orders.
"""

import argparse
import csv
import tempfile
import time
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau
from training_common import ROOT, make_project, write

from stages import sweep
from stages.job import QuietJob

SHARED = {"sweep.file": str(ROOT / "presets" / "sweeps" / "modules.yaml"), "index.streets.test_scenes": 40}


def scores(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Sweep in ``folder``; scores by variant and the seconds of the sweep, features made before."""
    params = make_project(folder, SHARED | changes)
    began = time.perf_counter()
    sweep.run(params, QuietJob(params.runtime))
    seconds = time.perf_counter() - began
    with Path("results/sweep/table.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    kept = ("map", "top1", "detection_ap", "map_diff_se")
    return {"seconds": seconds, "variants": {name: {key: row[key] for key in kept} for name, row in rows.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60, help="training scenes of the full setting")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of the full setting")
    options = parser.parse_args()
    full = {
        "index.streets.train_scenes": options.scenes,
        "encode.views": ["identity", "hflip"],
        "train.flip": "cached",
        "train.epochs": options.epochs,
    }
    fast = {
        "index.streets.train_scenes": options.scenes,
        "encode.canvas": [128, 128],
        "train.flip": "feature",
        "train.scenes": max(4, options.scenes // 4),
        "train.epochs": max(1, options.epochs // 3),
        "train.milestones": [],
        "train.model.channels": 16,
        "train.model.head_channels": 32,
        "train.model.embedding.size": 32,
        "train.model.rpn.anchor_sizes": [8, 16, 32, 64, 96],
        "train.model.dgrpn.delta": 1.0,
    }
    with tempfile.TemporaryDirectory() as temporary:
        found = {name: scores(Path(temporary) / name, c) for name, c in (("full", full), ("fast", fast))}
    agreement = {}
    for score in ("map", "top1", "detection_ap"):
        columns = [[float(row[score]) for row in setting["variants"].values()] for setting in found.values()]
        tau = kendalltau(*columns)
        agreement[score] = {"kendall_tau": float(tau.statistic), "p": float(tau.pvalue)}
    write("sweep_fast", {"agreement": agreement, **found})


if __name__ == "__main__":
    main()
