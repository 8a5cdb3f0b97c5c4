"""The compiled part of search scoring: one pass over the gallery in blocks, counting instead of sorting.

Detections are ordered by scene here; ``starts[s] : starts[s + 1]`` are those of scene s. "Ragged" arrays hold the
parts of all queries end to end, with the queries' starts beside them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled, prange
from diffps.metrics.matching import box_iou
from diffps.metrics.similarity import dot, rounding_bound

SPARSE = 0.2  # share of all pairs below which single products win: 0.16 at 1024 dimensions, 0.27 at 64, measured
BLOCK_BYTES = 1 << 27  # of one block of similarities


class Listing(NamedTuple):
    """Each query's scenes in order of number: ``scenes``, ``positions`` in the gallery, ``weights`` (ragged).

    ``everything``: all scenes, nothing is listed. ``excluded`` (Q,): scene left out, or -1.
    """

    everything: bool
    starts: NDArray[np.int64]
    scenes: NDArray[np.int32]
    positions: NDArray[np.int32]
    weights: NDArray[np.int32]
    excluded: NDArray[np.int64]


class Targets(NamedTuple):
    """True positives: distinct similarities in descending order (``values``) and how many share each (``weights``),
    ragged by ``starts``; the ``detections`` they are, ragged by ``detection_starts``; the first one in rank order; how
    many positives exist."""

    starts: NDArray[np.int64]
    values: NDArray[np.float64]
    weights: NDArray[np.int64]
    detection_starts: NDArray[np.int64]
    detections: NDArray[np.int64]
    best_value: NDArray[np.float64]
    best_position: NDArray[np.int64]
    best_detection: NDArray[np.int64]
    existing: NDArray[np.int64]


class Counts(NamedTuple):
    """``above`` (ragged like Targets.values): detections between this value and the next higher; ``before`` (Q,): those
    ranked before the first true positive; the ``top`` most similar as ``ranking``, their similarities and the positions
    of their scenes (Q, k)."""

    above: NDArray[np.int64]
    before: NDArray[np.int64]
    ranking: NDArray[np.int64]
    similarity: NDArray[np.float64]
    positions: NDArray[np.int64]


class Overrides(NamedTuple):
    """Similarities that replace the cosine: of ``detections`` (n,) to each query, ragged by ``starts`` (Q + 1,)."""

    starts: NDArray[np.int64]
    detections: NDArray[np.int64]
    values: NDArray[np.float64]


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
    detections, values = _most_similar(
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
        _count(query_rows, rows, nothing, 0, detections, starts, listing, targets, overrides, counts)
        return counts
    step = block or max(256, BLOCK_BYTES // (4 * max(1, queries)))
    for start in range(0, detections, step):
        stop = min(start + step, detections)
        similarities = query_rows @ rows[start:stop].T
        _mark(similarities, start, overrides)
        _count(query_rows, rows, similarities, start, stop, starts, listing, targets, overrides, counts)
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


@compiled(parallel=True)
def _most_similar(
    query_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
    boxes: NDArray[np.float32],
    starts: NDArray[np.int64],
    queries: NDArray[np.int64],
    scenes: NDArray[np.int64],
    truths: NDArray[np.float32],
    thresholds: NDArray[np.float64],
    overrides: Overrides,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each true box the most similar detection with enough overlap (the first of equals) or -1; its similarity."""
    detections = np.full(len(queries), -1, np.int64)
    values = np.full(len(queries), -np.inf)
    for row in prange(len(queries)):
        q = queries[row]
        for d in range(starts[scenes[row]], starts[scenes[row] + 1]):
            if box_iou(boxes[d], truths[row]) >= thresholds[row]:
                value = _similarity(q, d, query_rows, rows, overrides)
                if value > values[row]:
                    detections[row], values[row] = d, value
    return detections, values


@compiled()
def _similarity(
    q: int, d: int, query_rows: NDArray[np.float32], rows: NDArray[np.float32], overrides: Overrides
) -> float:
    for o in range(overrides.starts[q], overrides.starts[q + 1]):
        if overrides.detections[o] == d:
            return float(overrides.values[o])
    return float(dot(query_rows[q], rows[d]))


