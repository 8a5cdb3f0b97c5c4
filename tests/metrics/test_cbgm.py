"""Context matching against SeqNet's rule written plainly: one query, one gallery scene at a time."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from diffps.metrics.cbgm import context_overrides, query_context
from diffps.metrics.search import Positives, score_search


@dataclass(frozen=True)
class World:
    """Detections ``embeddings`` (N, D) in ``scenes`` (N,), and one context (c, D) per query, its own row first."""

    contexts: list[np.ndarray]
    embeddings: np.ndarray
    scenes: np.ndarray

    def ranking(self, k1: int) -> np.ndarray:
        """The k1 most similar detections of each query, the first of equals first; -1 where there are fewer."""
        found = np.full((len(self.contexts), k1), -1)
        for row, context in zip(found, self.contexts, strict=True):
            best = np.argsort(-(self.embeddings @ context[0]).round(9), kind="stable")[:k1]
            row[: len(best)] = best
        return found


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def world(seed: int, *, people: tuple[int, int], dimensions: int = 8) -> World:
    rng = np.random.default_rng(seed)
    counts = rng.integers(*people, size=6)
    contexts = [unit(rng.normal(size=(rng.integers(1, 5), dimensions))) for _ in range(5)]
    scenes = rng.permutation(np.repeat(np.arange(6), counts))
    return World(contexts, unit(rng.normal(size=(len(scenes), dimensions))), scenes)


def world_of_ties(seed: int) -> World:
    """Everybody wears one of three looks."""
    rng = np.random.default_rng(seed)
    looks = unit(np.array([[1.0, 0, 0], [0.6, 0.8, 0], [0, 0.6, 0.8]]))
    scenes = rng.permutation(np.repeat(np.arange(4), rng.integers(1, 5, size=4)))
    contexts = [looks[rng.integers(0, 3, rng.integers(1, 4))] for _ in range(4)]
    return World(contexts, looks[rng.integers(0, 3, len(scenes))], scenes)


def given_values(found, query: int) -> dict[int, float]:
    part = slice(found.starts[query], found.starts[query + 1])
    return dict(zip(found.detections[part].tolist(), found.values[part].tolist(), strict=True))


def seqnet(context: np.ndarray, top: np.ndarray, world: World) -> dict[int, float]:
    """``sim[j] = max_val`` of every scene among the top detections, as SeqNet's evaluation does it."""
    revised = {}
    for scene in {world.scenes[d] for d in top if d >= 0}:
        inside = np.flatnonzero(world.scenes == scene)
        graph = np.array([[float(person @ world.embeddings[d]) for d in inside] for person in context])
        pairs = list(zip(*linear_sum_assignment(-graph), strict=True))
        largest = max(graph[person, d] for person, d in pairs)
        for person, d in pairs:
            if person == 0:
                revised[int(inside[d])] = largest
    return revised


@given(seed=st.integers(0, 10_000), k1=st.integers(1, 12), crowded=st.booleans())
def test_the_match_gets_the_largest_similarity_of_the_matched_pairs(seed: int, k1: int, crowded: bool) -> None:
    made = world(seed, people=(15, 40) if crowded else (0, 6))
    ranking = made.ranking(k1)
    found = context_overrides(ranking, made.contexts, made.embeddings, made.scenes)
    for query, context in enumerate(made.contexts):
        assert given_values(found, query) == pytest.approx(seqnet(context, ranking[query], made), abs=1e-6)


@pytest.mark.parametrize("value", ["max", "sum"])
@given(seed=st.integers(0, 10_000))
def test_of_ties_one_best_assignment_is_taken(value: str, seed: int) -> None:
    made = world_of_ties(seed)
    ranking = made.ranking(3)
    found = context_overrides(ranking, made.contexts, made.embeddings, made.scenes, value)
    for query, context in enumerate(made.contexts):
        revised = given_values(found, query)
        for scene in np.unique(made.scenes[ranking[query][ranking[query] >= 0]]):
            inside = np.flatnonzero(made.scenes == scene)
            here = [(d, revised[d]) for d in inside.tolist() if d in revised]
            assert len(here) <= 1
            assert tuple(here) in best_outcomes(context @ made.embeddings[inside].T, inside, value)


