"""Random detections and true boxes."""

from dataclasses import dataclass

import numpy as np

from diffps.metrics.detection import DetectionScores, score_detection


@dataclass(frozen=True)
class DetectionWorld:
    scene_count: int
    boxes: np.ndarray
    scores: np.ndarray
    scenes: np.ndarray
    true_boxes: np.ndarray
    true_scenes: np.ndarray

    def score(self, labelled: np.ndarray | None = None) -> DetectionScores:
        return score_detection(
            self.boxes, self.scores, self.scenes, self.true_boxes, self.true_scenes, labelled=labelled
        )


def detection_world(seed: int, *, separate: bool = False) -> DetectionWorld:
    """Scores and boxes from a few values, so that ties and duplicates are common; with ``separate`` every true box has
    a place of its own, at most one detection near it, and all scores differ."""
    rng = np.random.default_rng(seed)
    scene_count = int(rng.integers(1, 6))
    if separate:
        places = [(scene, column) for scene in range(scene_count) for column in range(6)]
        sizes = rng.choice([12, 30, 60], (len(places), 2))
        corners = np.array([[200 * column, 0] for _, column in places])
        boxes = np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)
        shifted = boxes + rng.integers(-6, 7, boxes.shape).astype(np.float32) * (rng.random((len(boxes), 1)) < 0.5)
        scenes = np.array([scene for scene, _ in places])
        seen, there = rng.random(len(places)) < 0.7, rng.random(len(places)) < 0.7
        scores = rng.permutation(len(places)) / len(places)
        return DetectionWorld(scene_count, shifted[seen], scores[seen], scenes[seen], boxes[there], scenes[there])

    def boxes_of(n: int) -> np.ndarray:
        corners = rng.integers(0, 4, (n, 2)) * 5
        return np.concatenate([corners, corners + rng.choice([10, 20, 60], (n, 2))], axis=1).astype(np.float32)

    n, t = int(rng.integers(0, 30)), int(rng.integers(0, 20))
    return DetectionWorld(
        scene_count=scene_count,
        boxes=boxes_of(n),
        scores=rng.integers(0, 20, n) / 20,
        scenes=rng.integers(0, scene_count, n),
        true_boxes=boxes_of(t),
        true_scenes=rng.integers(0, scene_count, t),
    )


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes x1, y1, x2, y2."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, float(width)) * max(0.0, float(height))
    return both / (float((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])) - both)
