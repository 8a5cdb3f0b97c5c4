"""Scores and their intervals: how many are enough, and that the draws are the same ones every time."""

import pytest

from stages.page.evidence import Evidence
from stages.page.scores import (
    FEW,
    detection_interval,
    interval,
    interval_text,
    judged,
    precision_chart,
    score_headlines,
)
from tests.page.conftest import Run

VALUES = {"a": 0.2, "b": 0.9, "c": 0.4, "d": 0.7}


def test_an_interval_takes_two_persons() -> None:
    assert interval(VALUES, dict.fromkeys(VALUES, 1)) is None
    assert interval(VALUES, {}) is None
    two = interval(VALUES, {"a": 1, "b": 2, "x": 3})  # others are not known
    assert two == (pytest.approx(0.2), pytest.approx(0.9))
    assert interval_text(None) == ""
    assert interval_text((0.25, 0.5)) == "[25.0, 50.0] %"


def test_few_queries_have_no_distribution(run: Run) -> None:
    evidence: Evidence = run.evidence
    for count, shown in ((FEW - 1, False), (FEW, True)):
        evidence.precisions = {f"q{number}": 0.1 * number for number in range(count)}
        assert (precision_chart(evidence) is not None) is shown
    assert FEW == 5


def test_queries_without_anybody_to_find_are_not_judged(run: Run) -> None:
    assert judged({"queries": 7, "queries_without_positives": 2}) == 5
    assert judged({"queries": 7}) == 7
    assert judged({}) == 0
    evidence = run.evidence
    for queries, remark in ((0, ""), (1, "over 1 queries"), (1234, "over 1,234 queries")):
        evidence.scores["search"] |= {"queries": queries, "queries_without_positives": 0}
        assert [each.remark for each in score_headlines(evidence)[:2]] == [remark] * 2


def test_without_detections_detection_has_no_interval(run: Run) -> None:
    evidence = run.evidence
    assert detection_interval(evidence) is not None
    evidence.detections.clear()
    assert detection_interval(evidence) is None
    del evidence.scores["detection"]["recall"]
    assert score_headlines(evidence)[2].remark == ""
