"""The probe's table: what every tap is worth, from what :class:`~diffps.probe.collect.Collector` kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.probe.config import ProbeRules
from diffps.probe.intervals import (
    NOTHING,
    Estimate,
    Sums,
    by_group,
    estimate,
    family_bounds,
    known_bounds,
    near_best,
    resample,
)
from diffps.probe.reid import Retrieved, Task, by_cosine, by_map, in_strips, make_task
from diffps.probe.sample import Persons, ProbeSample

FAMILIES = 2  # re-ID and detection: chance is asked of both together

Rows = Mapping[str, NDArray[Any]]
Vectors = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class ReID:
    """What pooled vectors are worth for re-ID, each a mean over the queries of persons seen twice.

    ``map`` and ``top1`` are the headline: strips side by side, after the linear map. ``whole``: the whole box after the
    linear map; ``cosine`` and ``strips_cosine`` without a map. ``dealt``: what the headline's mean average precision is
    above chance when names are dealt anew, and the ``bound`` within which all taps' stay together with 95 %, those of
    detection included. ``near_best``: not to be told from the best tap.
    """

    map: Estimate = NOTHING
    top1: Estimate = NOTHING
    whole: Estimate = NOTHING
    cosine: Estimate = NOTHING
    cosine_top1: Estimate = NOTHING
    strips_cosine: Estimate = NOTHING
    dealt: float = nan
    bound: float = nan
    near_best: bool = False


@dataclass(frozen=True, slots=True)
class Detection:
    """What a tap is worth for detection, on the scenes that its weights were not fitted on.

    ``precision``: mean over scenes of the average precision with which windows that show a person are ranked before
    others. ``recall``: share of the persons found by a fixed number of boxes, each a window moved to its person.
    ``dealt`` and ``bound`` as in ReID, for the precision.
    """

    precision: Estimate = NOTHING
    recall: Estimate = NOTHING
    dealt: float = nan
    bound: float = nan
    near_best: bool = False


@dataclass(frozen=True, slots=True)
class WordMap:
    """How well one word map points at persons, without any weights: ``precision``, mean over all scenes of the average
    precision with which it ranks positions of the finest grid; ``hit``: share of scenes whose strongest position is a
    person's; ``share``: what a random position gives."""

    precision: Estimate
    hit: Estimate
    share: float


def task_of(sample: ProbeSample, rules: ProbeRules) -> Task | None:
    """Who is searched where, or None where re-ID cannot be probed."""
    return None if sample.across is None else make_task(sample.persons, rules.folds, rules.seed)


def measure_reid(task: Task, vectors: Mapping[str, Vectors], names: Sequence[str], rules: ProbeRules) -> list[ReID]:
    """Of each of ``names``, whose ``vectors[name]`` are (n, S, C); looked up one after another."""
    dealt_task = make_task(_dealt(task.persons, rules.seed), rules.folds, rules.seed)
    scores, precisions, dealt = [], [], []
    for name in names:
        strips, whole = in_strips(vectors[name]), vectors[name].mean(1)
        mapped, cosine = by_map(task, strips), by_cosine(task, whole)
        values = [mapped.precision, mapped.first, by_map(task, whole).precision, cosine.precision, cosine.first]
        sums = by_group(np.stack([*values, by_cosine(task, strips).precision]), task.identities)
        found = resample(sums, rules.resamples, rules.seed)
        told = [estimate(value, draw) for value, draw in zip(sums.ratio.tolist(), found, strict=True)]
        scores.append(
            ReID(map=told[0], top1=told[1], whole=told[2], cosine=told[3], cosine_top1=told[4], strips_cosine=told[5])
        )
        precisions.append(found[0])
        dealt.append(by_map(dealt_task, strips).precision - dealt_task.chance)
    excess = by_group(np.stack(dealt), dealt_task.identities)
    bounds = family_bounds(excess, FAMILIES * len(names))
    best = near_best(np.array([score.map.value for score in scores]), np.stack(precisions))
    controls = zip(scores, excess.ratio.tolist(), bounds.tolist(), best.tolist(), strict=True)
    return [replace(score, dealt=above, bound=bound, near_best=near) for score, above, bound, near in controls]


def measure_set(task: Task, vectors: Mapping[str, Vectors], names: Iterable[str]) -> Retrieved:
    """Retrieval with several taps side by side, each in strips, after one linear map."""
    return by_map(task, np.concatenate([in_strips(vectors[name]) for name in names], axis=1))


def measure_detection(rows: Rows, taps: Sequence[str], rules: ProbeRules) -> list[Detection]:
    """Of each of ``taps``, in their order."""
    truths = np.asarray(rows["truths"], np.float64)
    precisions = _scenes(rows, [f"{name}/precision" for name in taps])
    found = np.array([rows[f"{name}/found"] for name in taps], np.float64)
    recalls = Sums(found, truths)
    draws = resample(precisions, rules.resamples, rules.seed), resample(recalls, rules.resamples, rules.seed)
    best = near_best(precisions.ratio, draws[0])
    # A scene whose windows show nobody tells nothing of chance.
    dealt = np.nan_to_num([rows[f"{name}/shuffled"] - rows["chance"] for name in taps])
    variance: NDArray[np.float64] = np.nan_to_num(rows["variance"])
    excess, bound = dealt.mean(1), float(known_bounds(variance, FAMILIES * len(taps)))
    return [
        Detection(
            precision=estimate(precisions.ratio[row], draws[0][row]),
            recall=estimate(recalls.ratio[row], draws[1][row]),
            dealt=float(excess[row]),
            bound=bound,
            near_best=bool(best[row]),
        )
        for row in range(len(taps))
    ]


def measure_maps(rows: Rows, names: Sequence[str], rules: ProbeRules) -> list[WordMap]:
    """Of each word map, in the order of ``names``."""
    found = []
    for name in names:
        sums = _scenes(rows, [f"{name}/precision", f"{name}/hit"])
        draws = resample(sums, rules.resamples, rules.seed)
        precision, hit = (estimate(value, draw) for value, draw in zip(sums.ratio.tolist(), draws, strict=True))
        found.append(WordMap(precision, hit, float(np.mean(rows[f"{name}/share"]))))
    return found


def _scenes(rows: Rows, names: Sequence[str]) -> Sums:
    """Means over scenes, without those that have no value."""
    values = np.stack([np.asarray(rows[name], np.float64) for name in names])
    known = np.isfinite(values).all(0)
    return Sums(np.where(known, values, 0.0), np.asarray(known, np.float64))


def _dealt(persons: Persons, seed: int) -> Persons:
    """The same boxes with their names, those without one included, dealt anew."""
    order = np.random.default_rng([seed, 1]).permutation(len(persons.identities))
    return persons._replace(identities=persons.identities[order])
