"""Differences between heads, and how well embeddings tell persons apart, counted by hand."""

import numpy as np
import pytest

from diffps.metrics.paired import paired_difference
from diffps.metrics.retrieval import retrieval_map


def test_one_pair_has_the_scatter_of_its_queries() -> None:
    first, second = {"a": 0.1, "b": 0.5, "c": 0.9}, {"a": 0.3, "b": 0.5, "d": 0.0}
    found = paired_difference([(first, second)])
    assert found == {"map_diff": pytest.approx(0.1), "map_diff_se": pytest.approx(0.1), "se_over": "queries"}
    assert paired_difference([(first, {"a": 0.0})])["map_diff_se"] is None


def test_several_pairs_have_that_of_their_means() -> None:
    """Means 0.1, 0.3 and 0.2: a deviation of 0.1, over the root of three."""
    pairs = [({"a": 0.0, "b": 0.0}, {"a": 0.1, "b": 0.1}), ({"a": 0.2}, {"a": 0.5}), ({"a": 0.2}, {"a": 0.4})]
    found = paired_difference([*pairs, ({"a": 1.0}, {"b": 0.0})])
    error = 0.1 / 3**0.5
    assert found == {"map_diff": pytest.approx(0.2), "map_diff_se": pytest.approx(error), "se_over": "seeds"}


def test_without_a_query_in_common_there_is_no_difference() -> None:
    assert paired_difference([({"a": 1.0}, {"b": 1.0})]) == paired_difference([]) == {}


def test_persons_search_one_another_but_not_in_their_own_scene() -> None:
    """Angles in degrees; person 1 twice in scene 0, then in 1 and 2; person 2 in scenes 1 and 2; somebody unlabelled.

    Ranked for the first: 1 at 10 (right), the unlabelled at 21, 2 at 30, 1 at 40 (right): (1 + 2 / 4) / 2.
    """
    angles = np.radians([0, 1, 10, 40, 30, 90, 21])
    embeddings = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    identities, scenes = np.array([1, 1, 1, 1, 2, 2, -1]), np.array([0, 0, 1, 2, 1, 2, 2])
    precisions = [
        (1 + 2 / 4) / 2,
        (1 + 2 / 4) / 2,
        precision([1, 1, -1, 1, 2], 1),
        precision([2, 1, 1, 1], 1),
        precision([-1, 1, 1, 1, 2], 2),
        precision([2, 1, 1, 1], 2),
    ]
    assert retrieval_map(embeddings, identities, scenes) == pytest.approx(np.mean(precisions))


def precision(ranked: list[int], wanted: int) -> float:
    """Average precision of identities in rank order."""
    hits = [rank for rank, identity in enumerate(ranked, 1) if identity == wanted]
    return sum(number / rank for number, rank in enumerate(hits, 1)) / len(hits)
