"""The table from rows by hand: means over scenes and persons, what chance gives, and who is near the best."""

import numpy as np
import pytest

from diffps.probe.config import ProbeRules
from diffps.probe.intervals import by_group, estimate, family_bounds, known_bounds, resample
from diffps.probe.reid import by_cosine, by_map, in_strips, make_task
from diffps.probe.sample import Persons
from diffps.probe.table import measure_detection, measure_maps, measure_reid, measure_set, task_of
from tests.probe.worlds import CANVAS, draw_sample, scenes

RULES = ProbeRules(resamples=100, folds=2, seed=3)
NAN = float("nan")
ROWS = {
    "truths": np.array([2, 1, 1, 4]),
    "chance": np.array([0.25, NAN, 0.5, 0.25]),
    "variance": np.array([0.01, NAN, 0.04, 0.09]),
    "a/precision": np.array([0.5, NAN, 1.0, 0.75]),
    "a/shuffled": np.array([0.5, NAN, 0.25, 0.5]),
    "a/found": np.array([1, 0, 1, 2]),
    "b/precision": np.array([0.25, NAN, 0.5, 0.0]),
    "b/shuffled": np.array([0.0, NAN, 0.5, 0.0]),
    "b/found": np.array([0, 1, 1, 0]),
}


def test_detection_is_a_mean_over_scenes_and_a_share_of_persons() -> None:
    a, b = measure_detection(ROWS, ["a", "b"], RULES)
    assert (a.precision.value, b.precision.value) == (0.75, 0.25)
    assert (a.recall.value, b.recall.value) == (4 / 8, 2 / 8)
    assert (a.dealt, b.dealt) == ((0.25 + 0 - 0.25 + 0.25) / 4, (-0.25 + 0 + 0 - 0.25) / 4)
    # Four tests: two taps, for detection and for re-ID.
    assert a.bound == b.bound == pytest.approx(float(known_bounds(np.array([0.01, 0, 0.04, 0.09]), 4)))
    assert (a.near_best, b.near_best) == (True, False)
    assert a.precision.low < 0.75 < a.precision.high
    assert measure_detection(ROWS, ["b", "a"], RULES) == [b, a]
    assert measure_detection(ROWS, ["a", "b"], ProbeRules(resamples=100, seed=4))[0].recall != a.recall


def test_maps_are_means_over_scenes() -> None:
    rows = {
        "m/precision": np.array([0.5, 1.0]),
        "m/hit": np.array([True, False]),
        "m/share": np.array([0.25, 0.5]),
        "n/precision": np.array([0.25, 0.25]),
        "n/hit": np.array([True, True]),
        "n/share": np.array([0.0, 0.5]),
    }
    m, n = measure_maps(rows, ["m", "n"], RULES)
    assert (m.precision.value, m.hit.value, m.share) == (0.75, 0.5, 0.375)
    assert (n.precision.value, n.hit.value, n.share) == (0.25, 1, 0.25)
    assert m.precision.low == 0.5


def people(count: int = 60) -> Persons:
    rng = np.random.default_rng(0)
    return Persons(np.arange(count) // 2, rng.integers(-1, 8, count), np.arange(count) // 2)


def test_reid_is_a_mean_over_persons_of_each_way_to_search() -> None:
    task = make_task(people(), 2, 3)
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(9, 3, 4))
    vectors = {
        "good": codes[people().identities] + 0.3 * rng.normal(size=(60, 3, 4)),
        "bad": rng.normal(size=(60, 3, 4)),
    }
    good, bad = measure_reid(task, vectors, ["good", "bad"], RULES)
    ways = {
        ("map", "top1"): by_map(task, in_strips(vectors["good"])),
        ("whole", None): by_map(task, vectors["good"].mean(1)),
        ("cosine", "cosine_top1"): by_cosine(task, vectors["good"].mean(1)),
        ("strips_cosine", None): by_cosine(task, in_strips(vectors["good"])),
    }
    for (precision, first), found in ways.items():
        sums = by_group(np.stack([found.precision, found.first]), task.identities)
        draws = resample(sums, 100, 3)
        assert getattr(good, precision) == pytest.approx(estimate(sums.ratio[0], draws[0]))
        if first:
            assert getattr(good, first) == pytest.approx(estimate(sums.ratio[1], draws[1]))
    assert good.map.value > bad.map.value
    assert (good.near_best, bad.near_best) == (True, False)
    dealt = people()._replace(identities=people().identities[np.random.default_rng([3, 1]).permutation(60)])
    other = make_task(dealt, 2, 3)
    excess = by_group(
        np.stack([by_map(other, in_strips(vectors[name])).precision - other.chance for name in ("good", "bad")]),
        other.identities,
    )
    assert [good.dealt, bad.dealt] == pytest.approx(excess.ratio.tolist())
    assert [good.bound, bad.bound] == pytest.approx(family_bounds(excess, 4).tolist())
    together = measure_set(task, vectors, ["good", "bad"])
    both = np.concatenate([in_strips(vectors["good"]), in_strips(vectors["bad"])], axis=1)
    assert together.precision.tolist() == by_map(task, both).precision.tolist()


def test_who_is_searched_is_decided_by_the_rules() -> None:
    drawn = draw_sample(*scenes(20, 8), CANVAS, 20, 0)
    task = task_of(drawn, RULES)
    assert task is not None
    expected = make_task(drawn.persons, 2, 3)
    assert [fold.queries.tolist() for fold in task.folds] == [fold.queries.tolist() for fold in expected.folds]
    nobody = draw_sample(*scenes(20, 8), CANVAS, 2, 0).only([0])
    assert task_of(nobody, RULES) is None
