"""Detection scores against a slow evaluator, scikit-learn's average precision and faster-coco-eval."""

import contextlib
import io

import numpy as np
import pytest
from faster_coco_eval import COCO, COCOeval_faster
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from diffps.errors import DatasetError
from diffps.metrics.detection import average_precision, precision_draws, score_detection
from tests.metrics.worlds import DetectionWorld, detection_world, iou


def score_slowly(world: DetectionWorld, only: np.ndarray | None = None) -> tuple[float, float, float]:
    """(AP, recall, precision), image by image: a pair matches where each is the other's largest overlap."""
    labels, values, existing = [], [], 0
    for scene in range(world.scene_count):
        mine = (world.true_scenes == scene) & (True if only is None else only)
        if only is not None and not mine.any():
            continue
        truths = world.true_boxes[mine]
        here = np.flatnonzero(world.scenes == scene)
        here = here[np.argsort(-world.scores[here], kind="stable")]
        overlaps = np.array([[iou(t, world.boxes[d]) for d in here] for t in truths]).reshape(len(truths), len(here))
        for column, d in enumerate(here):
            row = int(np.argmax(overlaps[:, column])) if len(truths) else -1
            right = row >= 0 and overlaps[row, column] >= 0.5 and int(np.argmax(overlaps[row])) == column
            labels.append(right)
            values.append(world.scores[d])
        existing += len(truths)
    precision = sum(labels) / len(labels) if labels else 0.0
    if not existing:
        return float("nan"), float("nan"), precision
    recall = sum(labels) / existing
    return (average_precision_score(labels, values) * recall if recall else 0.0), recall, precision


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_equal_the_slow_evaluator(seed: int) -> None:
    world = detection_world(seed)
    found = world.score()
    np.testing.assert_allclose([found.ap, found.recall, found.precision], score_slowly(world), rtol=1e-12)
    only = np.random.default_rng(seed).random(len(world.true_boxes)) < 0.5
    named = world.score(labelled=only)
    np.testing.assert_allclose([named.ap, named.recall, named.precision], score_slowly(world, only), rtol=1e-12)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1))
def test_average_precision_equals_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 60))
    labels, scores = rng.random(n) < 0.4, rng.integers(0, 8, n) / 8
    if labels.any():
        expected = average_precision_score(labels, scores)
        assert average_precision(labels, scores, int(labels.sum())) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_second_library_agrees_where_matching_is_not_in_question(seed: int) -> None:
    """COCO matches greedily by score and interpolates at 101 recalls. Where no detection overlaps two true boxes nor
    another one, both match the same pairs, and interpolating ours gives COCO's AP: in all and of small persons."""
    world = detection_world(seed, separate=True)
    if not len(world.boxes) or not len(world.true_boxes):
        return
    found = world.score()
    ap, ap_small = coco_scores(world)
    assert interpolated(world, found.matches, small=False) == pytest.approx(ap, abs=1e-9)
    if (areas(world.true_boxes) <= 32**2).any():
        assert interpolated(world, found.matches, small=True) == pytest.approx(ap_small, abs=1e-9)


def areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def interpolated(world: DetectionWorld, matches: np.ndarray, *, small: bool) -> float:
    """COCO's average precision at 101 recalls, from our matches."""
    right, truly_small = matches >= 0, areas(world.true_boxes) <= 32**2
    counted = np.ones(len(matches), bool)
    existing = len(world.true_boxes)
    if small:
        counted = np.where(right, truly_small[matches], areas(world.boxes) <= 32**2)
        existing = int(truly_small.sum())
    order = np.argsort(-world.scores[counted], kind="stable")
    hits = np.cumsum(right[counted][order])
    precision = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(hits / existing, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))


