"""Evaluate says what makes one doubt a head."""

import pytest

from stages.search.doubts import doubts


@pytest.mark.parametrize(
    ("ours", "colours", "detections", "said"),
    [
        (0.5, 0.3, 10, []),
        (0.3, 0.5, 10, ["colours alone, in true boxes, reach mAP 50.0 %, more than this head's 30.0 %"]),
        (0.3, None, 10, []),
        (None, 0.5, 10, []),
        (0.5, 0.3, 9, ["9 detections pass evaluate.score_threshold 0.5, but 10 persons are annotated"]),
        (0.3, 0.5, 0, ["colours alone", "0 detections pass"]),
    ],
)
def test_what_is_doubted(ours: float | None, colours: float | None, detections: int, said: list[str]) -> None:
    metrics = {"search": {"map": ours}, "baseline": None if colours is None else {"map": colours}}
    found = doubts(metrics, detections, 10, 0.5)
    assert len(found) == len(said)
    assert all(sentence.startswith(beginning) for sentence, beginning in zip(found, said, strict=True))


def test_without_a_baseline_colours_are_not_spoken_of() -> None:
    assert doubts({"search": {"map": 0.0}}, 10, 10, 0.5) == []


def test_a_doubt_names_both_numbers_and_the_way_out() -> None:
    assert doubts({"search": {"map": 0.3}, "baseline": {"map": 0.5}}, 9, 10, 0.5) == [
        "colours alone, in true boxes, reach mAP 50.0 %, more than this head's 30.0 %: it has not learned to tell "
        "these persons apart; train longer, or on more identities",
        "9 detections pass evaluate.score_threshold 0.5, but 10 persons are annotated: some cannot be found; lower the "
        "threshold, or train longer",
    ]
    assert doubts({"search": {"map": 0.5}, "baseline": {"map": 0.5}}, 10, 10, 0.5) == []
