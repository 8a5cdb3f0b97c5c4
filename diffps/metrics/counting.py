"""The compiled loops of search scoring, and what they are given.

Detections are ordered by scene here; ``starts[s] : starts[s + 1]`` are those of scene s. "Ragged" arrays hold the
parts of all queries end to end, with the queries' starts beside them.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.compiled import compiled, prange
from diffps.metrics.matching import box_iou
from diffps.metrics.similarity import dot, rounding_bound


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


@compiled(parallel=True)
def most_similar(
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
def count(
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
