"""Does a smaller setting rank ablations as the full one does? Measured on the demo's data.

The full setting is the demo's, with fewer frames; the fast one shrinks it as presets/fast.yaml shrinks PRW's, as far as
heads still learn in it: three quarters of the canvas, half the channels and frames, mirrored features instead of a
cached view; as many steps, since a hundred are none to save. Both train the module and the tap ablations and score them
on the same gallery. Kendall's tau compares the orders, over all pairs and over those that the full setting tells apart
by two standard errors. How far two orders can agree at all is shown by the full setting with another seed; what the
smaller canvas costs, by a fast setting without it.
"""

import argparse
import csv
import tempfile
import time
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau
from training_common import ROOT, make_project, write

from stages import sweep
from stages.job import QuietJob, Runtime
from stages.params import override

SWEEPS = ("modules", "taps")
SHARED = {
    "index.streets.train_identities": 48,
    "index.streets.test_identities": 64,
    "index.streets.test_scenes": 120,
    "train.batch": 5,
}


RUNTIME = Runtime(threads=1)


def scores(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Sweep in ``folder``; scores by variant and the seconds of the sweeps, features made before."""
    params = make_project(folder, SHARED | changes, RUNTIME)
    seconds, variants = 0.0, {}
    for name in SWEEPS:
        file = str(ROOT / "presets" / "sweeps" / f"{name}.yaml")
        began = time.perf_counter()
        sweep.run(override(params, {"sweep.file": file}, "benchmark"), RUNTIME, QuietJob())
        seconds += time.perf_counter() - began
        with Path("results/sweep/table.csv").open() as rows:
            for row in csv.DictReader(rows):
                if (name, row["variant"]) == ("taps", "paper"):
                    continue  # the head that the other sweep calls full
                kept = ("map", "top1", "detection_ap", "map_diff_se")
                variants[f"{name}: {row['variant']}"] = {key: float(row[key] or 0) for key in kept}
    return {"seconds": seconds, "variants": variants}


def agreement(full: dict[str, Any], fast: dict[str, Any], score: str) -> dict[str, float]:
    """Kendall's tau over all variants; share of the clearly different pairs that both settings order alike."""
    columns = [[row[score] for row in setting["variants"].values()] for setting in (full, fast)]
    tau = kendalltau(*columns)
    errors = [row["map_diff_se"] for row in full["variants"].values()]
    alike = clear = 0
    for i, j in combinations(range(len(errors)), 2):
        difference = columns[0][i] - columns[0][j]
        if score == "map" and abs(difference) > 2 * max(errors[i], errors[j]):
            clear += 1
            alike += difference * (columns[1][i] - columns[1][j]) > 0
    found = {"kendall_tau": float(tau.statistic), "p": float(tau.pvalue)}
    return found | ({"clear_pairs": clear, "of_them_ordered_alike": alike} if score == "map" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=100, help="training scenes of the full setting")
    parser.add_argument("--epochs", type=int, default=5, help="of the full setting; the fast one has two for each")
    options = parser.parse_args()
    full = {
        "index.streets.train_scenes": options.scenes,
        "encode.views": ["identity", "hflip"],
        "train.flip": "cached",
        "train.epochs": options.epochs,
        "train.milestones": [options.epochs - 1],
    }
    fast = {
        "index.streets.train_scenes": options.scenes,
        "train.flip": "feature",
        "train.scenes": options.scenes // 2,
        "train.epochs": 2 * options.epochs,
        "train.milestones": [2 * options.epochs - 2],
        "train.model.channels": 32,
        "train.model.head_channels": 64,
        "train.model.embedding.size": 64,
    }
    smaller_images = {
        "encode.canvas": [192, 192],
        "train.model.rpn.anchor_sizes": [15, 24, 36, 54, 75],
        "train.model.dgrpn.delta": 1.5,
    }
    settings = {
        "full": full,
        "other seed": full | {"train.seed": 2, "train.data_seed": 2},
        "fast": fast | smaller_images,
        "fast, same canvas": fast,
    }
    with tempfile.TemporaryDirectory() as temporary:
        found = {name: scores(Path(temporary) / name, changes) for name, changes in settings.items()}
    orders = {
        name: {score: agreement(found["full"], found[name], score) for score in ("map", "top1", "detection_ap")}
        for name in settings
        if name != "full"
    }
    write("sweep_fast", {"agreement with full": orders, **found})


if __name__ == "__main__":
    main()
