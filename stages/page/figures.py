"""The figures by name: each from the evidence to sheets and charts, or NotThereError with what is missing."""

import re
from statistics import fmean
from typing import TYPE_CHECKING

from diffps.errors import ConfigError
from stages.page.evidence import Evidence, NotThereError

if TYPE_CHECKING:
    from diffps.figures.sheets import Chart, Picture

# Name -> the heading of its section on the page, in the page's order.
TITLES = {
    "ranking": "Rankings",
    "similarity": "Similarity",
    "failures": "Failures",
    "attention": "Attention",
    "pca": "Features",
    "frequency": "Frequency refinement",
    "semantics": "Semantic weighting",
    "timesteps": "Timesteps",
    "taps": "Taps",
}
TIMESTEP = re.compile(r"-?timestep=\d+")  # in the name of a sweep's variant
SCORES = {"detection AP": "detection_ap", "re-ID mAP": "map"}


def make(name: str, evidence: Evidence) -> "list[Picture]":
    """The pictures of one figure. Raises NotThereError, and ConfigError for a name that is none."""
    from stages.page import features, searches

    match name:
        case "ranking":
            return [searches.rankings(evidence)]
        case "failures":
            return [searches.failures(evidence)]
        case "similarity":
            return [_similarity(evidence)]
        case "attention":
            return [features.attention(evidence)]
        case "pca":
            return list(features.components(evidence))
        case "frequency":
            return [features.frequency(evidence)]
        case "semantics":
            return [features.semantics(evidence)]
        case "timesteps":
            return [_timesteps(evidence)]
        case "taps":
            return [_taps(evidence)]
        case _:
            raise ConfigError(f"figure {name}: there is none of that name; known are {', '.join(TITLES)}")


def _similarity(evidence: Evidence) -> "Chart":
    from diffps.figures.similarity import similarity_chart
    from stages.page.searches import similarity

    pairs = similarity(evidence)
    if pairs is None:
        raise NotThereError(
            "figure similarity: no identity was detected in two scenes, so there are no pairs to compare"
        )
    return similarity_chart(pairs)


def _timesteps(evidence: Evidence) -> "Chart":
    from diffps.figures.curves import score_chart

    if len({row["timestep"] for row in evidence.sweep}) < 2:
        raise NotThereError(_no_sweep("timesteps"))
    series: dict[str, dict[float, list[float]]] = {}
    kinds = {TIMESTEP.sub("", row["group"]) for row in evidence.sweep}
    for row in evidence.sweep:
        kind = TIMESTEP.sub("", row["group"])
        for label, column in SCORES.items():
            name = label if len(kinds) == 1 else f"{label}, {kind or 'base'}"
            series.setdefault(name, {}).setdefault(float(row["timestep"]), []).append(float(row[column]))
    lines = {name: [(step, fmean(values)) for step, values in points.items()] for name, points in series.items()}
    return score_chart("Scores against the timestep", "timestep", {k: v for k, v in lines.items() if len(v) > 1})


def _taps(evidence: Evidence) -> "Chart":
    from diffps.figures.curves import bar_chart

    if len({row["taps"] for row in evidence.sweep}) < 2:
        raise NotThereError(_no_sweep("taps"))
    names = list(dict.fromkeys(row["group"] for row in evidence.sweep))
    groups = {
        label: [(name, fmean(row[column] for row in evidence.sweep if row["group"] == name)) for name in names]
        for label, column in SCORES.items()
    }
    return bar_chart("Scores per set of taps", "score", groups)


def _no_sweep(name: str) -> str:
    return f"figure {name}: no sweep over {name}; run: diffps sweep --set sweep.file=presets/sweeps/{name}.yaml"
