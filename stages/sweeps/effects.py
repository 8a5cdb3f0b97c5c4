"""Main effects of a sweep's factors, with the scatter between seeds, from the scores there are."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from diffps.metrics.effects import Run, basis, effects_text, factor_levels, main_effects, variant_scores
from stages.sweeps.variants import Variant

# Of mAP between trainings that differ in their seed alone, measured on the demo (docs/demo.md).
DEMO_DEVIATION = 0.04


def sweep_runs(variants: Sequence[Variant], rows: Sequence[Mapping[str, Any]]) -> list[Run]:
    """One per variant that has a score in its row of the table; heads that differ in their seed are one variant."""
    scored = [(variant, row) for variant, row in zip(variants, rows, strict=True) if row["map"] is not None]
    levels = factor_levels({variant.name: variant.changes for variant, _ in scored})
    return [
        Run(variant=variant.group, factors=levels[variant.name], seed=row["seed"], score=row["map"])
        for variant, row in scored
    ]


def effects_content(runs: Sequence[Run]) -> dict[str, Any]:
    """effects.json: ``variants`` and ``effects`` as :mod:`diffps.metrics.effects` has them, ``deviation`` between runs
    with its ``degrees`` and ``source``, ``basis`` in words, and ``text``, both tables for a terminal."""
    if not runs:
        return {}
    found = main_effects(runs)
    return {
        **asdict(found),
        "variants": [asdict(score) for score in variant_scores(runs)],
        "basis": basis(found, DEMO_DEVIATION),
        "text": effects_text(runs, DEMO_DEVIATION),
    }
