"""A probe's parts into numbers: taps, word maps, references and chosen sets of every checkpoint and timestep."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.heads.config import TapsConfig
from diffps.images import load_scene
from diffps.metrics.baselines import colour_histograms
from diffps.probe.intervals import Estimate, by_group, estimate, resample
from diffps.probe.redundancy import similarity
from diffps.probe.reid import Task
from diffps.probe.sample import ProbeSample
from diffps.probe.sets import Candidate, TapSet, choose_set
from diffps.probe.table import (
    Detection,
    ReID,
    WordMap,
    measure_detection,
    measure_maps,
    measure_reid,
    measure_set,
    task_of,
)
from stages.config_probe import ProbeFile
from stages.images import ImageFolder
from stages.probing.prober import state_at
from stages.probing.setting import ProbePlan

MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Probed:
    """One checkpoint at one timestep: what its taps and word maps are worth, in the order of the UNet's forward.

    ``megabytes``: what a feature takes per image, as the parameters store it. ``redundancy`` (T, T) between taps, NaN
    without re-ID. ``chance``: mean average precision of a random order.
    """

    plan: ProbePlan
    timestep: int
    sample: ProbeSample
    task: Task | None
    vectors: "Pooled"
    reid: Mapping[str, ReID]
    detection: Mapping[str, Detection]
    maps: Mapping[str, WordMap]
    megabytes: Mapping[str, float]
    redundancy: NDArray[np.float64]

    @property
    def chance(self) -> float:
        return float("nan") if self.task is None else float(self.task.chance.mean())


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredSet:
    """A set of taps: its re-ID score with all re-ID taps side by side, and ``ahead``, how far it is ahead of the set
    that the parameters name, on the same persons."""

    name: str
    taps: TapsConfig
    megabytes: float
    map: Estimate
    ahead: Estimate


class Pooled(Mapping[str, NDArray[np.float32]]):
    """Pooled vectors (n, S, C) of every box by tap, read when they are asked for."""

    def __init__(self, rows: Mapping[str, NDArray[Any]], taps: Sequence[str]) -> None:
        self._rows, self._taps = rows, taps

    def __getitem__(self, tap: str) -> NDArray[np.float32]:
        return self._rows[f"{tap}/vectors"]

    def __iter__(self) -> Any:
        return iter(self._taps)

    def __len__(self) -> int:
        return len(self._taps)


def measure(plan: ProbePlan, timestep: int) -> Probed:
    """Everything about a plan's taps at one timestep whose stretches are all there."""
    rows, taps, rules = state_at(plan, timestep).rows(), list(plan.reads.taps), plan.rules
    sample = plan.sample.only(rows["scenes"].tolist())
    task, vectors = task_of(sample, rules), Pooled(rows, taps)
    reid = [ReID()] * len(taps) if task is None else measure_reid(task, vectors, taps, rules)
    specs = plan.unet.specs("train", "identity", timestep)
    nothing = np.full((len(taps), len(taps)), np.nan)
    return Probed(
        plan=plan,
        timestep=timestep,
        sample=sample,
        task=task,
        vectors=vectors,
        reid=dict(zip(taps, reid, strict=True)),
        detection=dict(zip(taps, measure_detection(rows, taps, rules), strict=True)),
        maps=dict(zip(plan.reads.maps, measure_maps(rows, list(plan.reads.maps), rules), strict=True)),
        megabytes={name: spec.image_bytes / MEGABYTE for name, spec in specs.items()},
        redundancy=nothing if task is None else similarity(vectors, taps, rules.seed),
    )


def measure_colours(probed: Probed, images: ImageFolder) -> ReID:
    """What the colours of the same boxes are worth, from ``images``."""
    if probed.task is None:
        return ReID()
    found = []
    for scene, boxes in zip(probed.sample.scenes, probed.sample.boxes, strict=True):
        pixels = load_scene(images.file(scene), scene.digest, max_pixels=images.max_pixels)
        found.append(colour_histograms(pixels, probed.plan.frame.to_scene(boxes, scene.size)))
    histograms = {"colours": np.concatenate(found)[:, None]}
    found_alone = measure_reid(probed.task, histograms, ["colours"], probed.plan.rules)[0]
    return replace(found_alone, near_best=False)


def measure_sets(probed: Probed, config: ProbeFile, own: TapsConfig) -> list[MeasuredSet]:
    """The set ``own`` that the parameters name, where its taps are probed, then the best under each budget; nothing
    without re-ID."""
    task = probed.task
    if task is None:
        return []
    rules, vectors = probed.plan.rules, probed.vectors

    @cache
    def precisions(names: tuple[str, ...]) -> NDArray[np.float64]:
        return measure_set(task, vectors, names).precision

    def together(names: tuple[str, ...]) -> float:
        return float(precisions(names).mean())

    def measured(name: str, taps: TapsConfig, megabytes: float, reference: tuple[str, ...] | None) -> MeasuredSet:
        own_precision = precisions(reid_taps(taps))
        compared = own_precision * np.nan if reference is None else own_precision - precisions(reference)
        sums = by_group(np.stack([own_precision, compared]), task.identities)
        told = [
            estimate(value, draw)
            for value, draw in zip(sums.ratio, resample(sums, rules.resamples, rules.seed), strict=True)
        ]
        return MeasuredSet(name=name, taps=taps, megabytes=megabytes, map=told[0], ahead=told[1])

    sets, reference = [], None
    if all(name in probed.megabytes for name in own.names):
        reference = reid_taps(own)
        sets.append(measured("train.taps", own, sum(probed.megabytes[name] for name in own.names), reference))
    candidates = [
        Candidate(
            name=name,
            shape=shape,
            megabytes=probed.megabytes[name],
            reid=probed.reid[name].map.value,
            detection=probed.detection[name].precision.value,
        )
        for name, shape in probed.plan.reads.taps.items()
    ]
    guidance = _guidance(probed, own)
    for budget in sorted(config.budgets):
        found: TapSet | None = choose_set(candidates, guidance, budget, probed.redundancy, together)
        if found is not None:
            sets.append(measured(f"under {budget:g} MB", found.taps, found.megabytes, reference))
    return sets


def reid_taps(taps: TapsConfig) -> tuple[str, ...]:
    """The taps that re-ID reads, coarse levels first."""
    return (*taps.level1, *taps.level2, *taps.level3)


def _guidance(probed: Probed, own: TapsConfig) -> Candidate | None:
    """The word map that points at persons best; the parameters' own where none was probed, if it has one."""
    name = max(probed.maps, key=lambda name: probed.maps[name].precision.value, default=own.guidance)
    if name is None:
        return None
    shape = probed.plan.reads.maps.get(name) or next(iter(probed.plan.reads.taps.values()))
    return Candidate(name=name, shape=shape, megabytes=probed.megabytes.get(name, 0.0), reid=np.nan, detection=np.nan)
