"""Does the probe say which taps trained heads do well with? And are its sets better than the paper's taps?

    python benchmarks/probe_predicts.py --folder DIR    # an hour of one core; the same command goes on where it stopped

On the demo's data; heads are trained for three epochs, without mirrored images. Twelve taps are drawn from all on
grids of 8, 16 and 32 pixels, whatever the probe says of them, then twelve of the others, which no measure of the probe
was chosen by. Each gives a head that reads nothing else, for detection and re-ID alike, on three seeds, in one sweep;
heads are scored on the test split: search, search with true boxes in place of their own, and detection. The probe reads
the training split only. Kendall's tau says how far two orders of the taps agree: the probe's and that of the heads of
one seed, on average over seeds, beside that of heads of two seeds. Wanted: at least as much; the difference has its own
interval, from the same taps drawn anew. The fineness of the grid alone is ranked too: what is no better than that has
measured nothing. A search needs persons found and told apart: the product of the probe's recall and re-ID score stands
for it.

Then the sets that the probe chose and the taps of the parameters are trained on three seeds, as the probe's sweep.yaml
says.
"""

import argparse
import os
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from numpy.typing import NDArray
from ruamel.yaml import YAML
from scipy.stats import kendalltau
from training_common import RESULTS, ROOT, write

from diffps.backbone.checkpoint import load_checkpoint
from pipeline.config import load_params
from stages import encode, extract, index, probe, sweep
from stages.job import QuietJob
from stages.places import PROBE, SWEEP

DRAWS, TAPS, SEEDS, STRIDES = 2, 12, (1, 2, 3), (8, 16, 32)
SCORES = ("map", "true_boxes_map", "detection_ap")  # of heads
ALONE: dict[str, Any] = {"taps.guidance": None, "model.dgrpn": None, "taps.level1": [], "taps.level2": []}
CHANGES = [
    "encode.views=[identity]",
    "train.flip=none",
    "train.epochs=3",
    "train.milestones=[2]",
    "extract.transcode=[]",
    "evaluate.baseline=false",
    "probe.file=probe.yaml",
    "runtime.threads=1",
]
REID = ("reid_map", "reid_whole", "reid_strips_cosine", "reid_cosine")
BOTH = "reid_map x detection_recall"
# Of the probe, by the score of heads that it should rank alike.
PREDICTORS = {
    "map": (*REID, BOTH),
    "true_boxes_map": REID,
    "detection_ap": ("detection_precision", "detection_recall"),
}


def drawn_taps() -> list[str]:
    """Twelve grid taps of the demo's backbone, and twelve of the others: both in forward order."""
    table = load_checkpoint("builtin:streets").taps
    left, drawn = [tap for tap, spec in table.items() if spec.kind == "grid" and spec.stride in STRIDES], []
    for draw in range(DRAWS):
        chosen = np.random.default_rng(draw).choice(len(left), TAPS, replace=False)
        taps = [left[row] for row in sorted(chosen.tolist())]
        left, drawn = [tap for tap in left if tap not in taps], drawn + taps
    return drawn


def probe_taps() -> list[dict[str, Any]]:
    """Rows of the probe of every tap, made in the working directory."""
    params, runtime = load_params(Path("demo.yaml"), CHANGES)
    for stage in (index, probe) if not (PROBE / "table.parquet").exists() else ():
        stage.run(params, runtime, QuietJob())
    rows = pq.read_table(PROBE / "table.parquet").to_pylist()
    kept = [row for row in rows if row["kind"] == "tap" and row["checkpoint"] == "builtin:streets"]
    return [{**row, BOTH: row["reid_map"] * row["detection_recall"]} for row in kept]


def store_features(taps: Sequence[str]) -> str:
    """Store ``taps`` and what the probe's sets read in one pass; the change of the parameters that names them all."""
    of_sets = (PROBE / "sweep.yaml").read_text().split("extract.taps=[")[1].split("]")[0].split(", ")
    stored = f"extract.taps=[{', '.join(dict.fromkeys([*of_sets, *taps]))}]"
    params, runtime = load_params(Path("demo.yaml"), [*CHANGES, stored])
    for stage in (encode, extract):
        stage.run(params, runtime, QuietJob())
    return stored


def train_heads(taps: Sequence[str], stored: str) -> list[dict[str, Any]]:
    """Rows of the sweep over ``taps``; the same heads are scored once more on true boxes."""
    variants = {tap: {"taps.detection": tap, **ALONE, "taps.level3": [tap]} for tap in taps}
    with Path("single.yaml").open("w") as file:
        YAML().dump({"variants": variants, "grid": {"seed": list(SEEDS)}}, file)
    searched, told = swept(stored, "single.yaml"), swept(stored, "single.yaml", "evaluate.gt_boxes=true")
    return [{**row, "true_boxes_map": other["map"]} for row, other in zip(searched, told, strict=True)]


