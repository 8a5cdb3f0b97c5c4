"""Scores of person search on plain arrays: rank all detections of each query's gallery, count where the right ones lie.

Nothing is sorted: average precision needs, for each true positive, only how many detections are at least as similar.
Q queries, N detections, D dimensions, P positive rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.metrics.counting import Overrides, Targets
from diffps.metrics.matching import iou_thresholds
from diffps.metrics.scan import find_targets, list_galleries, no_overrides, scan
from diffps.metrics.similarity import exact_unit_rows
from diffps.records import Convention

TOP_RANKS = (1, 5, 10)


@dataclass(frozen=True, slots=True)
class Positives:
    """Where the queries' persons truly are: ``queries`` (P,) and ``scenes`` (P,) int, ``boxes`` (P, 4) x1, y1, x2, y2.

    Every row counts as existing. Where a query has several rows in one scene, the first is the box to be found.
    """

    queries: NDArray[np.integer]
    scenes: NDArray[np.integer]
    boxes: NDArray[np.floating]

    def __post_init__(self) -> None:
        n = len(self.queries)
        if self.scenes.shape != (n,) or self.boxes.shape != (n, 4):
            raise DatasetError(f"positives: shapes {(n,)}, {self.scenes.shape}, {self.boxes.shape} do not match")


@dataclass(frozen=True, slots=True)
class SearchScores:
    """Result per query, in the order given.

    ``average_precision`` (Q,) in [0, 1], NaN where the gallery has no positive; ``existing`` and ``found`` (Q,) counts
    of positives; ``first_rank`` (Q,) 0-based rank of the first true positive, -1 where none is found. The ``k`` most
    similar detections: ``ranking`` (Q, k) indices into the given detections, -1 beyond the gallery's end;
    ``similarity`` (Q, k); ``correct`` (Q, k) bool.
    """

    average_precision: NDArray[np.float64]
    existing: NDArray[np.int64]
    found: NDArray[np.int64]
    first_rank: NDArray[np.int64]
    ranking: NDArray[np.int64]
    similarity: NDArray[np.float64]
    correct: NDArray[np.bool_]

    def hits(self, k: int) -> NDArray[np.bool_]:
        """(Q,) whether a true positive is among the ``k`` most similar detections."""
        return (self.first_rank >= 0) & (self.first_rank < k)

    def summary(self) -> dict[str, float]:
        """Means over the queries that have a positive: map, top1, top5, top10, recall; and how many queries there are.

        Without any such query the means are NaN.
        """
        defined = self.existing > 0

        def mean(values: NDArray[np.generic]) -> float:
            return float(values[defined].mean()) if defined.any() else float("nan")

        recall = self.found / np.maximum(self.existing, 1)
        return {
            "map": mean(self.average_precision),
            **{f"top{k}": mean(self.hits(k)) for k in TOP_RANKS},
            "recall": mean(recall),
            "queries": len(defined),
            "queries_without_positives": int((~defined).sum()),
        }


def score_search(
    query_embeddings: NDArray[np.floating],
    embeddings: NDArray[np.floating],
    boxes: NDArray[np.floating],
    scenes: NDArray[np.integer],
    positives: Positives,
    *,
    galleries: Sequence[NDArray[np.integer]] | None = None,
    excluded: NDArray[np.integer] | None = None,
    convention: Convention = "protocol",
    top: int = 10,
    overrides: Overrides | None = None,
    block: int | None = None,
) -> SearchScores:
    """Rank and score.

    ``query_embeddings`` (Q, D); ``embeddings`` (N, D), ``boxes`` (N, 4) x1, y1, x2, y2 and ``scenes`` (N,) the number,
    from 0, of the scene each detection lies in. Rows need not have unit length; similarity is the cosine.

    ``galleries``: for each query the numbers of its scenes, in gallery order; None means every scene, in order of
    number. ``excluded`` (Q,): a scene left out of the query's gallery, or -1. Positives outside a query's gallery are
    ignored.

    ``convention``: under ``protocol`` small boxes have a lower IoU threshold and a scene listed twice counts once;
    under ``labels`` the threshold is 0.5 throughout and a scene listed twice counts twice, its positives too.

    Ties rank by gallery order: position of the scene where it is first listed, then order of the detections given.
    ``top``: how many detections of each ranking to return. ``overrides``: similarities to be replaced (see ``cbgm``).
    ``block``: detections per matrix product; changes speed and memory, never the result.

    Raises DatasetError for shapes that do not match, numbers out of range and components that are not finite.
    """
    _check_shapes(query_embeddings, embeddings, boxes, scenes, positives, galleries, excluded)
    queries = len(query_embeddings)
    overrides = overrides or no_overrides(queries)
    _check_options(convention, top, block)
    _check_overrides(overrides, queries, len(embeddings))
    query_rows = exact_unit_rows(query_embeddings, "query embeddings")
    order = np.argsort(scenes, kind="stable")
    rows = exact_unit_rows(embeddings, "detection embeddings", order)
    sorted_boxes = np.ascontiguousarray(np.asarray(boxes, np.float32)[order])
    known = [np.asarray(scenes), positives.scenes, *(galleries or ())]
    scene_count = 1 + max((int(part.max()) for part in known if len(part)), default=-1)
    starts = np.searchsorted(np.asarray(scenes)[order], np.arange(scene_count + 1))
    listing = list_galleries(galleries, excluded, queries, scene_count, counts_twice=convention == "labels")
    overrides = overrides._replace(detections=np.argsort(order)[overrides.detections])
    targets = find_targets(
        query_rows,
        rows,
        sorted_boxes,
        starts,
        listing,
        positives.queries,
        positives.scenes,
        np.asarray(positives.boxes, np.float32),
        iou_thresholds(positives.boxes, convention),
        overrides,
    )
    counts = scan(query_rows, rows, starts, listing, targets, overrides, top, block)
    average_precision, found = _average_precision(targets, counts.above)
    correct = _mark_correct(counts.ranking, targets, len(order))
    return SearchScores(
        average_precision=average_precision,
        existing=targets.existing,
        found=found,
        first_rank=np.where(found > 0, counts.before, -1),
        ranking=np.where(counts.ranking >= 0, order[counts.ranking], -1) if len(order) else counts.ranking,
        similarity=counts.similarity,
        correct=correct,
    )


def _average_precision(targets: Targets, above: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum over distinct similarities of (true positives there) x (precision down to there), divided by all existing."""
    average_precision = np.zeros(len(targets.existing))
    found = np.zeros(len(targets.existing), np.int64)
    for q in range(len(found)):
        part = slice(targets.starts[q], targets.starts[q + 1])
        hits = targets.weights[part]
        found[q] = hits.sum()
        if found[q]:
            precision = np.cumsum(hits) / np.cumsum(above[part])
            average_precision[q] = (hits * precision).sum() / targets.existing[q]
    average_precision[targets.existing == 0] = np.nan
    return average_precision, found


