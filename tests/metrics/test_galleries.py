"""Gallery rules and baselines on small scenes; both conventions on the real TestG100."""

from collections import defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from diffps.datasets.files import corner_boxes
from diffps.datasets.protocols import Protocol, read_protocol
from diffps.errors import DatasetError
from diffps.metrics.baselines import chance_level, colour_histograms
from diffps.metrics.cbgm import context_overrides
from diffps.metrics.galleries import SearchTask, listed_task, rule_task
from diffps.metrics.matching import Convention
from diffps.metrics.search import Positives, SearchScores
from diffps.records import Annotations, Gallery, Query, Scene

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cuhk-sysu" / "TestG100.mat"

BOX = np.float32([0, 0, 30, 60])
OTHER = np.float32([40, 0, 70, 60])


def scene(name: str, camera: int | None) -> Scene:
    return Scene(scene_id=name, split="test", path=name, width=100, height=100, digest="0", camera=camera)


def persons(*identities: int) -> Annotations:
    return Annotations(np.array([BOX, OTHER])[: len(identities)], np.array(identities, np.int64))


SCENES = [scene("a", 1), scene("b", 1), scene("c", 2), scene("d", 2)]
ANNOTATIONS = {"a": persons(5, -1), "b": persons(5, 5), "c": persons(6, 5), "d": persons(6)}
QUERIES = [
    Query(query_id="q0", scene_id="a", box=BOX, identity=5),
    Query(query_id="q1", scene_id="d", box=BOX, identity=6),
]


def members(task: SearchTask, q: int) -> list[int]:
    listed = np.arange(len(task.scenes)) if task.galleries is None else task.galleries[q]
    return [int(s) for s in listed if task.excluded is None or s != task.excluded[q]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("all", [[1, 2, 3], [0, 1, 2]]), ("same_camera", [[1], [2]]), ("cross_camera", [[2, 3], [0, 1]])],
)
def test_rules(rule: str, expected: list[list[int]]) -> None:
    task = rule_task(SCENES, ANNOTATIONS, QUERIES, rule, "protocol")  # type: ignore[arg-type]
    assert [members(task, q) for q in range(2)] == expected


def test_a_repeated_identity_counts_once_under_protocol_and_each_time_under_labels() -> None:
    scores = {
        convention: score_truth(rule_task(SCENES, ANNOTATIONS, QUERIES, "all", convention)).existing.tolist()
        for convention in ("protocol", "labels")
    }
    assert scores == {"protocol": [2, 1], "labels": [3, 1]}


def test_a_query_without_positives_across_cameras_is_counted() -> None:
    task = rule_task(SCENES, ANNOTATIONS, QUERIES, "cross_camera", "protocol")
    summary = score_truth(task).summary()
    assert summary["queries_without_positives"] == 1
    assert summary["map"] == 1


def test_camera_rules_need_cameras() -> None:
    some, annotations = [*SCENES, scene("e", None)], {**ANNOTATIONS, "e": persons()}
    with pytest.raises(
        DatasetError,
        match=r"^gallery same_camera: the dataset names no cameras; take it out of evaluate.gallery and evaluate.also$",
    ):
        rule_task(some, annotations, QUERIES, "same_camera", "protocol")
    assert members(rule_task(some, annotations, QUERIES, "all", "protocol"), 0) == [1, 2, 3, 4]


def test_listed_galleries_number_the_scenes_anew() -> None:
    """Rows of the index count training scenes too."""
    index = [replace(scene("t", None), split="train"), *SCENES]
    gallery = Gallery(
        name="100",
        query_ids=("q1",),
        scenes=(np.array([3, 1], np.int32),),
        positive_scenes=(np.array([3], np.int32),),
        positive_boxes=(BOX[None],),
    )
    task = listed_task(SCENES, ANNOTATIONS, QUERIES, gallery, index, "protocol")
    assert task.rows.tolist() == [1]
    assert members(task, 0) == [2, 0]
    assert task.positives.scenes.tolist() == [2]


