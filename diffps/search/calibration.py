"""How far a similarity can be believed: thresholds that belong to a search, because strangers grow more alike with the
number of boxes searched.

FPIR: false positive identification rate, the share of searches for somebody who is not in the gallery that find a box
at or above the threshold all the same. FNIR: false negative identification rate, the share of pictures of the person
that lie below it. (ISO/IEC 19795-1.)

The reduced variate g = -log(-log(1 - FPIR)) makes the law of the largest of n similarities plain: where their tail is
exponential (Gumbel's case, Coles, An Introduction to Statistical Modeling of Extreme Values, 3.1.3), the threshold is
linear in g and in log n. Measured thresholds are joined by straight lines in these two, and continued by such a tail.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from diffps.errors import CalibrationError

LEVELS = (0.99, 0.9, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)  # FPIR of a row's thresholds
QUANTILES = 101  # of the similarities of mates


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeThresholds:
    """Galleries of ``boxes`` boxes: the threshold of each of LEVELS, ascending; ``scale``, what a further unit of g
    adds; ``least``, the smallest level that was measured and not continued."""

    boxes: float
    thresholds: tuple[float, ...]
    scale: float
    least: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """What similarities mean to one head, measured on identities it was not trained on.

    ``sizes`` by rising number of boxes. ``mates``: quantiles, in even steps from 0 to 1, of the similarity between a
    person and a picture of theirs in another scene; -1 where the detector missed them. ``pictures``: how many pictures
    of the person make a query. ``identities``, ``unmated`` and ``mated`` searches, ``scenes`` and their ``pool`` of
    boxes are what it was measured on.
    """

    sizes: tuple[SizeThresholds, ...]
    mates: tuple[float, ...]
    pictures: int
    identities: int
    unmated: int
    mated: int
    scenes: int
    pool: int

    def __post_init__(self) -> None:
        boxes = [row.boxes for row in self.sizes]
        values = [value for row in self.sizes for value in (*row.thresholds, row.scale, row.boxes, row.least)]
        falling = any(np.diff(row.thresholds).min(initial=0) < 0 for row in self.sizes)
        if (
            not boxes
            or min(boxes) <= 0
            or sorted(set(boxes)) != boxes
            or any(len(row.thresholds) != len(LEVELS) or not row.scale > 0 for row in self.sizes)
            or len(self.mates) < 2
            or not np.isfinite([*values, *self.mates]).all()
            or falling
            or np.diff(self.mates).min() < 0
        ):
            raise CalibrationError("calibration: not one that this version wrote; calibrate the head again")

    @property
    def measured_boxes(self) -> float:
        """The largest gallery that was measured; beyond it thresholds are those of a fit."""
        return self.sizes[-1].boxes

    def least(self, boxes: float) -> float:
        """The smallest FPIR that was measured for a gallery of so many boxes; below it thresholds are those of a fit.
        1 beyond the largest gallery measured."""
        if boxes > self.measured_boxes:
            return 1.0
        low, high, _ = self._place(boxes)
        return max(low.least, high.least)

    def threshold(self, boxes: float, fpir: float) -> float:
        """The similarity that the share ``fpir`` of strangers reaches somewhere among ``boxes`` boxes.

        Raises CalibrationError for a share that is not within (0, 1), and for less than one box.
        """
        if not 0 < fpir < 1:
            raise CalibrationError(f"fpir {fpir}: must lie between 0 and 1")
        g, thresholds, scale = self._curve(boxes)
        return float(_extended(reduced(fpir), g, thresholds, 1 / scale))

    def fpir(self, similarity: ArrayLike, boxes: float) -> NDArray[np.float64]:
        """The share of strangers that look so alike, or more, to somebody among ``boxes`` boxes; in [0, 1]."""
        g, thresholds, scale = self._curve(boxes)
        values = np.asarray(similarity, np.float64)
        found = _extended(values, thresholds, g, scale)
        result: NDArray[np.float64] = -np.expm1(-np.exp(-found))
        return result

    def fnir(self, threshold: ArrayLike) -> NDArray[np.float64]:
        """The share of pictures of the person that lie below a threshold, those that the detector missed included."""
        values = np.asarray(threshold, np.float64)
        result: NDArray[np.float64] = np.searchsorted(self.mates, values, side="left") / len(self.mates)
        return result

    def table(
        self, sizes: Sequence[int] = (100, 1000, 10_000, 100_000), levels: Sequence[float] = (0.01, 0.1)
    ) -> list[dict[str, float | bool]]:
        """For people: a row for each size and level with ``boxes``, ``fpir``, ``threshold``, the ``fnir`` that it
        costs, and whether that was ``measured``."""
        rows: list[dict[str, float | bool]] = []
        for boxes in sizes:
            for level in levels:
                threshold = self.threshold(boxes, level)
                fnir = float(self.fnir(threshold))
                measured = level >= self.least(boxes)
                rows.append({"boxes": boxes, "fpir": level, "threshold": threshold, "fnir": fnir, "measured": measured})
        return rows

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"levels": list(LEVELS), **asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Calibration":
        """What :meth:`to_json` gave. Raises CalibrationError for anything else."""
        try:
            if list(value["levels"]) != list(LEVELS):
                raise ValueError("its levels are others")
            rows = [SizeThresholds(**{**row, "thresholds": tuple(row["thresholds"])}) for row in value["sizes"]]
            rest = {name: part for name, part in value.items() if name not in ("levels", "sizes", "mates")}
            return cls(sizes=tuple(rows), mates=tuple(value["mates"]), **rest)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CalibrationError(
                f"calibration: not one that this version wrote ({error}); calibrate the head again"
            ) from error

    def _place(self, boxes: float) -> tuple[SizeThresholds, SizeThresholds, float]:
        """The two measured sizes around a number of boxes, and how far between them it lies in log n, in [0, 1]."""
        if not boxes >= 1:
            raise CalibrationError(f"boxes {boxes}: there is nothing to search")
        at = np.log([row.boxes for row in self.sizes])
        position = float(np.interp(np.log(boxes), at, np.arange(len(at))))
        low, high = math.floor(position), math.ceil(position)
        return self.sizes[low], self.sizes[high], position - low

    def _curve(self, boxes: float) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Thresholds over g for so many boxes, and the scale beyond the last."""
        low, high, share = self._place(boxes)
        thresholds = (1 - share) * np.array(low.thresholds) + share * np.array(high.thresholds)
        scale = (1 - share) * low.scale + share * high.scale
        beyond = max(0.0, math.log(boxes / self.measured_boxes))  # n boxes are n / m galleries of m
        return _LEVEL_G - beyond, thresholds, scale


def reduced(fpir: ArrayLike) -> NDArray[np.float64]:
    """g of shares within (0, 1)."""
    result: NDArray[np.float64] = -np.log(-np.log1p(-np.asarray(fpir, np.float64)))
    return result


def odds(share: float) -> str:
    """A share in words: 0.01 is "one in 100"; above a half in percent, and below what is measured only that it is."""
    if share > 0.5:
        return f"{share:.0%} of"
    return f"one in {round(1 / share):,}" if share >= LEVELS[-1] else f"fewer than one in {round(1 / LEVELS[-1]):,}"


_LEVEL_G = reduced(LEVELS)


def _extended(
    x: ArrayLike, known_x: NDArray[np.float64], known_y: NDArray[np.float64], inverse_slope: float
) -> NDArray[np.float64]:
    """Piecewise linear through the known points; beyond both ends a straight line of the slope 1 / ``inverse_slope``.

    ``known_x`` may stay level: the last of equals counts.
    """
    values = np.asarray(x, np.float64)
    inside = np.interp(values, known_x, known_y)
    result: NDArray[np.float64] = inside + (values - np.clip(values, known_x[0], known_x[-1])) / inverse_slope
    return result