def best_outcomes(similarity: np.ndarray, inside: np.ndarray, value: str) -> list[object]:
    """What each of the assignments with the greatest sum gives the query's match; trying them all."""
    people, detections = similarity.shape
    size = min(people, detections)
    choices = [
        list(zip(rows, columns, strict=True))
        for rows in permutations(range(people), size)
        for columns in permutations(range(detections), size)
    ]
    sums = [sum(similarity[pair] for pair in pairs) for pairs in choices]
    outcomes = []
    for pairs, total in zip(choices, sums, strict=True):
        if total > max(sums) - 1e-9:
            match = dict(pairs).get(0)
            given = max(similarity[pair] for pair in pairs) if value == "max" else total
            outcomes.append(() if match is None else ((int(inside[match]), pytest.approx(given, abs=1e-6)),))
    return outcomes


def test_the_sum_leaves_the_scale_of_cosines_and_the_maximum_does_not() -> None:
    family = unit(np.eye(3, 4) + 0.01)
    made = World([family], family, np.zeros(3, int))
    largest, summed = (
        context_overrides(np.array([[0]]), made.contexts, family, made.scenes, value).values[0]
        for value in ("max", "sum")
    )
    assert largest == pytest.approx(1, abs=1e-6)
    assert summed == pytest.approx(3, abs=1e-6)


def test_a_query_that_finds_no_partner_changes_nothing() -> None:
    """One detection, and the query's neighbour resembles it more."""
    context = unit(np.array([[1.0, 0], [0, 1]]))
    found = context_overrides(np.array([[0]]), [context], np.array([[0.1, 1.0]]), np.array([0]))
    assert len(found.detections) == 0


def test_average_precision_is_seqnets() -> None:
    """One labelled person per scene: revise, rank, precision at each hit."""
    made = world(3, people=(2, 12))
    queries = np.stack([context[0] for context in made.contexts])
    rng = np.random.default_rng(0)
    boxes = np.array([[100 * d, 0, 100 * d + 40, 90] for d in range(len(made.scenes))], np.float32)
    wanted = np.array([rng.choice(np.flatnonzero(made.scenes == scene)) for scene in range(6)])
    positives = Positives(np.repeat(np.arange(5), 6), np.tile(np.arange(6), 5), np.tile(boxes[wanted], (5, 1)))
    ranking = made.ranking(10)
    overrides = context_overrides(ranking, made.contexts, made.embeddings, made.scenes)
    scores = score_search(queries, made.embeddings, boxes, made.scenes, positives, overrides=overrides)
    for query in range(5):
        similarity = made.embeddings @ queries[query]
        for detection, value in seqnet(made.contexts[query], ranking[query], made).items():
            similarity[detection] = value
        right = np.isin(np.argsort(-similarity, kind="stable"), wanted)
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        assert scores.average_precision[query] == pytest.approx(precision[right].mean(), abs=1e-9)


def test_the_context_is_the_query_and_the_most_confident_others() -> None:
    box = np.array([0, 0, 40, 100], np.float32)
    boxes = np.array([[2, 0, 42, 100], [100, 0, 140, 100], [20, 0, 60, 100], [200, 0, 240, 100]], np.float32)
    embedding, embeddings = np.zeros(2), np.arange(8.0).reshape(4, 2)
    scores = np.array([0.99, 0.6, 0.9, 0.9])  # the first is the query itself, seen again
    context = query_context(box, embedding, boxes, scores, embeddings, k2=3)
    assert context.tolist() == [[0, 0], [4, 5], [6, 7]]
    assert query_context(box, embedding, boxes, scores, embeddings, k2=1).tolist() == [[0, 0]]
    assert query_context(box, embedding, boxes[:1], scores[:1], embeddings[:1], k2=3).tolist() == [[0, 0]]


def test_from_an_overlap_above_four_tenths_a_detection_is_the_query_itself() -> None:
    """Ten wide as the query: 4 of 10 pixels shared where it lies 3 of 7 aside, 41 of 99 a little nearer."""
    query = np.float32([0, 0, 7, 10])
    boxes = np.float32([[3, 0, 10, 10], [2.9, 0, 9.9, 10]])
    found = query_context(query, np.zeros(1), boxes, np.array([0.5, 0.9]), np.array([[1.0], [2.0]]), k2=9)
    assert found.tolist() == [[0], [1]]


def test_the_largest_similarity_is_given_where_nothing_else_is_asked() -> None:
    family = unit(np.eye(3, 4) + 0.01)
    found = context_overrides(np.array([[0], [-1]]), [family, family], family, np.zeros(3, int))
    assert (found.starts.tolist(), found.detections.tolist()) == ([0, 1, 1], [0])
    assert found.values == pytest.approx([1], abs=1e-6)
