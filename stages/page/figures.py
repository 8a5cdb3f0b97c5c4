"""The figures: one table of name, heading, lead and maker."""

import re
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from diffps.errors import ConfigError
from diffps.figures.curves import bar_chart, score_chart
from diffps.figures.sheets import Chart, Picture
from diffps.figures.similarity import similarity_chart
from stages.page import failures, features, probed, searches
from stages.page.evidence import Evidence, NotThereError

SCORED = "Higher is better; the mean over the seeds of each variant. The table of the sweep has the errors."
TIMESTEP = re.compile(r"-?timestep=\d+")  # in the name of a sweep's variant


class Figure(NamedTuple):
    """A figure's heading on the page, the sentence below it, and what draws it from a run's evidence."""

    title: str
    lead: str
    make: Callable[[Evidence], list[Picture]]


def make(name: str, evidence: Evidence) -> list[Picture]:
    """The pictures of one figure. Raises NotThereError with what is missing, ConfigError for a name that is none."""
    if name not in FIGURES:
        raise ConfigError(f"figure {name}: there is none of that name; known are {', '.join(FIGURES)}")
    return FIGURES[name].make(evidence)


def _similarity(evidence: Evidence) -> Chart:
    pairs = searches.similarity(evidence)
    if pairs is None:
        raise NotThereError(
            "figure similarity: no identity was detected in two scenes, so there are no pairs to compare"
        )
    return similarity_chart(pairs)


def _timesteps(evidence: Evidence) -> Chart:
    if len({row["timestep"] for row in evidence.sweep}) < 2:
        raise NotThereError(_no_sweep("timesteps"))
    series: dict[str, dict[float, list[float]]] = {}
    kinds = {TIMESTEP.sub("", row["group"]) for row in evidence.sweep}
    for row in evidence.sweep:
        kind = TIMESTEP.sub("", row["group"])
        for label, column in _scores(evidence).items():
            name = label if len(kinds) == 1 else f"{label}, {kind or 'base'}"
            series.setdefault(name, {}).setdefault(float(row["timestep"]), []).append(float(row[column]))
    lines = {name: [(step, fmean(values)) for step, values in points.items()] for name, points in series.items()}
    return score_chart(
        "Scores against the timestep", "timestep", {k: v for k, v in lines.items() if len(v) > 1}, SCORED
    )


def _taps(evidence: Evidence) -> Chart:
    if len({row["taps"] for row in evidence.sweep}) < 2:
        raise NotThereError(_no_sweep("taps"))
    names = list(dict.fromkeys(row["group"] for row in evidence.sweep))
    groups = {
        label: [(name, fmean(row[column] for row in evidence.sweep if row["group"] == name)) for name in names]
        for label, column in _scores(evidence).items()
    }
    return bar_chart("Scores of each variant", "score", groups, SCORED)


def _bytes(evidence: Evidence) -> Chart:
    rows = [row for row in evidence.sweep if row.get("image_bytes")]
    groups = {row["group"]: row["image_bytes"] for row in rows}
    if len(set(groups.values())) < 2:
        raise NotThereError("figure bytes: no sweep over encodings or taps; run: diffps sweep")
    chart = score_chart(
        "Mean AP against bytes an image",
        "kB an image",
        {
            name: [(nbytes / 1000, fmean(row["map"] for row in rows if row["group"] == name))]
            for name, nbytes in groups.items()
        },
    )
    note = "A point is the mean over the seeds of one variant; all read one store. Up and to the left is better."
    return replace(chart, note=note)


def _scores(evidence: Evidence) -> dict[str, str]:
    """Columns of a sweep's scores by name. Where nobody is annotated there is no detection to score."""
    return ({"detection AP": "detection_ap"} if evidence.is_annotated else {}) | {"re-ID mAP": "map"}


def _no_sweep(name: str) -> str:
    return f"figure {name}: no sweep over {name}; run: diffps sweep --set sweep.file=presets/sweeps/{name}.yaml"


# By name, in the page's order.
FIGURES = {
    "ranking": Figure(
        "Rankings",
        "Whole scenes are searched: every result is a box the head found itself.",
        lambda evidence: [searches.rankings(evidence)],
    ),
    "similarity": Figure(
        "Similarity",
        "How to read a similarity: what pairs of one person score, and pairs of two.",
        lambda evidence: [_similarity(evidence)],
    ),
    "failures": Figure(
        "Who was missed, and why",
        "The ways to be wrong: missed, found loosely, seen elsewhere, taken for somebody else.",
        lambda evidence: [failures.failures(evidence)],
    ),
    "attention": Figure(
        "Attention",
        "Where the text’s words find their match in the image.",
        lambda evidence: [features.attention(evidence)],
    ),
    "pca": Figure(
        "Features",
        "What the frozen backbone’s taps hold, before any head.",
        lambda evidence: list(features.components(evidence)),
    ),
    "frequency": Figure(
        "Frequency refinement",
        "What the frequency refinement adds to the re-ID feature.",
        lambda evidence: [features.frequency(evidence)],
    ),
    "semantics": Figure(
        "Semantic weighting",
        "Which parts of a person the four words bring forward.",
        lambda evidence: [features.semantics(evidence)],
    ),
    "probe": Figure(
        "Probe",
        "Every tap of the backbone, ranked from one pass by what linear maps read of it, before anything was stored.",
        probed.charts,
    ),
    "timesteps": Figure(
        "Timesteps",
        "Scores of heads trained on features at several noise levels.",
        lambda evidence: [_timesteps(evidence)],
    ),
    "taps": Figure(
        "Taps",
        "Scores of the sweep’s heads, which read several sets of taps.",
        lambda evidence: [_taps(evidence)],
    ),
    "bytes": Figure(
        "Bytes",
        "What features cost on disk against what they bring.",
        lambda evidence: [_bytes(evidence)],
    ),
}
