"""Scores of the run beside what they compare to, with their intervals, as numbers and as one chart."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.figures.sheets import Chart
from diffps.figures.similarity import histogram
from diffps.metrics.detection import precision_draws, score_detection
from diffps.probe.intervals import by_group, estimate, resample
from stages.page.content import Bar, Headline
from stages.page.evidence import Evidence, Json
from stages.text import percent

REFERENCES = {"baseline": "colours", "chance": "chance"}
RESAMPLES = 1000
FEW = 5  # values under which a distribution shows nothing
RANKED = (
    "Mean AP: how high the right boxes stand among all boxes of the gallery, averaged over the queries. Top-1: how "
    "often the first answer is right."
)
DETECTED = "Detection AP: how well persons are found at all, whoever they are."
BRACKETS = (
    "In brackets the interval of 95 %, from drawing persons anew (scenes for detection): it does not hold how far two "
    "trainings of one head differ. Colours compare histograms of clothes in the annotated boxes; chance orders all "
    "boxes at random."
)


def quality_note(evidence: Evidence) -> str:
    """How to read the main numbers."""
    return " ".join([RANKED, DETECTED, BRACKETS] if evidence.is_annotated else [RANKED, BRACKETS])


def score_headlines(evidence: Evidence) -> list[Headline]:
    """The main scores, large, each with its interval and its references. Without annotated persons no detection AP."""
    scores, search = evidence.scores, evidence.scores["search"]
    queries = judged(search)
    headlines = [
        _headline("Mean AP", search["map"], interval(evidence.precisions, _persons(evidence)), _bars(scores, "map")),
        _headline("Top-1", search["top1"], interval(evidence.first_hits, _persons(evidence)), _bars(scores, "top1")),
    ]
    if queries:
        headlines[:2] = (replace(headline, remark=f"over {queries:,} queries") for headline in headlines)
    if evidence.is_annotated:
        found = scores["detection"]
        headline = _headline("Detection AP", found["ap"], detection_interval(evidence), [])
        recall = found.get("recall")
        headlines.append(replace(headline, remark=f"{percent(recall)} of all persons found") if recall else headline)
    return headlines


def interval_text(bounds: tuple[float, float] | None) -> str:
    """ "[55.1, 69.0] %"; empty where there is none."""
    return "" if bounds is None else f"[{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}] %"


def interval(values: Mapping[str, float], persons: Mapping[str, int]) -> tuple[float, float] | None:
    """Bounds that hold the mean of ``values`` by query in 95 of 100 draws of ``persons``; None for fewer than two."""
    names = [name for name in values if name in persons]
    groups = np.array([persons[name] for name in names])
    if len(set(groups.tolist())) < 2:
        return None
    sums = by_group(np.array([values[name] for name in names]), groups)
    found = estimate(float(sums.ratio), resample(sums, RESAMPLES, 0))
    return found.low, found.high


def detection_interval(evidence: Evidence) -> tuple[float, float] | None:
    """Bounds that hold detection AP in 95 of 100 draws of scenes; None where nobody is annotated or found."""
    tests = [scene.scene_id for scene in evidence.scenes.values() if scene.split == "test"]
    boxes, scores = [evidence.found_in(name) for name in tests], [evidence.scores_in(name) for name in tests]
    true_boxes = [evidence.annotations[name].boxes for name in tests]
    existing = np.array([len(each) for each in true_boxes])
    scenes = _numbered(boxes)
    if not existing.any() or not len(scenes):
        return None
    strength = np.concatenate(scores)
    found = score_detection(np.concatenate(boxes), strength, scenes, np.concatenate(true_boxes), _numbered(true_boxes))
    draws = precision_draws(found.matches >= 0, strength, scenes, existing, RESAMPLES // 5)
    bounds = estimate(found.ap, draws)
    return bounds.low, bounds.high


def precision_chart(evidence: Evidence) -> Chart | None:
    """Queries by average precision; None where too few were searched for to show how they differ."""
    values = np.array(list(evidence.precisions.values()))
    if len(values) < FEW:
        return None
    line = histogram("queries", values, np.linspace(0, 1, 11), density=False)
    low, middle, high = (percent(value) for value in np.quantile(values, [0.25, 0.5, 0.75]))
    return Chart(
        flat=True,
        title="Queries by average precision",
        x_label="average precision",
        y_label="queries",
        shares="x",
        lines=(line,),
        summary=f"Half of the queries lie between {low} and {high}, the median is {middle}.",
        note=f"How many queries reach which average precision. Half lie between {low} and {high}.",
    )


def judged(search: Json) -> int:
    """Queries with somebody to find: those that means are over."""
    return int(search.get("queries", 0)) - int(search.get("queries_without_positives", 0))


def trained_section(evidence: Evidence) -> Json:
    """Section train as the scored head was trained with it, which params need not say any more."""
    found: Json = evidence.head_training.get("training") or plain_section(evidence.params.train)
    return found


def plain_section(config: Any) -> Json:
    found: Json = json.loads(json.dumps(asdict(config)))
    return found


def references(evidence: Evidence) -> dict[str, float]:
    """Mean AP of what the run compares to, by name."""
    return {bar.label: bar.share for bar in _bars(evidence.scores, "map")}


def _headline(label: str, value: float | None, bounds: tuple[float, float] | None, bars: Sequence[Bar]) -> Headline:
    own = [Bar(label="this run", share=value)] if value is not None and bars else []
    return Headline(label=label, value=percent(value), interval=interval_text(bounds), bars=[*own, *bars])


def _bars(scores: Json, key: str) -> list[Bar]:
    found = []
    for name, label in REFERENCES.items():
        value = (scores.get(name) or {}).get(key)
        if value is not None:
            found.append(Bar(label=label, share=value, text=percent(value)))
    return found


def _persons(evidence: Evidence) -> dict[str, int]:
    return {name: query.identity for name, query in evidence.queries.items()}


def _numbered(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(parts)), [len(part) for part in parts])
