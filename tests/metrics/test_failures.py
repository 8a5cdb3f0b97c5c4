"""Kinds of failures on drawn boxes, and their agreement with the scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.metrics.detection import score_detection
from diffps.metrics.failures import (
    judge_detections,
    judge_persons,
    judge_results,
    recall_by_label,
    search_causes,
)
from diffps.metrics.matching import box_overlaps, iou_thresholds
from tests.metrics.worlds import detection_world, iou

PERSON = np.array([100.0, 100, 140, 200])
NEIGHBOUR = np.array([300.0, 100, 340, 200])
TRUE = np.stack([PERSON, NEIGHBOUR])
NOTHING = np.empty((0, 4))


def moved(overlap: float, box: np.ndarray = PERSON) -> np.ndarray:
    """``box`` moved down until its IoU with itself is ``overlap``."""
    height = box[3] - box[1]
    return box + np.array([0, 1, 0, 1]) * height * (1 - overlap) / (1 + overlap)


@pytest.mark.parametrize("overlap", [0.18, 0.3, 0.4, 0.49])
def test_a_box_around_a_person_is_loose_and_its_person_found_loosely(overlap: float) -> None:
    """What used to be called "detected, nobody annotated" and "not detected"."""
    (verdict,) = judge_detections(moved(overlap)[None], TRUE)
    assert (verdict.kind, verdict.person) == ("loose", 0)
    assert verdict.iou == pytest.approx(overlap)
    found, neighbour = judge_persons(TRUE, moved(overlap)[None])
    assert (found.fate, found.iou) == ("loose", pytest.approx(overlap))
    assert neighbour.fate == "missed"


@pytest.mark.parametrize(("overlap", "kind"), [(0.51, "right"), (0.09, "nobody"), (1.0, "right")])
def test_loose_ends_at_a_match_and_at_background(overlap: float, kind: str) -> None:
    (verdict,) = judge_detections(moved(overlap)[None], TRUE)
    assert verdict.kind == kind


def test_a_tenth_of_a_person_is_loose_already() -> None:
    """10 of 100 pixels: an IoU of 0.1, the least that belongs to a person."""
    true, found = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 1, 10]])
    assert [verdict.kind for verdict in judge_detections(found, true)] == ["loose"]
    assert [verdict.kind for verdict in judge_results(found, true, np.array([True]), np.array([0.5]))] == ["loose"]
    assert [verdict.kind for verdict in judge_results(found, true, np.array([False]), np.array([0.5]))] == ["wrong"]


def test_a_second_box_on_one_person_is_no_false_alarm() -> None:
    first, again, stranger = judge_detections(np.stack([PERSON, moved(0.7), PERSON + 1000]), TRUE)
    assert [first.kind, again.kind, stranger.kind] == ["right", "again", "nobody"]
    assert (again.person, stranger.person) == (0, -1)


def test_where_nobody_is_annotated_or_detected() -> None:
    assert [v.kind for v in judge_detections(TRUE, NOTHING)] == ["nobody", "nobody"]
    assert judge_detections(NOTHING, TRUE) == []
    assert judge_persons(NOTHING, TRUE) == []
    assert [v.kind for v in judge_results(TRUE, NOTHING, np.zeros(0, bool), np.zeros(0))] == ["nobody", "nobody"]
    far = TRUE + 10_000
    empty = (judge_detections(TRUE, NOTHING), judge_results(TRUE, NOTHING, np.zeros(0, bool), np.zeros(0)))
    wanted, thresholds = np.ones(len(TRUE), bool), np.full(len(TRUE), 0.5)
    for verdicts in (*empty, judge_detections(far, TRUE), judge_results(far, TRUE, wanted, thresholds)):
        assert [(v.person, v.iou) for v in verdicts] == [(-1, 0.0)] * 2
    assert judge_results(NOTHING, TRUE, np.array([True, False]), np.full(2, 0.5)) == []


@given(seed=st.integers(0, 10_000))
def test_right_and_found_are_what_the_scores_count(seed: int) -> None:
    world = detection_world(seed)
    scores = world.score()
    for scene in range(world.scene_count):
        at = np.flatnonzero(world.scenes == scene)
        at = at[np.argsort(-world.scores[at], kind="stable")]
        truths = np.flatnonzero(world.true_scenes == scene)
        verdicts = judge_detections(world.boxes[at], world.true_boxes[truths])
        assert [v.kind == "right" for v in verdicts] == (scores.matches[at] >= 0).tolist()
        assert [truths[v.person] for v in verdicts if v.kind == "right"] == scores.matches[at][
            scores.matches[at] >= 0
        ].tolist()
        fates = judge_persons(world.true_boxes[truths], world.boxes[at])
        assert [f.fate == "found" for f in fates] == np.isin(truths, scores.matches[at]).tolist()
        for verdict, box in zip(verdicts, world.boxes[at], strict=True):
            best = max((iou(box, truth) for truth in world.true_boxes[truths]), default=0.0)
            if verdict.kind != "right":
                assert verdict.iou == pytest.approx(best)
                expected = "again" if best >= 0.5 else "loose" if best >= 0.1 else "nobody"
                assert verdict.kind == expected


def test_results_are_right_loose_somebody_else_or_nobody() -> None:
    wanted, thresholds = np.array([True, False]), np.array([0.5, 0.5])
    boxes = np.stack([moved(0.6), moved(0.4), moved(0.8, NEIGHBOUR), moved(0.2, NEIGHBOUR), PERSON + 1000])
    verdicts = judge_results(boxes, TRUE, wanted, thresholds)
    assert [v.kind for v in verdicts] == ["right", "loose", "wrong", "wrong", "nobody"]
    assert [round(v.iou, 6) for v in verdicts] == [0.6, 0.4, 0.8, 0.2, 0.0]
    assert [v.person for v in verdicts] == [0, 0, 1, 1, -1]


def test_small_persons_are_right_from_a_lower_overlap() -> None:
    small = np.array([[10.0, 10, 20, 30]])
    box = moved(0.4, small[0])[None]
    wanted = np.array([True])
    assert judge_results(box, small, wanted, iou_thresholds(small, "protocol"))[0].kind == "right"
    assert judge_results(box, small, wanted, iou_thresholds(small, "labels"))[0].kind == "loose"


def test_in_a_crowd_the_person_looked_for_comes_first() -> None:
    """The box fits somebody else better, and counts as found all the same: so does the protocol."""
    crowd = np.stack([PERSON, moved(0.7)])
    (verdict,) = judge_results(moved(0.7)[None], crowd, np.array([True, False]), np.full(2, 0.5))
    assert (verdict.kind, verdict.person, verdict.iou) == ("right", 0, pytest.approx(0.7))


def test_persons_are_missed_below_the_threshold_or_for_want_of_a_proposal() -> None:
    dropped, scores = np.stack([moved(0.8), moved(0.6), moved(0.3)]), np.array([0.2, 0.4, 0.45])
    below, unproposed = judge_persons(TRUE, NOTHING, dropped, scores, proposals=np.stack([moved(0.9)]))
    assert (below.fate, below.score, below.iou) == ("below", pytest.approx(0.4), pytest.approx(0.6))
    assert (unproposed.fate, unproposed.score) == ("unproposed", None)
    lost, _ = judge_persons(TRUE, NOTHING, NOTHING, np.zeros(0), proposals=np.stack([moved(0.9)]))
    assert (lost.fate, lost.score) == ("below", None)
    unknown, _ = judge_persons(TRUE, NOTHING, dropped[2:], scores[2:])
    assert unknown.fate == "missed"


def test_a_neighbours_box_does_not_find_a_person_loosely() -> None:
    beside = np.stack([PERSON, PERSON + np.array([25, 0, 25, 0])])
    first, second = judge_persons(beside, PERSON[None])
    assert box_overlaps(PERSON[None], beside)[0, 1] > 0.1
    assert (first.fate, second.fate) == ("found", "missed")


def test_causes_are_counted_and_said() -> None:
    causes = search_causes(np.array([7]), 58, existing=np.array([0, 2, 3, 1]), found=np.array([0, 1, 0, 0]))
    assert (causes.empty_scenes, causes.without_person, causes.undetected) == (57, 1, 2)
    assert causes.sentences(0.5) == [
        "Left out of the means: 1 of 4 queries, with nobody annotated to be found in their gallery.",
        "Scored 0 for want of a detection of their person: 2 of 3 queries.",
        "Passed the score threshold 0.5: 1 detections; 57 of 58 scenes have none.",
    ]
    alone = search_causes(np.arange(3), 3, existing=np.zeros(2, int), found=np.zeros(2, int))
    assert alone.sentences(0.5) == ["No score is defined: none of 2 queries has its person in its gallery."]
    assert search_causes(np.arange(3), 3, existing=np.ones(2, int), found=np.ones(2, int)).sentences(0.5) == []


def test_recall_of_labelled_and_unlabelled_persons() -> None:
    boxes = np.stack([PERSON, NEIGHBOUR, PERSON + 500, PERSON + 900]).astype(np.float32)
    found = score_detection(boxes[[0, 2]], np.array([0.9, 0.8]), np.zeros(2, int), boxes, np.zeros(4, int))
    recall = recall_by_label(found.matches, np.array([True, False, False, False]))
    assert (recall.labelled, recall.unlabelled) == (1, 3)
    assert (recall.recall_labelled, recall.recall_unlabelled) == (1.0, pytest.approx(1 / 3))
    assert recall.sentence() == (
        "Detected: labelled 100.0 % of 1, unlabelled 33.3 % of 3 persons; labelled are those whose identity is known."
    )
    assert "2 of the unlabelled carry identities of the training split" in recall.sentence(foreign=2)
    everyone = recall_by_label(found.matches, np.ones(4, bool))
    assert np.isnan(everyone.recall_unlabelled)
    assert everyone.sentence() == (
        "Detected: labelled 50.0 % of 4, no unlabelled persons; labelled are those whose identity is known."
    )


def test_exactly_half_is_enough_for_each_verdict() -> None:
    """5 of 10 pixels shared in height: an IoU of 0.5, exact in binary."""
    true, half = np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 5]])
    assert [verdict.kind for verdict in judge_detections(half, true)] == ["right"]
    again = judge_detections(np.concatenate([true, half]), true)
    assert [(verdict.kind, verdict.person, verdict.iou) for verdict in again] == [("right", 0, 1.0), ("again", 0, 0.5)]
    assert [verdict.kind for verdict in judge_results(half, true, np.array([True]), np.array([0.5]))] == ["right"]
    (below,) = judge_persons(true, NOTHING, half, np.array([0.3]))
    assert (below.fate, below.iou, below.score) == ("below", 0.5, 0.3)
    (lost,) = judge_persons(true, NOTHING, proposals=half)
    assert (lost.fate, lost.iou, lost.score) == ("below", 0.5, None)


def test_a_person_is_told_with_the_overlap_that_tells() -> None:
    found, neighbour = judge_persons(TRUE, np.stack([moved(0.8), moved(0.3, NEIGHBOUR), moved(0.2, NEIGHBOUR)]))
    assert (found.fate, found.iou) == ("found", pytest.approx(0.8))
    assert (neighbour.fate, neighbour.iou) == ("loose", pytest.approx(0.3))  # the nearer of the two
    beside = np.stack([PERSON, moved(0.6)])  # two persons, and the one box is nearer to the first
    first, second = judge_persons(beside, PERSON[None])
    assert (first.fate, second.fate, second.iou) == ("found", "missed", 0.0)
    unproposed, far = judge_persons(TRUE, NOTHING, proposals=np.stack([moved(0.4), moved(0.2)]))
    assert (unproposed.fate, unproposed.iou, far.fate, far.iou) == ("unproposed", pytest.approx(0.4), "unproposed", 0.0)
    nothing_proposed, _ = judge_persons(TRUE, NOTHING, proposals=NOTHING)
    assert (nothing_proposed.fate, nothing_proposed.iou) == ("unproposed", 0.0)
    unproposed, _ = judge_persons(TRUE, NOTHING, np.stack([moved(0.4)]), np.array([0.4]), proposals=NOTHING)
    assert (unproposed.fate, unproposed.score) == ("unproposed", None)


def test_of_several_that_are_looked_for_the_nearest_is_meant() -> None:
    crowd = np.stack([moved(0.6), PERSON, NEIGHBOUR])
    (verdict,) = judge_results(PERSON[None], crowd, np.array([True, True, False]), np.full(3, 0.5))
    assert (verdict.kind, verdict.person, verdict.iou) == ("right", 1, 1.0)


def test_what_is_counted_of_a_search() -> None:
    """Three scenes, detections in two of them; of four queries one has nobody to find, one is never detected."""
    causes = search_causes(np.array([0, 0, 2]), 3, existing=np.array([2, 0, 1, 1]), found=np.array([1, 0, 0, 1]))
    counted = (causes.detections, causes.scenes, causes.empty_scenes, causes.queries)
    assert counted == (3, 3, 1, 4)
    assert (causes.without_person, causes.undetected) == (1, 1)
    assert causes.sentences(0.25)[1:] == [
        "Scored 0 for want of a detection of their person: 1 of 3 queries.",
        "Passed the score threshold 0.25: 3 detections; 1 of 3 scenes have none.",
    ]
    recall = recall_by_label(np.array([-1, 1, 0]), np.array([False, True, True]))
    assert (recall.recall_labelled, recall.recall_unlabelled) == (0.5, 1.0)
    assert recall.sentence(1).endswith(
        "known. 1 of the unlabelled carry identities of the training split: unlabelled here and in DiffPS, labelled in "
        "SeqNet, whose labelled recall therefore counts other persons."
    )
    nobody = recall_by_label(np.array([-1]), np.zeros(1, bool))
    assert (nobody.labelled, nobody.unlabelled, nobody.recall_unlabelled) == (0, 1, 0.0)
    assert np.isnan(nobody.recall_labelled)
