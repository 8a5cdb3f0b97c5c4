import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from diffps.metrics.search import Positives, score_search
from diffps.probe.reid import Task, by_cosine, by_map, compact, in_strips, make_task
from diffps.probe.sample import Persons


def persons(seed: int, boxes: int = 60, identities: int = 9) -> Persons:
    rng = np.random.default_rng(seed)
    return Persons(np.arange(boxes) // 3, rng.integers(-1, identities, boxes), rng.integers(0, 4, boxes))


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_cosine_is_the_search_of_the_same_galleries(seed: int, folds: int) -> None:
    who = persons(seed)
    task = make_task(who, folds, seed)
    vectors = np.random.default_rng(seed).normal(size=(60, 5))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assume(np.diff(np.sort(unit @ unit.T, axis=1)).min() > 1e-6)  # the search computes in single precision
    found = by_cosine(task, vectors)
    # Every box is a scene of its own; a query's gallery is what its fold holds in other places.
    boxes = np.tile(np.float32([0, 0, 20, 50]), (60, 1))
    expected, first = [], []
    for fold in (fold for fold in task.folds if len(fold.queries)):
        galleries = [fold.gallery[who.places[fold.gallery] != who.places[query]] for query in fold.queries]
        right = [np.flatnonzero(who.identities == who.identities[query]) for query in fold.queries]
        counts = [len(rows) for rows in right]
        scenes = np.concatenate(right)
        positives = Positives(np.repeat(np.arange(len(right)), counts), scenes, boxes[scenes])
        scores = score_search(
            vectors[fold.queries], vectors, boxes, np.arange(60), positives, galleries=galleries, convention="labels"
        )
        expected += scores.average_precision.tolist()
        first += scores.hits(1).tolist()
    np.testing.assert_allclose(found.precision, expected, atol=1e-6)
    np.testing.assert_array_equal(found.first, first)


@given(st.integers(0, 10_000), st.integers(2, 5))
def test_folds_hold_everybody_once_and_maps_see_nobody_they_are_tested_on(seed: int, folds: int) -> None:
    who = persons(seed)
    task = make_task(who, folds, seed)
    named = np.flatnonzero(who.identities >= 0)
    assert sorted(np.concatenate([fold.others for fold in task.folds]).tolist()) == sorted(named.tolist() * (folds - 1))
    queries = np.concatenate([fold.queries for fold in task.folds])
    assert len(set(queries.tolist())) == len(queries)
    for fold in task.folds:
        assert not set(who.identities[fold.queries]) & set(who.identities[fold.others])
        assert not set(who.identities[fold.gallery]) & set(who.identities[fold.others])
    alone = set(named.tolist()) - set(queries.tolist())
    for box in alone:
        same = who.identities == who.identities[box]
        assert set(who.places[same].tolist()) == {int(who.places[box])}


def test_the_map_whitens_within_persons_of_the_other_folds() -> None:
    who = persons(0, 90)
    task = make_task(who, 3, 0)
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(9, 6))
    # One direction is loud and says nothing.
    vectors = np.where(who.identities[:, None] >= 0, codes[who.identities], 0) + rng.normal(0, 0.2, (90, 6))
    loud = np.column_stack([vectors, rng.normal(0, 8, 90)]) @ np.linalg.qr(rng.normal(size=(7, 7)))[0]
    assert by_map(task, loud).precision.mean() > by_cosine(task, loud).precision.mean() + 0.2
    rows = compact(loud)
    expected = []
    for fold in task.folds:
        fitted, names = rows[fold.others], who.identities[fold.others]
        scatter = sum(np.cov(fitted[names == name].T, bias=True) * (names == name).mean() for name in np.unique(names))
        scatter = scatter + 0.1 * np.trace(scatter) / len(scatter) * np.eye(len(scatter))
        values, directions = np.linalg.eigh(scatter)
        mapped = (rows - fitted.mean(0)) @ (directions / np.sqrt(values))
        expected += by_cosine(Task(who, (fold,), np.zeros(0)), mapped).precision.tolist()
    np.testing.assert_allclose(by_map(task, loud).precision, expected, atol=1e-9)


@pytest.mark.parametrize("width", [3, 200])
def test_compact_keeps_every_inner_product(width: int) -> None:
    vectors = np.random.default_rng(0).normal(5, 2, (20, width))
    vectors[:, 1] = 7
    rows = compact(vectors)
    assert rows.shape[1] == min(width, 20)
    spread = vectors.std(0)
    spread[1] = np.inf
    scaled = (vectors - vectors.mean(0)) / spread
    np.testing.assert_allclose(rows @ rows.T, scaled @ scaled.T, atol=1e-9)


def test_strips_weigh_the_same() -> None:
    vectors = np.random.default_rng(0).normal(size=(4, 3, 5)) * np.array([1, 100, 0.01])[:, None]
    np.testing.assert_allclose(np.linalg.norm(in_strips(vectors).reshape(4, 3, 5), axis=2), 1)


def test_identical_vectors_rank_last() -> None:
    """Nothing can be told apart, so nothing is first."""
    found = by_cosine(make_task(persons(3), 3, 0), np.ones((60, 4)))
    assert not found.first.any()
    assert np.isfinite(by_map(make_task(persons(3), 3, 0), np.ones((60, 4))).precision).all()


def test_two_persons_are_enough() -> None:
    who = Persons(np.arange(6), np.array([0, 0, 1, 1, -1, -1]), np.array([0, 1, 0, 1, 0, 1]))
    task = make_task(who, 4, 0)
    assert len(task.folds) == 2
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, -1], [-1, -2]])
    assert by_cosine(task, vectors).precision.mean() == 1
    assert np.isfinite(by_map(task, vectors).precision).all()


def test_who_is_searched_among_whom() -> None:
    """Eleven boxes of five persons and two of nobody known, two to a scene: as a seed deals them."""
    who = Persons(np.arange(12) // 2, np.array([0, 1, 2, 3, 4, -1, 0, 1, 2, 3, 4, -1]), np.arange(12) // 2)
    task = make_task(who, 2, 3)
    assert [(fold.queries.tolist(), fold.gallery.tolist(), fold.others.tolist()) for fold in task.folds] == [
        ([0, 1, 4, 6, 7, 10], [0, 1, 4, 5, 6, 7, 10, 11], [2, 3, 8, 9]),
        ([2, 3, 8, 9], [2, 3, 5, 8, 9, 11], [0, 1, 4, 6, 7, 10]),
    ]
    # One right among six boxes of other scenes, and among four.
    np.testing.assert_allclose(task.chance, [2.45 / 6] * 6 + [25 / 12 / 4] * 4)
    assert task.identities.tolist() == [0, 1, 4, 0, 1, 4, 2, 3, 2, 3]
