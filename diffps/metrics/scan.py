"""Search scoring: one pass over the gallery in blocks, counting instead of sorting."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.metrics.counting import Counts, Listing, Overrides, Targets, count, most_similar

SPARSE = 0.2  # share of all pairs below which single products win: 0.16 at 1024 dimensions, 0.27 at 64, measured
BLOCK_BYTES = 1 << 27  # of one block of similarities


def no_overrides(queries: int) -> Overrides:
    """Nothing replaced."""
    return Overrides(np.zeros(queries + 1, np.int64), np.empty(0, np.int64), np.empty(0))


def list_galleries(
    galleries: Sequence[NDArray[np.integer]] | None,
    excluded: NDArray[np.integer] | None,
    queries: int,
    scene_count: int,
    *,
    counts_twice: bool,
) -> Listing:
    """Galleries by scene number; a repeated scene keeps its first position, and its weight when ``counts_twice``."""
    left_out = np.full(queries, -1, np.int64) if excluded is None else np.asarray(excluded, np.int64)
    nothing = np.empty(0, np.int32)
    if galleries is None:
        return Listing(True, np.zeros(queries + 1, np.int64), nothing, nothing, nothing, left_out)
    parts = []
    for gallery in galleries:
        scenes, positions, weights = np.unique(gallery, return_index=True, return_counts=True)
        parts.append((scenes, positions, weights if counts_twice else np.ones_like(weights)))
    starts = np.cumsum([0, *(len(scenes) for scenes, _, _ in parts)], dtype=np.int64)
    columns = [np.concatenate([nothing, *column]).astype(np.int32) for column in zip(*parts, strict=True)]
    scenes, positions, weights = columns or (nothing, nothing, nothing)
    return Listing(False, starts, scenes, positions, weights, left_out)


def find_targets(
    query_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
    boxes: NDArray[np.float32],
    starts: NDArray[np.int64],
    listing: Listing,
    positive_queries: NDArray[np.integer],
    positive_scenes: NDArray[np.integer],
    positive_boxes: NDArray[np.float32],
    thresholds: NDArray[np.float64],
    overrides: Overrides,
) -> Targets:
    """The true positive of each query and scene: the most similar detection that overlaps the true box enough."""
    queries = len(query_rows)
    by_query = np.argsort(positive_queries, kind="stable")
    of_query = positive_queries[by_query].astype(np.int64)
    in_scene = positive_scenes[by_query].astype(np.int64)
    positions, weights = _locate(of_query, in_scene, listing)
    existing = np.bincount(of_query, weights, minlength=queries).astype(np.int64)
    first = np.zeros(len(by_query), np.bool_)
    first[np.unique(np.stack([of_query, in_scene], axis=1), axis=0, return_index=True)[1]] = True
    chosen = first & (weights > 0)
    at = by_query[chosen]
    detections, values = most_similar(
        query_rows,
        rows,
        boxes,
        starts,
        of_query[chosen],
        in_scene[chosen],
        np.ascontiguousarray(positive_boxes[at]),
        thresholds[at],
        overrides,
    )
    hit = detections >= 0
    query, value, detection = of_query[chosen][hit], values[hit], detections[hit]
    position, weight = positions[chosen][hit], weights[chosen][hit]
    ranked = np.lexsort((detection, position, -value, query))
    query, value, detection = query[ranked], value[ranked], detection[ranked]
    position, weight = position[ranked], weight[ranked]
    ends = np.arange(queries + 1)
    detection_starts = np.searchsorted(query, ends)
    new = np.ones(len(query), np.bool_)
    new[1:] = (query[1:] != query[:-1]) | (value[1:] != value[:-1])
    group = np.cumsum(new) - 1
    group_weights = np.bincount(group, weights=weight, minlength=int(new.sum())).astype(np.int64)
    best_value = np.full(queries, np.inf)
    best_position, best_detection = np.zeros((2, queries), np.int64)
    found = np.flatnonzero(np.diff(detection_starts))
    best = detection_starts[found]
    best_value[found], best_position[found], best_detection[found] = value[best], position[best], detection[best]
    return Targets(
        starts=np.searchsorted(query[new], ends),
        values=value[new],
        weights=group_weights,
        detection_starts=detection_starts,
        detections=detection,
        best_value=best_value,
        best_position=best_position,
        best_detection=best_detection,
        existing=existing,
    )


def scan(
    query_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
    starts: NDArray[np.int64],
    listing: Listing,
    targets: Targets,
    overrides: Overrides,
    top: int,
    block: int | None,
) -> Counts:
    """Count every detection of every gallery against the targets.

    A single-precision matrix product says where a detection lies, unless that is within its rounding error of a target
    or of the ranking's last: then the exact product decides. So the result is that of exact products throughout, which
    short galleries take directly.
    """
    queries, detections = len(query_rows), len(rows)
    counts = Counts(
        above=np.zeros(len(targets.values), np.int64),
        before=np.zeros(queries, np.int64),
        ranking=np.full((queries, top), -1, np.int64),
        similarity=np.full((queries, top), -np.inf),
        positions=np.zeros((queries, top), np.int64),
    )
    few = not listing.everything and np.diff(starts)[listing.scenes].sum() < SPARSE * queries * detections
    if few and not len(overrides.values):
        nothing = np.empty((0, 0), np.float32)
        count(query_rows, rows, nothing, 0, detections, starts, listing, targets, overrides, counts)
        return counts
    step = block or max(256, BLOCK_BYTES // (4 * max(1, queries)))
    for start in range(0, detections, step):
        stop = min(start + step, detections)
        similarities = query_rows @ rows[start:stop].T
        _mark(similarities, start, overrides)
        count(query_rows, rows, similarities, start, stop, starts, listing, targets, overrides, counts)
    return counts


def _mark(similarities: NDArray[np.float32], start: int, overrides: Overrides) -> None:
    """NaN where a similarity is replaced, so that nobody takes the product for it."""
    queries = np.repeat(np.arange(len(overrides.starts) - 1), np.diff(overrides.starts))
    here = (overrides.detections >= start) & (overrides.detections < start + similarities.shape[1])
    similarities[queries[here], overrides.detections[here] - start] = np.nan


def _locate(
    queries: NDArray[np.int64], scenes: NDArray[np.int64], listing: Listing
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Position of each scene in its query's gallery and how often it counts there: 0 when it is not in it."""
    if listing.everything:
        return scenes, (scenes != listing.excluded[queries]).astype(np.int64)
    positions, weights = np.zeros((2, len(scenes)), np.int64)
    for row, (query, scene) in enumerate(zip(queries, scenes, strict=True)):
        start, end = listing.starts[query], listing.starts[query + 1]
        at = start + np.searchsorted(listing.scenes[start:end], scene)
        if at < end and listing.scenes[at] == scene and scene != listing.excluded[query]:
            positions[row], weights[row] = listing.positions[at], listing.weights[at]
    return positions, weights
