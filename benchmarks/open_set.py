"""Open-set search on drawn streets: what a calibration promises, and what happens to people it has never seen.

    python benchmarks/open_set.py --head results/train/head --params params.yaml --folder scratch    # an hour on a CPU
    python benchmarks/open_set.py --quick        # made-up embeddings instead of drawn streets, nothing is written

Two worlds are drawn, of 1,000 people each whom the head was not trained on: one calibrates, the other is searched, by
1,000 queries without a mate in the gallery and 1,000 with one, each of another person. ``diffps`` computes detections
and embeddings of each in a folder of its own; what is there is not computed again. FPIR of 1 % and 10 % are compared
with the promise at galleries of several sizes, beside the 95 % interval of so many searches (a promise kept exactly
leaves it one time in twenty) and that of the difference of two such samples, since a calibration is one as well.
``beyond``: calibrated on a fifth of the scenes, searched in galleries up to ten times as large as were measured.
Writes results/open_set.json and a picture of FNIR against FPIR.
"""

import argparse
import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.stats import binom

from diffps.datasets.tables import box_array, read_annotations, read_scenes
from diffps.search.calibration import Calibration
from diffps.search.heldout import held_out_searches
from diffps.search.openset import HeldOut, calibrate

RESULTS = Path(__file__).parent / "results"
LEVELS = (0.01, 0.1)
WORLDS = {
    "held_out": {"train_identities": 48, "test_identities": 1000, "test_scenes": 700},
    "unseen": {"train_identities": 1100, "test_identities": 1060, "test_scenes": 760},
}
STAGES = ("index", "encode", "extract", "evaluate")


def compute(folder: Path, params: Path, head: Path, world: dict[str, int]) -> None:
    """Draw a world below ``folder`` and find its people with the head, unless that was done."""
    folder.mkdir(parents=True, exist_ok=True)
    changes = {f"index.streets.{name}": value for name, value in world.items()}
    changes |= {"index.streets.train_scenes": 1, "evaluate.head": str(head)}
    options = [option for name, value in changes.items() for option in ("--set", f"{name}={value}")]
    if (folder / "results/evaluate/metrics.json").exists():
        return
    for stage in STAGES:
        subprocess.run(["diffps", stage, "--params", str(params.resolve()), *options], cwd=folder, check=True)


def read(folder: Path) -> HeldOut:
    """The test split of what ``diffps evaluate`` left in ``folder``."""
    index = folder / "data/index"
    scenes = read_scenes(index, "test")
    table = pq.read_table(folder / "results/evaluate/detections.parquet")
    numbers = {scene.scene_id: number for number, scene in enumerate(scenes)}
    column = table["embedding"].combine_chunks()
    return held_out_searches(
        scenes,
        read_annotations(index),
        box_array(table),
        column.flatten().to_numpy().reshape(len(table), column.type.list_size),
        np.array([numbers[name] for name in table["scene_id"].to_pylist()]),
    )