def _mark_correct(ranking: NDArray[np.int64], targets: Targets, detections: int) -> NDArray[np.bool_]:
    """Which entries of the ranking are targets of their own query; a pair of both is one number."""
    queries = np.repeat(np.arange(len(ranking)), np.diff(targets.detection_starts))
    right = queries * detections + targets.detections
    asked = np.arange(len(ranking))[:, None] * detections + ranking
    return np.isin(asked, right) & (ranking >= 0)


def _check_shapes(
    query_embeddings: NDArray[np.floating],
    embeddings: NDArray[np.floating],
    boxes: NDArray[np.floating],
    scenes: NDArray[np.integer],
    positives: Positives,
    galleries: Sequence[NDArray[np.integer]] | None,
    excluded: NDArray[np.integer] | None,
) -> None:
    """Compiled code trusts every length and number checked here."""
    queries, n = len(query_embeddings), len(embeddings)
    if boxes.shape != (n, 4) or scenes.shape != (n,) or query_embeddings.shape[1:] != embeddings.shape[1:]:
        raise DatasetError(
            f"search: query embeddings {query_embeddings.shape}, embeddings {embeddings.shape}, boxes {boxes.shape}, "
            f"scenes {scenes.shape} do not match (Q, D), (N, D), (N, 4), (N,)"
        )
    if galleries is not None and len(galleries) != queries:
        raise DatasetError(f"search: {len(galleries)} galleries for {queries} queries; give one per query, or None")
    if excluded is not None and excluded.shape != (queries,):
        raise DatasetError(f"search: excluded {excluded.shape} for {queries} queries; give one scene or -1 per query")
    _check_numbers(scenes, "scene number")
    _check_numbers(positives.queries, "query of a positive", end=queries)
    _check_numbers(positives.scenes, "scene number of a positive")
    for q, gallery in enumerate(galleries or ()):
        _check_numbers(gallery, f"scene number in the gallery of query {q}")
    if excluded is not None:
        _check_numbers(excluded, "excluded scene number", start=-1)


def _check_numbers(numbers: NDArray[np.integer], what: str, start: int = 0, end: int | None = None) -> None:
    if not numbers.size:
        return
    if not np.issubdtype(numbers.dtype, np.integer):
        raise DatasetError(f"search: {what}: type {numbers.dtype}, expected integers")
    low, high = int(numbers.min()), int(numbers.max())
    if low < start or (end is not None and high >= end):
        wanted = f"{start} or more" if end is None else f"{start} to {end - 1}"
        raise DatasetError(f"search: {what} {low if low < start else high}; expected {wanted}")


def _check_options(convention: Convention, top: int, block: int | None) -> None:
    if convention not in get_args(Convention):
        raise DatasetError(f"search: convention {convention!r}; expected {' or '.join(get_args(Convention))}")
    if top < 0 or (block is not None and block < 1):
        raise DatasetError(f"search: top {top}, block {block}; expected top from 0, block from 1 or None")


def _check_overrides(overrides: Overrides, queries: int, detections: int) -> None:
    starts, count = overrides.starts, len(overrides.detections)
    if starts.shape != (queries + 1,) or len(overrides.values) != count:
        raise DatasetError(
            f"search: overrides of shapes {starts.shape}, {overrides.detections.shape}, {overrides.values.shape} "
            f"do not match ({queries + 1},), (n,), (n,)"
        )
    if starts[0] != 0 or starts[-1] != count or (np.diff(starts) < 0).any():
        raise DatasetError(f"search: starts of overrides {starts[0]}..{starts[-1]} do not rise from 0 to {count}")
    _check_numbers(overrides.detections, "overridden detection", end=detections)