def test_a_protocol_s_positives_are_its_rows_or_the_labels_of_its_scenes() -> None:
    """Two queries in another order than the dataset's; scene e is listed and not here, so it counts as number -1."""
    gallery = Gallery(
        name="two",
        query_ids=("q1", "q0"),
        scenes=(np.array([2, 4], np.int32), np.array([1, 2, 3], np.int32)),
        positive_scenes=(np.array([2], np.int32), np.array([1, 2], np.int32)),
        positive_boxes=(OTHER[None], np.stack([OTHER, BOX])),
    )
    index = [*SCENES, scene("e", None)]
    listed = listed_task(SCENES, ANNOTATIONS, QUERIES, gallery, index, "protocol")
    assert (listed.name, listed.convention, listed.excluded) == ("two", "protocol", None)
    assert listed.queries == (QUERIES[1], QUERIES[0])
    assert listed.rows.tolist() == [1, 0]
    assert [part.tolist() for part in listed.galleries or ()] == [[2, -1], [1, 2, 3]]
    assert rows(listed.positives) == [(0, 2, "other"), (1, 1, "other"), (1, 2, "box")]
    labelled = listed_task(SCENES, ANNOTATIONS, QUERIES, gallery, index, "labels")
    assert labelled.convention == "labels"
    expected = [(0, 2, "box"), (0, 3, "box"), (1, 0, "box"), (1, 1, "box"), (1, 1, "other"), (1, 2, "other")]
    assert rows(labelled.positives) == expected
    by_rule = rule_task(SCENES, ANNOTATIONS, QUERIES, "all", "labels")
    assert rows(by_rule.positives) == [(1 - q, number, box) for q, number, box in expected[2:] + expected[:2]]
    assert (by_rule.name, by_rule.rows.tolist(), by_rule.queries) == ("all", [0, 1], tuple(QUERIES))


def rows(positives: Positives) -> list[tuple[int, int, str]]:
    """Query, scene and the name of the box of each."""
    names = {tuple(BOX): "box", tuple(OTHER): "other"}
    columns = (positives.queries.tolist(), positives.scenes.tolist(), positives.boxes)
    return [(query, number, names[tuple(box)]) for query, number, box in zip(*columns, strict=True)]


@pytest.mark.parametrize("convention", ["protocol", "labels"])
def test_a_protocol_that_asks_for_nobody_has_no_positives(convention: Convention) -> None:
    gallery = Gallery(name="none", query_ids=(), scenes=(), positive_scenes=(), positive_boxes=())
    task = listed_task(SCENES, ANNOTATIONS, QUERIES, gallery, SCENES, convention)
    positives = task.positives
    assert (positives.queries.shape, positives.scenes.shape, positives.boxes.shape) == ((0,), (0,), (0, 4))
    assert np.isnan(score_truth(task).summary()["map"])