def made_up(seed: int, people: int = 1000, scenes: int = 700) -> HeldOut:
    """Embeddings without a head."""
    rng = np.random.default_rng(seed)
    looks = np.random.default_rng(0).standard_normal((8, 32)) / np.sqrt(8)
    who = np.concatenate([rng.permutation(people) for _ in range(-(-4 * scenes // people))])[: 4 * scenes]
    bodies = rng.standard_normal((people, 8)) @ looks
    found = bodies[who] + 0.5 * rng.standard_normal((len(who), 32))
    in_scene = np.repeat(np.arange(scenes), 4)
    asked = rng.permutation(len(who))
    return HeldOut(
        embeddings=found,
        scenes=in_scene,
        identities=who,
        seen_identities=who,
        seen_scenes=in_scene,
        queries=found[asked],
        query_identities=who[asked],
        query_scenes=in_scene[asked][:, None],
        scene_count=scenes,
    )


def part(held_out: HeldOut, scenes: int, rng: np.random.Generator) -> HeldOut:
    """Some of the scenes, and what is in them."""
    kept = np.sort(rng.choice(held_out.scene_count, scenes, replace=False))
    number = np.full(held_out.scene_count, -1)
    number[kept] = np.arange(scenes)
    rows, seen = number[held_out.scenes] >= 0, number[held_out.seen_scenes] >= 0
    asked = (number[held_out.query_scenes] >= 0).all(1)
    return HeldOut(
        embeddings=held_out.embeddings[rows],
        scenes=number[held_out.scenes[rows]],
        identities=held_out.identities[rows],
        seen_identities=held_out.seen_identities[seen],
        seen_scenes=number[held_out.seen_scenes[seen]],
        queries=held_out.queries[asked],
        query_identities=held_out.query_identities[asked],
        query_scenes=number[held_out.query_scenes[asked]],
        scene_count=scenes,
    )


class Searches:
    """Searches among people who calibrate nothing: of each query the most similar box of every scene."""

    def __init__(self, unseen: HeldOut, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._boxes_per_scene = len(unseen.embeddings) / unseen.scene_count
        people = self._rng.permutation(np.unique(unseen.query_identities))
        self.unmated = np.array([self._one(unseen, person) for person in people])
        unit = unseen.embeddings / np.linalg.norm(unseen.embeddings, axis=1, keepdims=True)
        queries = unseen.queries / np.linalg.norm(unseen.queries, axis=1, keepdims=True)
        self._best = np.full((len(self.unmated), unseen.scene_count), -1.0)
        similarities = queries[self.unmated] @ unit.T
        for box, scene in enumerate(unseen.scenes):
            self._best[:, scene] = np.maximum(self._best[:, scene], similarities[:, box])
        self._own = np.zeros_like(self._best, bool)
        mates = []
        for row, q in enumerate(self.unmated):
            person = unseen.query_identities[q]
            shown = np.unique(unseen.seen_scenes[unseen.seen_identities == person])
            self._own[row, shown] = True
            others = np.setdiff1d(shown, unseen.query_scenes[q])
            if len(others):
                scene = self._rng.choice(others)
                there = (unseen.identities == person) & (unseen.scenes == scene)
                mates.append(similarities[row, there].max(initial=-1))
        self.mates = np.array(mates)

    def _one(self, unseen: HeldOut, person: int) -> int:
        return int(self._rng.choice(np.flatnonzero(unseen.query_identities == person)))

    def strangers(self, boxes: int) -> NDArray[np.float64]:
        """Largest similarity of each query in a gallery of its own of so many boxes, its person left out."""
        drawn = round(boxes / self._boxes_per_scene)
        result = np.empty(len(self._best))
        for row, (best, own) in enumerate(zip(self._best, self._own, strict=True)):
            free = np.flatnonzero(~own)
            result[row] = best[self._rng.choice(free, min(drawn, len(free)), replace=False)].max()
        return result


def compare(calibration: Calibration, searches: Searches, sizes: list[int]) -> list[dict[str, Any]]:
    """The promise beside what happened, a row per size and level."""
    rows = []
    for boxes in sizes:
        found = searches.strangers(boxes)
        for level in LEVELS:
            threshold = calibration.threshold(boxes, level)
            low, high = binom.ppf([0.025, 0.975], len(found), level) / len(found)
            width = 1.96 * np.sqrt(level * (1 - level) * (1 / len(found) + 1 / calibration.identities))
            observed = float((found >= threshold).mean())
            row = {
                "boxes": boxes,
                "promised_fpir": level,
                "measured": bool(level >= calibration.least(boxes)),
                "threshold": round(threshold, 4),
                "observed_fpir": round(observed, 4),
                "interval": [round(float(low), 4), round(float(high), 4)],
                "within": bool(low <= observed <= high),
                "within_two_samples": bool(abs(observed - level) <= width),
                "promised_fnir": round(float(calibration.fnir(threshold)), 3),
                "observed_fnir": round(float((searches.mates < threshold).mean()), 3),
            }
            rows.append(row)
            print(row)
    return rows


def draw(path: Path, calibration: Calibration, searches: Searches, sizes: list[int]) -> None:
    """FNIR against FPIR: lines as promised, points as they happened to people never seen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 5), layout="constrained")
    shares = np.geomspace(0.001, 0.9, 60)
    for colour, boxes in zip(("#0072b2", "#d55e00", "#008060", "#b0578d"), sizes, strict=False):
        thresholds = np.array([calibration.threshold(boxes, share) for share in shares])
        label = f"{boxes:,} boxes" + (" (extrapolated)" if boxes > calibration.measured_boxes else "")
        line = "--" if boxes > calibration.measured_boxes else "-"
        axes.plot(shares, calibration.fnir(thresholds), line, color=colour, label=label)
        found = searches.strangers(boxes)
        at = thresholds[::4]
        observed = np.array([(found >= threshold).mean() for threshold in at])
        missed = np.array([(searches.mates < threshold).mean() for threshold in at])
        axes.plot(observed[observed > 0], missed[observed > 0], "o", color=colour, markersize=4)
    axes.set(xscale="log", xlabel="FPIR: searches for strangers that find somebody", xlim=(0.0008, 1), ylim=(0, 1))
    axes.set(
        ylabel="FNIR: pictures of the person below the threshold", title="Lines: promised. Points: people never seen"
    )
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--head", type=Path)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("open_set"))
    options = parser.parse_args()
    if options.quick:
        held_out, unseen = made_up(1), made_up(2)
    else:
        if options.head is None:
            parser.error("--head: name the folder of a trained head")
        for name, world in WORLDS.items():
            compute(options.folder / name, options.params, options.head.resolve(), world)
        held_out, unseen = (read(options.folder / name) for name in WORLDS)
    calibration, searches = calibrate(held_out), Searches(unseen, 0)
    pool = len(held_out.embeddings)
    sizes = [100, 400, int(calibration.measured_boxes)]
    rng = np.random.default_rng(0)
    few = calibrate(part(held_out, held_out.scene_count // 5, rng))
    swapped = calibrate(unseen)
    content = {
        "held_out": {"identities": calibration.identities, "scenes": calibration.scenes, "boxes": calibration.pool},
        "unseen": {"scenes": unseen.scene_count, "boxes": len(unseen.embeddings)},
        "searches": {"unmated": len(searches.unmated), "mated": len(searches.mates)},
        "promises": compare(calibration, searches, [*sizes, pool]),
        "other_way_round": compare(swapped, Searches(held_out, 1), [100, 400, int(swapped.measured_boxes)]),
        "beyond": {
            "identities": few.identities,
            "measured_boxes": few.measured_boxes,
            "promises": compare(few, searches, [int(few.measured_boxes * times) for times in (1, 2, 5, 10)]),
        },
        "calibration": replace(calibration, mates=tuple(round(value, 4) for value in calibration.mates)).to_json(),
    }
    if not options.quick:
        (RESULTS / "open_set.json").write_text(json.dumps(content, indent=1) + "\n")
        draw(RESULTS / "open_set.png", calibration, searches, [*sizes, pool])


if __name__ == "__main__":
    main()
