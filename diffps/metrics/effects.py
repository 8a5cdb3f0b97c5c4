"""What a sweep shows: scores per variant with the scatter between trainings, and the main effect of each factor.

A run is one trained head. Two trainings that differ in their seed alone score differently; that run-to-run deviation,
not the number of queries, says which differences between variants mean something.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

AS_IS = "as in params"  # the level of a factor that a variant does not change
ROUNDING = 1e-8  # of a product with a pseudo-inverse
NOTABLE = 2.0  # standard errors beyond which an effect is marked

Source = Literal["seeds", "residuals", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One trained head: its variant, the level of each factor, its seed, and its score in [0, 1]."""

    variant: str
    factors: Mapping[str, str]
    seed: int
    score: float


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantScore:
    """Mean score of a variant's runs; deviation between them and standard error of the mean, None for a single run."""

    variant: str
    runs: int
    mean: float
    deviation: float | None
    error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """Change of the mean score when ``factor`` goes from ``reference`` to ``level``, the other factors held.

    ``error`` is its standard error, None where no run tells of scatter; ``notable``: the change exceeds twice that.
    """

    factor: str
    level: str
    reference: str
    change: float
    error: float | None
    notable: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Effects:
    """Main effects over all runs, and what their errors rest on.

    ``deviation`` between runs, pooled, with ``degrees`` of freedom. ``source``: ``seeds``, the scatter of each
    variant's runs about its mean; ``residuals``, where no variant has two runs, what the main effects leave over,
    interactions included; ``none``, where nothing is left over either, and the errors are None.
    """

    effects: tuple[Effect, ...]
    deviation: float | None
    degrees: int
    source: Source
    runs: int


def factor_levels(changes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The level of each factor by variant, from each variant's ``changes`` to the settings; ``seed`` is no factor.

    A setting that one variant changes has the level ``as in params`` in a variant that does not. Where settings change
    together, so that their effects cannot be told apart, the variants are the levels of one factor, ``variant``.
    """
    keys = list(dict.fromkeys(key for change in changes.values() for key in change if key != "seed"))
    levels = {
        name: {key: _text(change[key]) if key in change else AS_IS for key in keys} for name, change in changes.items()
    }
    varied = [key for key in keys if len({level[key] for level in levels.values()}) > 1]
    apart = {name: {key: level[key] for key in varied} for name, level in levels.items()}
    design, columns = _design(list(apart.values()))
    if np.linalg.matrix_rank(design) < 1 + len(columns):
        return {name: {"variant": name} for name in changes}
    return apart


def variant_scores(runs: Sequence[Run]) -> list[VariantScore]:
    """One per variant, in order of first appearance."""
    found = []
    for variant, scores in _by_variant(runs).items():
        deviation = stdev(scores) if len(scores) > 1 else None
        error = None if deviation is None else deviation / len(scores) ** 0.5
        found.append(
            VariantScore(variant=variant, runs=len(scores), mean=fmean(scores), deviation=deviation, error=error)
        )
    return found


def main_effects(runs: Sequence[Run]) -> Effects:
    """Ordinary least squares of the score on the factors, without interactions; the first run has the reference levels.

    An effect that the runs cannot tell from the others is left out.
    """
    scores = np.array([run.score for run in runs])
    design, columns = _design([run.factors for run in runs])
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ scores
    # A coefficient can be told from the others where inverse @ design is the identity in its row.
    separable = np.abs(inverse @ design - np.eye(design.shape[1])).max(axis=1) < ROUNDING
    variance, degrees, source = _scatter(runs, scores - design @ coefficients, int(np.linalg.matrix_rank(design)))
    effects = []
    for at, (factor, level) in enumerate(columns, start=1):
        if separable[at]:
            change = float(coefficients[at])
            error = None if variance is None else float(np.sqrt(variance * (inverse[at] @ inverse[at])))
            effects.append(
                Effect(
                    factor=factor,
                    level=level,
                    reference=runs[0].factors[factor],
                    change=change,
                    error=error,
                    notable=error is not None and abs(change) > NOTABLE * error,
                )
            )
    deviation = None if variance is None else float(np.sqrt(variance))
    return Effects(effects=tuple(effects), deviation=deviation, degrees=degrees, source=source, runs=len(runs))


def effects_text(runs: Sequence[Run], known_deviation: float | None = None) -> str:
    """Both tables in percent, and what their errors count. ``known_deviation``: between runs of the demo, in
    [0, 1]; said where these runs tell nothing of it."""
    scores, found = variant_scores(runs), main_effects(runs)
    width = max(map(len, ["variant", *(score.variant for score in scores)]))
    lines = [f"{'variant':{width}}  runs   mean    se"]
    lines += [f"{s.variant:{width}}  {s.runs:4}  {100 * s.mean:5.1f}  {_points(s.error):>4}" for s in scores]
    if found.effects:
        names = [f"{effect.factor}: {effect.level} against {effect.reference}" for effect in found.effects]
        width = max(map(len, ["main effect", *names]))
        lines += ["", f"{'main effect':{width}}  change    se"]
        for name, effect in zip(names, found.effects, strict=True):
            mark = "  *" if effect.notable else ""
            lines.append(f"{name:{width}}  {100 * effect.change:+6.1f}  {_points(effect.error):>4}{mark}")
    return "\n".join([*lines, "", basis(found, known_deviation)])


def basis(found: Effects, known_deviation: float | None = None) -> str:
    """One sentence on what the errors rest on."""
    if found.source == "seeds":
        assert found.deviation is not None
        return (
            f"Errors from the scatter between seeds: {100 * found.deviation:.1f} points from run to run, pooled over "
            f"variants, {found.degrees} degrees of freedom; * marks changes above twice their error."
        )
    known = "" if known_deviation is None else f", {100 * known_deviation:.1f} points between trainings of the demo"
    if found.source == "residuals":
        assert found.deviation is not None
        return (
            "Every variant was trained once. Errors from what the main effects leave over, interactions included: "
            f"{100 * found.deviation:.1f} points, {found.degrees} degrees of freedom. Errors over queries do not count "
            f"the scatter from run to run{known}."
        )
    return f"Every variant was trained once: errors over queries do not count the scatter from run to run{known}."


def _scatter(runs: Sequence[Run], left: NDArray[np.float64], rank: int) -> tuple[float | None, int, Source]:
    """Variance of one run, its degrees of freedom, and where both come from."""
    groups = [np.array(scores) for scores in _by_variant(runs).values()]
    degrees = sum(len(scores) - 1 for scores in groups)
    if degrees:
        return sum(float(((scores - scores.mean()) ** 2).sum()) for scores in groups) / degrees, degrees, "seeds"
    degrees = len(runs) - rank
    return (float(left @ left) / degrees, degrees, "residuals") if degrees else (None, 0, "none")


def _design(rows: Sequence[Mapping[str, str]]) -> tuple[NDArray[np.float64], list[tuple[str, str]]]:
    """A column of ones, then one indicator per level that the first row does not have; their factors and levels."""
    factors = dict.fromkeys(factor for row in rows for factor in row)
    columns = [
        (factor, level)
        for factor in factors
        for level in dict.fromkeys(row[factor] for row in rows)
        if level != rows[0][factor]
    ]
    indicators = [[1.0, *(float(row[factor] == level) for factor, level in columns)] for row in rows]
    return np.array(indicators).reshape(len(rows), 1 + len(columns)), columns


def _by_variant(runs: Sequence[Run]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for run in runs:
        found.setdefault(run.variant, []).append(run.score)
    return found


def _text(value: Any) -> str:
    return "off" if value is None else str(value)


def _points(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