def swept(stored: str, file: str, *more: str) -> list[dict[str, Any]]:
    """Rows of a sweep over features that are stored."""
    params, runtime = load_params(Path("demo.yaml"), [*CHANGES, stored, f"sweep.file={file}", *more])
    sweep.run(params, runtime, QuietJob())
    rows: list[dict[str, Any]] = pq.read_table(SWEEP / "table.parquet").to_pylist()
    return rows


def agreement(heads: list[dict[str, Any]], probed: list[dict[str, Any]], taps: Sequence[str]) -> dict[str, Any]:
    """Kendall's tau of two seeds; of every predictor and of the grid alone, and how far each is ``ahead`` of seeds."""
    by_name = {row["name"]: row for row in probed}
    found: dict[str, Any] = {}
    for score, predictors in PREDICTORS.items():
        trained = np.array([[_score(heads, tap, seed, score) for tap in taps] for seed in SEEDS])  # (seeds, taps)
        seeds = taus([(trained[a], trained[b]) for a, b in combinations(range(len(SEEDS)), 2)])
        found[score] = {"seeds": told(seeds)}
        for name in ("height", *predictors):
            values = np.array([by_name[tap][name] for tap in taps], float)
            own = taus([(values, row) for row in trained])
            found[score]["grid" if name == "height" else name] = told(own) | {"ahead": told(own - seeds)}
    return found


def taus(pairs: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> NDArray[np.float64]:
    """(1 + 500,) mean of Kendall's tau over pairs of orders: of the taps as they are, then with taps drawn anew, alike
    for every call with as many taps."""
    count = len(pairs[0][0])
    drawn = [np.arange(count), *np.random.default_rng(0).integers(0, count, (500, count))]
    return np.array(
        [np.nanmean([kendalltau(one[rows], other[rows]).statistic for one, other in pairs]) for rows in drawn]
    )


def told(values: NDArray[np.float64]) -> dict[str, float]:
    """The first of ``values`` and the interval of the others."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975])
    return {"tau": float(values[0]), "low": float(low), "high": float(high)}


def draw(heads: list[dict[str, Any]], probed: list[dict[str, Any]], taps: Sequence[str], path: Path) -> None:
    """Probe against heads: a point a tap, hollow for the second draw, its seeds as a bar."""
    by_name = {row["name"]: row for row in probed}
    figure = Figure(figsize=(12, 4), layout="constrained")
    labels = {
        ("reid_map", "map"): "mAP of search",
        ("reid_map", "true_boxes_map"): "mAP of true boxes",
        ("detection_precision", "detection_ap"): "detection AP",
    }
    for axes, ((column, score), label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        for number, tap in enumerate(taps):
            values = [_score(heads, tap, seed, score) for seed in SEEDS]
            row = by_name[tap]
            low, high = row[f"{column}_low"], row[f"{column}_high"]
            axes.plot([row[column]] * 2, [min(values), max(values)], color="#0072b2", linewidth=1)
            axes.plot([low, high], [np.mean(values)] * 2, color="#8a8a8a", linewidth=1)
            face = "#0072b2" if number < TAPS else "white"
            axes.plot(row[column], np.mean(values), "o", color="#0072b2", markerfacecolor=face, markersize=4)
        axes.set_xlabel(f"probe: {column}")
        axes.set_ylabel(f"trained on one tap: {label}")
    figure.savefig(path, dpi=110)


def _score(heads: list[dict[str, Any]], tap: str, seed: int, score: str) -> float:
    (row,) = [row for row in heads if row["group"] == tap and row["seed"] == seed]
    return float("nan") if row[score] is None else float(row[score])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where to work")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    Path("demo.yaml").write_bytes((ROOT / "presets/demo.yaml").read_bytes())
    Path("probe.yaml").write_bytes((ROOT / "presets/probe/demo.yaml").read_bytes())
    taps, probed = drawn_taps(), probe_taps()
    stored = store_features(taps)
    heads = train_heads(taps, stored)
    columns = dict.fromkeys(name for names in PREDICTORS.values() for name in names)
    content: dict[str, Any] = {
        "taps": {
            tap: {
                "probe": {name: next(row[name] for row in probed if row["name"] == tap) for name in columns},
                "heads": {score: [_score(heads, tap, seed, score) for seed in SEEDS] for score in SCORES},
            }
            for tap in taps
        },
        "kendall": agreement(heads, probed, taps),
        "kendall_by_draw": [agreement(heads, probed, taps[row * TAPS :][:TAPS]) for row in range(DRAWS)],
    }
    draw(heads, probed, taps, RESULTS / "probe_predicts.png")
    write("probe_predicts", content)
    kept = ("variant", "group", "seed", "map", "top1", "detection_ap", "taps")
    content["sets"] = [{name: row[name] for name in kept} for row in swept(stored, str(PROBE / "sweep.yaml"))]
    write("probe_predicts", content)


if __name__ == "__main__":
    main()
