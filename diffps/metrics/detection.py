"""Scores of person detection on plain arrays. N detections, T true boxes, each in a numbered scene."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.metrics.matching import IOU_THRESHOLD, mutual_matches

SMALL_AREA = 32**2  # pixels; COCO's bound of a small object, in the scene frame


@dataclass(frozen=True, slots=True)
class DetectionScores:
    """``ap``, ``recall``, ``precision`` in [0, 1]; ``ap_small`` of true boxes up to 32 x 32 pixels, NaN without any;
    ``matches`` (N,): index of the true box each detection is matched with, or -1."""

    ap: float
    recall: float
    precision: float
    ap_small: float
    matches: NDArray[np.int64]

    def summary(self) -> dict[str, float]:
        """The numbers, without the matches."""
        return {"ap": self.ap, "recall": self.recall, "precision": self.precision, "ap_small": self.ap_small}


def score_detection(
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    scenes: NDArray[np.integer],
    true_boxes: NDArray[np.floating],
    true_scenes: NDArray[np.integer],
    *,
    labelled: NDArray[np.bool_] | None = None,
    threshold: float = IOU_THRESHOLD,
) -> DetectionScores:
    """Match and score detections ``boxes`` (N, 4) x1, y1, x2, y2, ``scores`` (N,), ``scenes`` (N,) with the true boxes.

    A detection is right when it and a true box are each other's best overlap, at an IoU of ``threshold`` or more; of
    equal overlaps the higher score counts. AP is average precision over the scores, times recall.

    ``labelled`` (T,): keep these true boxes only, and leave out the scenes that have none (``labelled only``).

    For small persons, true boxes above 32 x 32 pixels count neither way, nor do detections matched with them, nor
    unmatched detections above that size (COCO's area rule).

    Raises DatasetError for shapes that do not match.
    """
    n, t = len(boxes), len(true_boxes)
    if boxes.shape != (n, 4) or scores.shape != (n,) or scenes.shape != (n,):
        raise DatasetError(f"detection: shapes {boxes.shape}, {scores.shape}, {scenes.shape}: not (N, 4), (N,), (N,)")
    if true_boxes.shape != (t, 4) or true_scenes.shape != (t,):
        raise DatasetError(f"detection: true boxes {true_boxes.shape} and scenes {true_scenes.shape}: not (T, 4), (T,)")
    kept = np.ones(n, np.bool_)
    wanted = np.ones(t, np.bool_)
    if labelled is not None:
        wanted = np.asarray(labelled, np.bool_)
        kept = np.isin(scenes, true_scenes[wanted])
    matches = np.full(n, -1, np.int64)
    for at, truths in _scene_groups(scores, scenes, kept, true_scenes, wanted):
        found, _ = mutual_matches(
            np.asarray(true_boxes[truths], np.float32), np.asarray(boxes[at], np.float32), threshold
        )
        matches[at[found >= 0]] = truths[found[found >= 0]]
    right, existing = matches >= 0, int(wanted.sum())
    small = _areas(true_boxes) <= SMALL_AREA
    counted = kept & np.where(right, small[matches] if t else False, _areas(boxes) <= SMALL_AREA)
    return DetectionScores(
        ap=average_precision(right[kept], scores[kept], existing),
        recall=float(right.sum() / existing) if existing else float("nan"),
        precision=float(right.sum() / kept.sum()) if kept.any() else 0.0,
        ap_small=average_precision(right[counted], scores[counted], int((small & wanted).sum())),
        matches=matches,
    )


def average_precision(right: NDArray[np.bool_], scores: NDArray[np.floating], existing: int) -> float:
    """Sum over distinct scores, from high to low, of (right ones there) x (precision down to there) / ``existing``.

    Equals scikit-learn's ``average_precision_score`` times the share found. NaN when nothing exists.
    """
    if not existing:
        return float("nan")
    if not len(right):
        return 0.0
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ends = np.flatnonzero(np.append(np.diff(np.asarray(scores)[order]) != 0, True))
    hits = np.cumsum(right[order])[ends]
    return float((np.diff(hits, prepend=0) * hits / (ends + 1)).sum() / existing)


def precision_draws(
    right: NDArray[np.bool_],
    scores: NDArray[np.floating],
    scenes: NDArray[np.integer],
    existing: NDArray[np.integer],
    resamples: int,
    seed: int = 0,
) -> NDArray[np.float64]:
    """(R,) average precision when as many scenes are drawn with replacement: which detections (N,) are ``right``, and
    how many true boxes each scene has (``existing``, (S,)); NaN where a draw has none."""
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    ends = np.flatnonzero(np.append(np.diff(np.asarray(scores)[order]) != 0, True))
    count = len(existing)
    found = np.full(resamples, np.nan)
    for row, drawn in enumerate(np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)):
        times, total = drawn[scenes[order]], float(drawn @ existing)
        hits, seen = np.cumsum(times * right[order])[ends], np.maximum(np.cumsum(times)[ends], 1)
        if total:
            found[row] = (np.diff(hits, prepend=0) * hits / seen).sum() / total
    return found


def _scene_groups(
    scores: NDArray[np.floating],
    scenes: NDArray[np.integer],
    kept: NDArray[np.bool_],
    true_scenes: NDArray[np.integer],
    wanted: NDArray[np.bool_],
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """For each scene with both: its detections, strongest first, and its true boxes."""
    at = np.flatnonzero(kept)
    at = at[np.lexsort((-np.asarray(scores, np.float64)[at], scenes[at]))]
    truths = np.flatnonzero(wanted)
    truths = truths[np.argsort(true_scenes[truths], kind="stable")]
    both = np.intersect1d(scenes[at], true_scenes[truths])
    edges = [
        np.searchsorted(part, both, side) for part in (scenes[at], true_scenes[truths]) for side in ("left", "right")
    ]
    return [(at[a:b], truths[c:d]) for a, b, c, d in zip(*edges, strict=True)]


def _areas(boxes: NDArray[np.floating]) -> NDArray[np.float64]:
    x1, y1, x2, y2 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    area: NDArray[np.float64] = (x2 - x1) * (y2 - y1)
    return area