def truth(task: SearchTask, annotations: dict[str, Annotations]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, scenes and identities of every annotated person."""
    parts = [annotations[s.scene_id] for s in task.scenes]
    return (
        np.concatenate([part.boxes for part in parts]),
        np.repeat(np.arange(len(parts)), [len(part.boxes) for part in parts]),
        np.concatenate([part.identities for part in parts]),
    )


def score_truth(task: SearchTask, annotations: dict[str, Annotations] = ANNOTATIONS) -> SearchScores:
    """Perfect detections, and an embedding of its own for every identity."""
    boxes, scenes, identities = truth(task, annotations)
    names, codes = np.unique(identities, return_inverse=True)
    vectors = np.random.default_rng(0).normal(size=(len(names), 32))
    queries = vectors[np.searchsorted(names, [query.identity for query in task.queries])]
    return task.score(queries, vectors[codes], boxes, scenes)


@cache
def real_lines() -> list[Protocol]:
    return read_protocol(REAL, "TestG100")


def real_task(convention: Convention) -> tuple[SearchTask, dict[str, Annotations]]:
    """Scenes and labels as far as the protocol file knows them."""
    found: dict[str, dict[tuple[float, ...], int]] = defaultdict(dict)
    for line in real_lines():
        for row in (line.query, *line.positives):
            found[row.image][tuple(row.box)] = line.identity
        for name in line.images:
            found[name]
    scenes = [scene(name, None) for name in found]
    annotations = {
        name: Annotations(corner_boxes(np.array(list(boxes)).reshape(-1, 4)), np.array(list(boxes.values()), np.int64))
        for name, boxes in found.items()
    }
    numbers = {name: number for number, name in enumerate(found)}
    lines = real_lines()
    queries = [
        Query(query_id=str(n), scene_id=line.query.image, box=corner_boxes(line.query.box)[0], identity=line.identity)
        for n, line in enumerate(lines)
    ]
    gallery = Gallery(
        name="100",
        query_ids=tuple(query.query_id for query in queries),
        scenes=tuple(np.array([numbers[image] for image in line.images], np.int32) for line in lines),
        positive_scenes=tuple(np.array([numbers[row.image] for row in line.positives], np.int32) for line in lines),
        positive_boxes=tuple(corner_boxes(np.array([row.box for row in line.positives])) for line in lines),
    )
    return listed_task(scenes, annotations, queries, gallery, scenes, convention), annotations


needs_real = pytest.mark.skipif(
    not REAL.exists(), reason="the real TestG100.mat (../shared/data/cuhk-sysu) is not here"
)


@needs_real
@pytest.mark.parametrize(("convention", "expected"), [("protocol", 99.925), ("labels", 99.924)])
def test_perfect_detections_on_the_real_gallery(convention: Convention, expected: float) -> None:
    """Not 100: the six odd rows list an image twice, or show the person twice in one image."""
    task, annotations = real_task(convention)
    scores = score_truth(task, annotations)
    odd = np.flatnonzero(scores.average_precision < 1) + 1
    assert odd.tolist() == {"protocol": [494, 1251, 1634, 1998, 2562], "labels": [494, 1634, 1998, 2562]}[convention]
    assert 100 * scores.summary()["map"] == pytest.approx(expected, abs=5e-4)
    assert scores.summary()["top1"] == 1


@needs_real
@pytest.mark.parametrize(("convention", "reported"), [("protocol", (99.920, 99.966)), ("labels", (99.924, 99.931))])
def test_figures_of_evaluators_that_leave_ties_to_chance_lie_within_the_ties(
    convention: Convention, reported: tuple[float, float]
) -> None:
    """All boxes of a person tie here. SeqNet's and DiffPS' evaluators break ties by float32 rounding and by an
    unstable sort, read backwards; their figures lie between the best and the worst order of tied detections."""
    task, annotations = real_task(convention)
    boxes, scenes, identities = truth(task, annotations)
    bounds = {sign: score_with_ties_broken(task, boxes, scenes, identities, sign) for sign in (-1, 1)}
    for name, figure in zip(("map", "top1"), reported, strict=True):
        assert 100 * bounds[-1].summary()[name] <= figure + 5e-4
        assert 100 * bounds[1].summary()[name] >= figure - 5e-4


def score_with_ties_broken(
    task: SearchTask, boxes: np.ndarray, scenes: np.ndarray, identities: np.ndarray, sign: int
) -> SearchScores:
    """Identities as random directions; all right boxes (-1) or all wrong ones (+1) are turned away a little, each by an
    angle of its own."""
    names, codes = np.unique(identities, return_inverse=True)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(len(names), 32))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    aside = rng.normal(size=vectors.shape)
    aside -= (aside * vectors).sum(axis=1, keepdims=True) * vectors
    queries = vectors[np.searchsorted(names, [query.identity for query in task.queries])]
    plain = task.score(queries, vectors[codes], boxes, scenes)
    right = np.zeros(len(boxes), bool)
    right[plain.ranking[plain.correct]] = True
    steps = np.where(right if sign < 0 else ~right, rng.uniform(0.01, 0.02, len(right)), 0)
    moved = vectors[codes] + steps[:, None] * aside[codes]
    return task.score(queries, moved, boxes, scenes)


def test_replaced_similarities_are_ranked() -> None:
    task = rule_task(SCENES, ANNOTATIONS, QUERIES, "all", "protocol")
    boxes, scenes, _ = truth(task, ANNOTATIONS)
    rng = np.random.default_rng(0)
    queries, embeddings = rng.normal(size=(2, 4)), rng.normal(size=(len(boxes), 4))
    plain = task.score(queries, embeddings, boxes, scenes, top=len(boxes))
    last = plain.ranking[0][plain.ranking[0] >= 0][-1]
    overrides = context_overrides(np.full((2, 1), -1), [queries[:1], queries[1:]], embeddings, scenes)
    overrides = overrides._replace(starts=np.array([0, 1, 1]), detections=np.array([last]), values=np.array([2.5]))
    changed = task.score(queries, embeddings, boxes, scenes, top=len(boxes), overrides=overrides)
    assert changed.ranking[0, 0] == last
    assert changed.similarity[0, 0] == 2.5
    np.testing.assert_array_equal(changed.ranking[1], plain.ranking[1])


def test_the_first_ten_are_ranked_where_nothing_else_is_asked() -> None:
    task = rule_task(SCENES, ANNOTATIONS, QUERIES, "all", "protocol")
    boxes, scenes, _ = truth(task, ANNOTATIONS)
    assert task.score(np.ones((2, 4)), np.ones((len(boxes), 4)), boxes, scenes).ranking.shape == (2, 10)


def test_chance_is_far_below_perfect_and_repeatable() -> None:
    scenes = [scene(str(n), None) for n in range(40)]
    annotations = {s.scene_id: persons(n % 10, (n + 5) % 10) for n, s in enumerate(scenes)}
    queries = [Query(query_id=str(n), scene_id=str(n), box=BOX, identity=n) for n in range(10)]
    task = rule_task(scenes, annotations, queries, "all", "protocol")
    boxes, numbers, _ = truth(task, annotations)
    chance = chance_level(task, boxes, numbers)
    assert chance == chance_level(task, boxes, numbers)
    assert 0.05 < chance["map"] < 0.3
    assert score_truth(task, annotations).summary()["map"] == 1


def test_colour_histograms_tell_clothes_apart() -> None:
    image = np.zeros((60, 120, 3), np.uint8)
    image[:30, :30], image[30:, :30] = (200, 30, 30), (30, 30, 200)
    image[:, 30:60] = image[:, :30]
    image[:30, 60:90], image[30:, 60:90] = (30, 30, 200), (200, 30, 30)
    boxes = np.float32([[0, 0, 30, 60], [30, 0, 60, 60], [60, 0, 90, 60], [-20, -20, -1, -1]])
    found = colour_histograms(image, boxes)
    lengths = np.linalg.norm(found, axis=1)
    assert found[0] @ found[1] == pytest.approx(lengths[0] * lengths[1])
    assert found[0] @ found[2] == pytest.approx(0)
    assert lengths[3] == 0


def test_a_camera_numbered_0_is_a_camera() -> None:
    scenes = [replace(each, camera=0 if each.camera == 1 else each.camera) for each in SCENES]
    for rule, expected in (("same_camera", [[1], [2]]), ("cross_camera", [[2, 3], [0, 1]])):
        task = rule_task(scenes, ANNOTATIONS, QUERIES, rule, "protocol")  # type: ignore[arg-type]
        assert [members(task, q) for q in range(2)] == expected
