"""Rounds of a sweep: variants that are trained from one reading of the store."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from diffps.backbone.published import published_models
from diffps.taps import FeatureName
from stages.features.reading import Reading
from stages.sweeps.variants import Variant

UNION_LIMIT = 1.25  # heads share a round while their taps together are at most this much more than the largest set


def plan_rounds(variants: Sequence[Variant]) -> list[list[Variant]]:
    """Variants that share one reading: same features, order and mirroring, and taps that overlap enough."""
    rounds: list[list[Variant]] = []
    for variant in sorted(variants, key=_size, reverse=True):
        for others in rounds:
            together = _weight({name for other in [*others, variant] for name in other.reading.names})
            if _stream(others[0]) == _stream(variant) and together <= UNION_LIMIT * _size(others[0]):
                others.append(variant)
                break
        else:
            rounds.append([variant])
    order = {variant.name: number for number, variant in enumerate(variants)}
    ordered = [sorted(group, key=lambda variant: order[variant.name]) for group in rounds]
    return sorted(ordered, key=lambda group: order[group[0].name])


def shared_reading(variants: Sequence[Variant]) -> Reading:
    """Every feature a round reads, once."""
    return variants[0].reading.at(dict.fromkeys(name for variant in variants for name in variant.reading.names))


def _stream(variant: Variant) -> str:
    """Everything that must be equal for heads to see the same batches."""
    train = asdict(variant.params.train)
    keys = ("source", "timestep", "flip", "data_seed", "batch", "scenes", "holdout")
    passed = asdict(variant.params.encode), asdict(variant.params.extract)
    return json.dumps([passed, {key: train[key] for key in keys}])


def _size(variant: Variant) -> float:
    return _weight(variant.reading.names)


def _weight(names: Iterable[str]) -> float:
    """Relative size of a set of features: channels per canvas pixel of the taps of published diffusion models, which
    differ by far; those of other priors count alike. Maps are small."""
    known = {
        tap: spec.channels / spec.stride**2
        for model in published_models()
        for tap, spec in model.taps.items()
        if spec.stride
    }
    features = [FeatureName.parse(name) for name in names]
    return sum(known.get(feature.tap, 1.0) for feature in features if feature.word is None)