@compiled(parallel=True)
def _count(
    query_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
    similarities: NDArray[np.float32],
    start: int,
    stop: int,
    starts: NDArray[np.int64],
    listing: Listing,
    targets: Targets,
    overrides: Overrides,
    counts: Counts,
) -> None:
    """Add detections ``start`` to ``stop``. ``similarities`` (Q, stop - start), or (0, 0): multiply here."""
    for q in prange(len(query_rows)):
        _count_for_query(q, query_rows, rows, similarities, start, stop, starts, listing, targets, overrides, counts)


@compiled()
def _count_for_query(
    q: int,
    query_rows: NDArray[np.float32],
    rows: NDArray[np.float32],
    similarities: NDArray[np.float32],
    start: int,
    stop: int,
    starts: NDArray[np.int64],
    listing: Listing,
    targets: Targets,
    overrides: Overrides,
    counts: Counts,
) -> None:
    given = len(similarities) > 0
    error = rounding_bound(query_rows.shape[1])
    low, high = int(targets.starts[q]), int(targets.starts[q + 1])
    values = targets.values[low:high]
    lowest = values[-1] if low < high else np.inf
    ranking = counts.similarity[q]
    first_scene = int(np.searchsorted(starts, start, side="right")) - 1
    if listing.everything:
        entry, end = first_scene, len(starts) - 1
    else:
        entry, end = int(listing.starts[q]), int(listing.starts[q + 1])
        entry += int(np.searchsorted(listing.scenes[entry:end], first_scene))
    while entry < end:
        scene, position, weight = entry, entry, 1
        if not listing.everything:
            scene, position = int(listing.scenes[entry]), int(listing.positions[entry])
            weight = int(listing.weights[entry])
        entry += 1
        if starts[scene] >= stop:
            break
        if scene == listing.excluded[q]:
            continue
        for d in range(max(start, int(starts[scene])), min(stop, int(starts[scene + 1]))):
            if given:
                value = float(similarities[q, d - start])
                last = float(ranking[-1]) if len(ranking) else np.inf
                if value < min(lowest, last) - error:
                    continue
                if not (value < last - error and _is_clear(values, value, error)):
                    value = _similarity(q, d, query_rows, rows, overrides)
            else:
                value = dot(query_rows[q], rows[d])
            if value >= lowest:
                counts.above[low + _first_at_most(values, value)] += weight
                counts.before[q] += weight * _ranks_before(
                    value, position, d, targets.best_value[q], targets.best_position[q], targets.best_detection[q]
                )
            _insert(ranking, counts.positions[q], counts.ranking[q], value, position, d)


@compiled()
def _insert(
    values: NDArray[np.float64],
    positions: NDArray[np.int64],
    detections: NDArray[np.int64],
    value: float,
    position: int,
    detection: int,
) -> None:
    """Put a detection where it belongs in a full-length ranking; the last one falls out."""
    slot = len(values)
    while slot > 0 and _ranks_before(
        value, position, detection, values[slot - 1], positions[slot - 1], detections[slot - 1]
    ):
        slot -= 1
    if slot < len(values):
        for moved in range(len(values) - 1, slot, -1):
            values[moved], positions[moved] = values[moved - 1], positions[moved - 1]
            detections[moved] = detections[moved - 1]
        values[slot], positions[slot], detections[slot] = value, position, detection


@compiled()
def _ranks_before(
    value: float, position: int, detection: int, other_value: float, other_position: int, other_detection: int
) -> bool:
    if value != other_value:
        return value > other_value
    return position < other_position or (position == other_position and detection < other_detection)


@compiled()
def _first_at_most(values: NDArray[np.float64], value: float) -> int:
    """First index of descending ``values`` that is at most ``value``, or how many there are."""
    low, high = 0, len(values)
    while low < high:
        middle = (low + high) // 2
        if values[middle] <= value:
            high = middle
        else:
            low = middle + 1
    return low


@compiled()
def _is_clear(values: NDArray[np.float64], value: float, error: float) -> bool:
    """Whether no one of the descending ``values`` lies within ``error`` of ``value``; never for NaN."""
    at = _first_at_most(values, value)
    below = at == len(values) or values[at] < value - error
    return bool(below and (at == 0 or value + error < values[at - 1]) and value == value)
