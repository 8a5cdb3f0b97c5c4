"""Scores of the run beside what they compare to, as numbers and as one chart."""

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from diffps.figures.sheets import Chart
from diffps.figures.similarity import histogram
from stages.page.content import Headline, Score
from stages.page.evidence import Evidence, Json
from stages.text import percent

COLOURS = "Colours of true boxes"


def score_rows(evidence: Evidence) -> list[Score]:
    """The run first, then what it compares to."""
    found = evidence.scores
    rows = [
        Score(
            name="This run",
            mean_precision=found["search"]["map"],
            top1=found["search"]["top1"],
            detection=found["detection"]["ap"],
            main=True,
        )
    ]
    for key, name in (("baseline", COLOURS), ("chance", "Chance")):
        entry = found.get(key)
        if entry is not None:
            rows.append(Score(name=name, mean_precision=entry.get("map"), top1=entry.get("top1")))
    return rows


def precision_chart(evidence: Evidence) -> Chart | None:
    """Queries by average precision; None where nobody was searched for."""
    values = np.array(list(evidence.precisions.values()))
    if not len(values):
        return None
    line = histogram("queries", values, np.linspace(0, 1, 11), density=False)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    summary = f"Half of the queries lie between {low:.2f} and {high:.2f}, the median is {middle:.2f}."
    return Chart(
        flat=True,
        title="Queries by average precision",
        x_label="average precision",
        y_label="queries",
        lines=(line,),
        summary=summary,
    )


def score_headlines(evidence: Evidence) -> list[Headline]:
    """The main scores, large."""
    main, *others = score_rows(evidence)
    value = main.mean_precision or 0.0
    ratios = {score.name: value / score.mean_precision for score in others if score.mean_precision}
    remarks = [
        f"{ratios[name]:.1f} × {short}"
        for name, short in (("Chance", "chance"), (COLOURS, "colours"))
        if name in ratios
    ]
    recall = evidence.scores["detection"].get("recall")
    queries = judged(evidence.scores["search"])
    return [
        Headline(label="Mean AP", value=percent(main.mean_precision), remark=", ".join(remarks)),
        Headline(label="Top-1", value=percent(main.top1), remark=f"of {queries} queries" if queries else ""),
        Headline(
            label="Detection AP", value=percent(main.detection), remark=f"recall {percent(recall)}" if recall else ""
        ),
    ]


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