def coco_scores(world: DetectionWorld) -> tuple[float, float]:
    """(AP, AP of small) at IoU 0.5 by faster-coco-eval."""

    def xywh(box: np.ndarray) -> list[float]:
        return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]

    truth = {
        "images": [{"id": scene, "width": 4000, "height": 4000} for scene in range(world.scene_count)],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [
            {"id": n + 1, "image_id": int(s), "category_id": 1, "bbox": xywh(b), "area": float(a), "iscrowd": 0}
            for n, (s, b, a) in enumerate(
                zip(world.true_scenes, world.true_boxes, areas(world.true_boxes), strict=True)
            )
        ],
    }
    detections = [
        {"image_id": int(s), "category_id": 1, "bbox": xywh(b), "score": float(score)}
        for s, b, score in zip(world.scenes, world.boxes, world.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        evaluation = COCOeval_faster(coco, coco.loadRes(detections), "bbox")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.areaRng = [[0, 1e10], [0, 32**2]]
        evaluation.params.areaRngLbl = ["all", "small"]
        evaluation.params.maxDets = [1000]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"]  # IoU, recall, class, area, limit
    return float(precision[0, :, 0, 0, -1].mean()), float(precision[0, :, 0, 1, -1].mean())


def test_order_of_detections_does_not_matter() -> None:
    world = detection_world(7)
    order = np.random.default_rng(0).permutation(len(world.boxes))
    moved = score_detection(
        world.boxes[order], world.scores[order], world.scenes[order], world.true_boxes, world.true_scenes
    )
    assert moved.summary() == pytest.approx(world.score().summary(), nan_ok=True)


def test_of_equal_overlaps_the_higher_score_counts() -> None:
    box = np.float32([[0, 0, 10, 10]])
    found = score_detection(box.repeat(2, 0), np.array([0.6, 0.9]), np.zeros(2, int), box, np.zeros(1, int))
    assert found.matches.tolist() == [-1, 0]
    assert found.ap == 1
    assert found.precision == 0.5


def test_nothing_found_and_nothing_there() -> None:
    none, box, at = np.empty((0, 4)), np.float32([[0, 0, 10, 10]]), np.zeros(1, int)
    missed = score_detection(none, np.empty(0), np.empty(0, int), box, at)
    assert (missed.ap, missed.recall, missed.precision) == (0, 0, 0)
    empty = score_detection(box, np.ones(1), at, none, np.empty(0, int))
    assert np.isnan(empty.ap)
    assert np.isnan(empty.recall)
    assert empty.precision == 0


def test_shapes_are_checked() -> None:
    with pytest.raises(DatasetError, match=r"shapes \(1, 4\), \(2,\), \(1,\)"):
        score_detection(np.ones((1, 4)), np.ones(2), np.zeros(1, int), np.ones((0, 4)), np.zeros(0, int))


def test_a_small_person_has_1024_pixels_at_most_and_so_has_a_small_false_alarm() -> None:
    """Found: a person of 32 x 32; false alarms of 32 x 32 and of 33 x 32 that score higher; a large person missed."""
    true_boxes = np.float32([[0, 0, 32, 32], [100, 0, 133, 32]])
    boxes = np.float32([[0, 0, 32, 32], [300, 0, 332, 32], [400, 0, 433, 32]])
    found = score_detection(boxes, np.float32([0.5, 0.6, 0.7]), np.zeros(3, int), true_boxes, np.zeros(2, int))
    assert found.matches.tolist() == [0, -1, -1]
    assert found.ap_small == pytest.approx(1 / 2)  # one small false alarm before it
    assert found.ap == pytest.approx(1 / 3 / 2)
    assert (found.recall, found.precision) == (0.5, pytest.approx(1 / 3))
    assert found.summary() == {"ap": found.ap, "recall": 0.5, "precision": found.precision, "ap_small": found.ap_small}


@pytest.mark.parametrize("wrong", range(5))
def test_shapes_that_do_not_match_are_refused(wrong: int) -> None:
    arrays = [np.zeros((3, 4)), np.zeros(3), np.zeros(3, int), np.zeros((2, 4)), np.zeros(2, int)]
    score_detection(*arrays)
    for shape in ((4, 4), (3, 5), (4,)) if arrays[wrong].ndim == 2 else ((4,), (3, 1)):
        changed = [*arrays[:wrong], np.zeros(shape, arrays[wrong].dtype), *arrays[wrong + 1 :]]
        with pytest.raises(DatasetError, match="detection: (shapes|true boxes)"):
            score_detection(*changed)


def test_a_draw_of_scenes_is_scored_as_if_each_lay_there_as_often() -> None:
    rng = np.random.default_rng(4)
    scenes, scores = rng.integers(0, 5, 40), rng.integers(0, 9, 40) / 9
    right, existing = rng.random(40) < 0.5, np.array([3, 0, 4, 9, 8])
    found = precision_draws(right, scores, scenes, existing, 6, seed=2)
    for value, times in zip(found, np.random.default_rng(2).multinomial(5, [0.2] * 5, 6), strict=True):
        at = np.repeat(np.arange(40), times[scenes])
        assert value == pytest.approx(average_precision(right[at], scores[at], int(times @ existing)))
    np.testing.assert_array_equal(
        precision_draws(right, scores, scenes, existing, 6), precision_draws(right, scores, scenes, existing, 6, seed=0)
    )
    nobody = precision_draws(right, scores, scenes, np.zeros(5, int), 3)
    assert np.isnan(nobody).all()
    assert nobody.shape == (3,)


def test_half_of_a_box_is_a_match_unless_more_is_asked() -> None:
    true, box, at = np.float32([[0, 0, 10, 10]]), np.float32([[0, 0, 10, 5]]), np.zeros(1, int)
    assert score_detection(box, np.ones(1), at, true, at).matches.tolist() == [0]
    assert score_detection(box, np.ones(1), at, true, at, threshold=0.51).matches.tolist() == [-1]


def test_of_small_persons_only_the_labelled_count_where_asked() -> None:
    """Two small persons in a scene, one of them labelled; in the other scene nobody is, so its alarm counts nowhere."""
    true_boxes = np.float32([[0, 0, 8, 8], [50, 0, 58, 8], [0, 0, 8, 8]])
    boxes, scenes = np.float32([[0, 0, 8, 8], [90, 0, 98, 8]]), np.array([0, 1])
    found = score_detection(
        boxes,
        np.array([0.5, 0.9]),
        scenes,
        true_boxes,
        np.array([0, 0, 1]),
        labelled=np.array([True, False, False]),
    )
    assert found.summary() == {"ap": 1.0, "recall": 1.0, "precision": 1.0, "ap_small": 1.0}
