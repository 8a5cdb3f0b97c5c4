"""Search scoring beside the obvious loop: per query, per image, one scikit-learn call at the end.

    python benchmarks/metrics_search.py            # PRW's and CUHK-SYSU's sizes, all galleries, growth: minutes
    python benchmarks/metrics_search.py --quick    # a twentieth of the queries, no growth

Every case runs in a process of its own, so that its peak memory is its own. Ours scores all queries; the loop, whose
queries cost the same each, scores ``--loop-queries`` of them and is scaled to all. Both must give the same average
precisions. Ours is timed ``--repeats`` times after a warm-up that compiles. Processor seconds are those of all threads:
on a busy machine they say more than the clock.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import sklearn
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from diffps.metrics.search import Positives, score_search

RESULTS = Path(__file__).parent / "results" / "metrics_search.json"
CUHK_SIZES = (50, 100, 500, 1000, 2000, 4000)
GROWTH = (1, 10, 100)
GROWTH_SHARE = 0.25  # of the queries while the gallery grows
GROWTH_SIZE = 32  # dimensions while the gallery grows: a hundred times PRW must fit into memory


@dataclass(frozen=True)
class World:
    """Detections in ``scenes``, queries, true boxes and galleries (None: all scenes but ``excluded``)."""

    queries: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    boxes: NDArray[np.float32]
    scenes: NDArray[np.int64]
    positives: Positives
    galleries: list[NDArray[np.int64]] | None
    excluded: NDArray[np.int64] | None

    def score(self) -> NDArray[np.float64]:
        scores = score_search(
            self.queries,
            self.embeddings,
            self.boxes,
            self.scenes,
            self.positives,
            galleries=self.galleries,
            excluded=self.excluded,
        )
        return scores.average_precision


def persons(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float32]:
    vectors = rng.standard_normal((count, size), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def prw(size: int, *, growth: int = 1, queries: int = 2057, seed: int = 0) -> World:
    """6112 frames, 25,062 persons found a little beside the truth and 20,000 false alarms, times ``growth``; the 450
    identities and so the positives stay as many as they are."""
    rng = np.random.default_rng(seed)
    frames, true, false = 6112 * growth, 25062 * growth, 20000 * growth
    corners = rng.uniform(0, 1500, (true, 2)).astype(np.float32)
    truth = np.concatenate([corners, corners + rng.uniform(40, 300, (true, 2)).astype(np.float32)], axis=1)
    scene_of_truth = rng.integers(0, frames, true)
    identity = np.full(true, -1)
    identity[:19127] = rng.integers(0, 450, 19127)
    base = persons(rng, 450, size)
    embeddings = persons(rng, true + false, size)
    embeddings[:19127] = base[identity[:19127]] + 2 * embeddings[:19127]
    boxes = np.concatenate([truth + rng.normal(0, 4, truth.shape).astype(np.float32), truth[:false]])
    scenes = np.concatenate([scene_of_truth, rng.integers(0, frames, false)])
    asked = rng.choice(19127, queries, replace=False)
    by_identity = [np.flatnonzero(identity == number) for number in range(450)]
    rows = [(q, d) for q, d0 in enumerate(asked) for d in by_identity[identity[d0]]]
    query, detection = np.array(rows).T
    return World(
        queries=embeddings[asked] + 0.02 * persons(rng, queries, size),
        embeddings=embeddings,
        boxes=boxes,
        scenes=scenes,
        positives=Positives(query, scene_of_truth[detection], truth[detection]),
        galleries=None,
        excluded=scene_of_truth[asked],
    )


def cuhk_sysu(size: int, gallery: int, *, queries: int = 2900, seed: int = 0) -> World:
    """6978 images, 40,871 persons found a little beside the truth; one identity a query, one to four positives."""
    rng = np.random.default_rng(seed)
    images, count = 6978, 40871
    corners = rng.uniform(0, 700, (count, 2)).astype(np.float32)
    truth = np.concatenate([corners, corners + rng.uniform(30, 250, (count, 2)).astype(np.float32)], axis=1)
    scenes = rng.integers(0, images, count)
    embeddings = persons(rng, count, size)
    found = rng.permutation(count)[: 4 * queries].reshape(queries, 4)
    base = persons(rng, queries, size)
    numbers = rng.integers(1, 5, queries)
    rows = [(q, d) for q in range(queries) for d in found[q, : numbers[q]]]
    query, detection = np.array(rows).T
    embeddings[detection] = base[query] + 4 * embeddings[detection]
    galleries = []
    for q in range(queries):
        positive = np.unique(scenes[found[q, : numbers[q]]])
        others = np.setdiff1d(rng.permutation(images)[: gallery + 8], positive)
        galleries.append(np.concatenate([positive, rng.permutation(others)[: gallery - len(positive)]]))
    return World(
        queries=base + 0.3 * persons(rng, queries, size),
        embeddings=embeddings,
        boxes=truth + rng.normal(0, 3, truth.shape).astype(np.float32),
        scenes=scenes,
        positives=Positives(query, scenes[detection], truth[detection]),
        galleries=galleries,
        excluded=None,
    )


def loop(world: World, queries: int) -> NDArray[np.float64]:
    """Average precision of the first queries, as the public evaluators compute it."""
    scene_count = int(max(world.scenes.max(), world.positives.scenes.max())) + 1
    order = np.argsort(world.scenes, kind="stable")
    inside = np.split(order, np.searchsorted(world.scenes[order], np.arange(1, scene_count)))
    unit = world.embeddings / np.linalg.norm(world.embeddings, axis=1, keepdims=True)
    features = {scene: unit[at] for scene, at in enumerate(inside) if len(at)}
    values = np.zeros(queries)
    for q in range(queries):
        mine = world.positives.queries == q
        truths: dict[int, NDArray[np.float32]] = {}
        for scene, box in zip(world.positives.scenes[mine], world.positives.boxes[mine], strict=True):
            truths.setdefault(int(scene), box)
        listed = range(scene_count) if world.galleries is None else world.galleries[q]
        feature = world.queries[q] / np.linalg.norm(world.queries[q])
        labels, similarities = [], []
        existing = found = 0
        for scene in map(int, listed):
            if world.excluded is not None and scene == world.excluded[q]:
                continue
            existing += int((world.positives.scenes[mine] == scene).sum()) if scene in truths else 0
            if scene not in features:
                continue
            similarity = features[scene].dot(feature)
            label = np.zeros(len(similarity), dtype=int)
            if scene in truths:
                truth = truths[scene]
                width, height = truth[2] - truth[0], truth[3] - truth[1]
                threshold = min(0.5, width * height / ((width + 10) * (height + 10)))
                ranked = np.argsort(similarity)[::-1]
                for j in ranked:
                    if overlap(world.boxes[inside[scene][j]], truth) >= threshold:
                        label[j] = 1
                        found += 1
                        break
            labels.extend(list(label))
            similarities.extend(list(similarity))
        if found:
            values[q] = average_precision_score(np.asarray(labels), np.asarray(similarities)) * found / existing
    return values


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    x1, y1 = max(a[0], b[0]), max(a[1], b[1])
    x2, y2 = min(a[2], b[2]), min(a[3], b[3])
    both = max(0, x2 - x1) * max(0, y2 - y1)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def make(case: str, share: float) -> World:
    """ "prw-256", "cuhk-100-256" (gallery, dimensions) or "growth-10"."""
    kind, *numbers = case.split("-")
    if kind == "prw":
        return prw(int(numbers[0]), queries=int(2057 * share))
    if kind == "cuhk":
        return cuhk_sysu(int(numbers[1]), int(numbers[0]), queries=int(2900 * share))
    return prw(GROWTH_SIZE, growth=int(numbers[0]), queries=int(2057 * share * GROWTH_SHARE))


def measure(case: str, share: float, loop_queries: int, repeats: int) -> dict[str, object]:
    """Time one case in this process; memory is read before the loop begins."""
    score_search_once()
    world = make(case, share)
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, processor = [], []
    for _ in range(1 if case.startswith("growth-1") and case != "growth-1" else repeats):
        began, spent = time.perf_counter(), time.process_time()
        ours = world.score()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - spent)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result: dict[str, object] = {
        "case": case,
        "queries": len(world.queries),
        "detections": len(world.boxes),
        "seconds": round(statistics.median(seconds), 3),
        "spread": [round(min(seconds), 3), round(max(seconds), 3)],
        "processor_seconds": round(statistics.median(processor), 3),
        "map": round(float(np.nanmean(ours)), 4),
        "peak_mb": round(peak / 1024),
        "data_mb": round(held / 1024),
    }
    if not case.startswith("growth"):
        asked = min(loop_queries, len(world.queries))
        began, before = time.perf_counter(), time.process_time()
        plain = loop(world, asked)
        spent, spent_processor = time.perf_counter() - began, time.process_time() - before
        difference = float(np.abs(plain - np.nan_to_num(ours[:asked])).max())
        if difference > 1e-6:
            raise SystemExit(f"{case}: average precisions differ by {difference:.1e}")
        scaled = spent / asked * len(world.queries)
        result |= {
            "loop_queries": asked,
            "loop_seconds": round(spent, 2),
            "loop_seconds_scaled": round(scaled, 1),
            "loop_processor_seconds_scaled": round(spent_processor / asked * len(world.queries), 1),
            "times_faster": round(scaled / statistics.median(seconds), 1),
            "largest_difference": difference,
        }
    return result


def score_search_once() -> None:
    """Compile both paths."""
    world = cuhk_sysu(16, 4000, queries=20)
    world.score()
    small = cuhk_sysu(16, 50, queries=20)
    small.score()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", help="run one case here and print its result")
    parser.add_argument("--share", type=float, default=1.0, help="of the queries")
    parser.add_argument("--loop-queries", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.share, options.loop_queries, options.repeats)))
        return
    cases = ["prw-256", "prw-1024", *(f"cuhk-{size}-256" for size in CUHK_SIZES), "cuhk-100-1024"]
    cases += [] if options.quick else [f"growth-{times}" for times in GROWTH]
    share = 0.05 if options.quick else options.share
    results = []
    for case in cases:
        command = [sys.executable, __file__, "--case", case, "--share", str(share), "--repeats", str(options.repeats)]
        command += ["--loop-queries", str(10 if options.quick else options.loop_queries)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1], flush=True)
    if not options.quick:
        content = {
            "machine": {
                "processor": platform.processor() or platform.machine(),
                "cores": os.cpu_count(),
                "numpy": np.__version__,
                "numba": numba.__version__,
                "scikit-learn": sklearn.__version__,
            },
            "repeats": options.repeats,
            "growth_dimensions": GROWTH_SIZE,
            "results": results,
        }
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
