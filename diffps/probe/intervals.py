"""How sure a number is. What is drawn again are identities or scenes, never boxes: boxes of one scene are not
independent, and those of one person still less.

T taps, G groups (identities or scenes), R resamples. Every number here is a ratio of sums over groups.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

LEVEL = 0.95


class Estimate(NamedTuple):
    """A value and the interval that holds it in 95 of 100 samples; NaN where nothing can be said."""

    value: float
    low: float
    high: float


NOTHING = Estimate(float("nan"), float("nan"), float("nan"))


class Sums(NamedTuple):
    """Numerators (..., G) and denominators (G,) of a ratio, by group."""

    above: NDArray[np.float64]
    below: NDArray[np.float64]

    @property
    def ratio(self) -> NDArray[np.float64]:
        """(...,) the ratio over all groups."""
        return _divide(self.above.sum(-1), self.below.sum())


def by_group(values: NDArray[np.float64], groups: NDArray[np.integer]) -> Sums:
    """Means of ``values`` (..., n) that belong to ``groups`` (n,): sums and counts, the groups in ascending order."""
    names, member = np.unique(groups, return_inverse=True)
    order = np.argsort(member, kind="stable")
    starts = np.searchsorted(member[order], np.arange(len(names)))
    above = np.add.reduceat(values[..., order], starts, axis=-1) if len(names) else values
    return Sums(above, np.bincount(member, minlength=len(names)).astype(np.float64))


def resample(sums: Sums, resamples: int, seed: int) -> NDArray[np.float64]:
    """(..., R) the ratio when as many groups are drawn with replacement; equal draws for equal G and seed, so that
    differences between taps can be taken resample by resample."""
    groups = len(sums.below)
    if not groups:
        return np.full((*sums.above.shape[:-1], resamples), np.nan)
    drawn = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), resamples).T.astype(np.float64)
    return _divide(sums.above @ drawn, sums.below @ drawn)


def estimate(value: float, draws: NDArray[np.float64]) -> Estimate:
    """``value`` with the interval of its resampled ``draws`` (R,)."""
    if not np.isfinite(draws).any():
        return Estimate(float(value), float("nan"), float("nan"))
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))


def near_best(values: NDArray[np.float64], draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """(T,) which taps cannot be told from the best of ``values`` (T,): the interval of the difference, taken resample
    by resample of ``draws`` (T, R), reaches 0."""
    near = np.isfinite(values)
    if near.any():
        behind = draws[np.nanargmax(values)] - draws[near]
        near[near] = np.quantile(behind, (1 - LEVEL) / 2, axis=1) <= 0
    return near


def family_bounds(excess: Sums, tests: int) -> NDArray[np.float64]:
    """(...,) how far from 0 a ratio may lie whose true value is 0: with 95 %, all of ``tests`` at once (Bonferroni).

    ``excess`` sums what lies above the expectation, by group. Student's t over groups, as a ratio of sums; no error is
    taken to be below the median of all, as one that is small by chance would raise an alarm.
    """
    groups = len(excess.below)
    if groups < 2:
        return np.full(excess.above.shape[:-1], np.inf)
    residual = excess.above - excess.ratio[..., None] * excess.below
    error = np.sqrt((residual**2).sum(-1) * groups / (groups - 1)) / excess.below.sum()
    error = np.maximum(error, np.median(error))
    bound: NDArray[np.float64] = student.ppf(1 - (1 - LEVEL) / (2 * tests), groups - 1) * error
    return bound


def known_bounds(variances: NDArray[np.float64], tests: int) -> NDArray[np.float64]:
    """(...,) the same of a mean over groups whose ``variances`` (..., G) under chance are known: few groups then raise
    no alarm by an error that is small by chance."""
    groups = variances.shape[-1]
    if not groups:
        return np.full(variances.shape[:-1], np.inf)
    bound: NDArray[np.float64] = norm.ppf(1 - (1 - LEVEL) / (2 * tests)) * np.sqrt(variances.sum(-1)) / groups
    return bound


def _divide(above: NDArray[np.float64], below: NDArray[np.float64] | np.float64) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.divide(above, below, out=np.full_like(above, np.nan), where=np.asarray(below) > 0)
    return found
