"""Sets of taps under a budget of bytes, as a training can read them: greedy, by what the taps say together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.features import FeatureShape
from diffps.heads.config import TapsConfig

LEVELS = ("level3", "level2", "level1")  # from the finest grid to the coarsest
SHORTLIST = 5  # taps tried at each step
STARTS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A tap that a set may hold: ``megabytes`` per image as stored; ``reid`` and ``detection`` its scores alone."""

    name: str
    shape: FeatureShape
    megabytes: float
    reid: float
    detection: float

    @property
    def grid(self) -> tuple[int, int]:
        return self.shape.height, self.shape.width


@dataclass(frozen=True, kw_only=True, slots=True)
class TapSet:
    """What a training would read: ``taps``, their ``megabytes`` per image, and the re-ID score ``reid`` of all re-ID
    taps together. It was chosen because that score is high, so a new sample gives a lower one."""

    taps: TapsConfig
    megabytes: float
    reid: float


def choose_set(
    candidates: Sequence[Candidate],
    guidance: Candidate | None,
    budget: float,
    redundancy: NDArray[np.float64],
    together: Callable[[tuple[str, ...]], float],
) -> TapSet | None:
    """The set under ``budget`` megabytes per image that a greedy search finds; None where nothing fits.

    Detection gets the best tap for it within half of the budget. Re-ID starts from one tap and takes, step by step, the
    tap that raises ``together``, the score of several taps at once, most, until none does or none fits: of the five
    that promise most, by their own score times what they do not share with a tap chosen, 1 - max of ``redundancy``
    (T, T), which is in the order of ``candidates``. The best taps of three grids and widths are tried as starts,
    because a start excludes others: a training reads up to three grids and one number of channels on each.
    """
    left = budget - (guidance.megabytes if guidance else 0.0)
    affordable = [each for each in candidates if each.megabytes <= left / 2 and np.isfinite(each.detection)]
    if not affordable:
        return None
    detection = max(affordable, key=lambda each: each.detection)
    left -= detection.megabytes
    starts: dict[FeatureShape, Candidate] = {}
    for each in sorted(candidates, key=lambda each: each.reid):
        if np.isfinite(each.reid) and _cost([each], detection) <= left:
            starts[each.shape] = each
    tried = sorted(starts.values(), key=lambda each: each.reid, reverse=True)[:STARTS]
    grown = [_grow(start, candidates, detection, left, redundancy, together) for start in tried]
    if not grown:
        return None
    reid, score = max(grown, key=lambda found: found[1])
    megabytes = (guidance.megabytes if guidance else 0.0) + detection.megabytes + _cost(reid, detection)
    return TapSet(taps=as_taps(reid, detection, guidance), megabytes=megabytes, reid=score)


def _grow(
    start: Candidate,
    candidates: Sequence[Candidate],
    detection: Candidate,
    left: float,
    redundancy: NDArray[np.float64],
    together: Callable[[tuple[str, ...]], float],
) -> tuple[list[Candidate], float]:
    """The taps found from ``start`` on, and their score."""
    place = {each.name: row for row, each in enumerate(candidates)}
    shared = np.nan_to_num(redundancy)
    chosen, score = [start], together((start.name,))
    while True:
        fitting = [each for each in candidates if _fits(each, chosen) and _cost([*chosen, each], detection) <= left]
        known = [place[each.name] for each in chosen]
        promise = {each: each.reid * (1 - shared[place[each.name], known].max()) for each in fitting}
        names = tuple(each.name for each in chosen)
        shortlist = sorted(fitting, key=promise.__getitem__, reverse=True)[:SHORTLIST]
        tried = {each: together((*names, each.name)) for each in shortlist}
        best = max(tried, key=tried.__getitem__, default=None)
        if best is None or tried[best] <= score:
            return chosen, score
        chosen.append(best)
        score = tried[best]


def as_taps(reid: Sequence[Candidate], detection: Candidate, guidance: Candidate | None) -> TapsConfig:
    """The taps as a training names them: the finest grid of ``reid`` is level 3."""
    levels = dict(zip(LEVELS, sorted({each.grid for each in reid}, reverse=True), strict=False))
    names = {level: tuple(each.name for each in reid if each.grid == grid) for level, grid in levels.items()}
    return TapsConfig(detection=detection.name, guidance=guidance.name if guidance else None, **names)


def _cost(reid: Sequence[Candidate], detection: Candidate) -> float:
    """Megabytes beyond those of the detection tap."""
    return sum(each.megabytes for each in reid if each.name != detection.name)


def _fits(tap: Candidate, chosen: Sequence[Candidate]) -> bool:
    """Whether a training can read ``tap`` beside those ``chosen``."""
    shapes = {each.shape for each in chosen} | {tap.shape}
    grids = {(shape.height, shape.width) for shape in shapes}
    return tap not in chosen and bool(np.isfinite(tap.reid)) and len(shapes) == len(grids) <= len(LEVELS)
