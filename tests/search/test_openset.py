"""A calibration's promises against searches drawn one by one, among the same people and among people never seen."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.stats import binom

from diffps.errors import CalibrationError
from diffps.records import UNLABELLED
from diffps.search.calibration import Calibration
from diffps.search.openset import MOST_QUERIES, HeldOut, calibrate, several_pictures
from tests.search.identities import largest_similarity, made_up

CALIBRATED = made_up(1, people=800, scenes=800)


@cache
def calibration() -> Calibration:
    return calibrate(CALIBRATED)


@pytest.mark.parametrize("boxes", [20, 100, 1000])
def test_resampling_in_one_go_is_drawing_galleries_one_by_one(boxes: int) -> None:
    """Five draws for each query: what is left is their chance, about the binomial's."""
    asked = np.tile(np.arange(0, len(CALIBRATED.queries), 4), 5)
    found = largest_similarity(CALIBRATED, boxes, 5, asked)
    for level in (0.5, 0.1, 0.02):
        rate = (found >= calibration().threshold(boxes, level)).mean()
        low, high = binom.ppf([0.0005, 0.9995], len(asked), level) / len(asked)
        assert low <= rate <= high


@pytest.mark.parametrize("boxes", [100, 400, 1400])
def test_strangers_never_seen_are_taken_for_the_person_as_often_as_promised(boxes: int) -> None:
    """1,000 searches without a mate, each of another person. Calibration and test are both samples, so their
    difference scatters by the root of two times the binomial; 99 % of such draws pass."""
    fresh = made_up(2, people=1000, scenes=1000)
    _, asked = np.unique(fresh.query_identities, return_index=True)
    assert len(asked) >= 980
    found = largest_similarity(fresh, boxes, 3, asked)
    for level in (0.1, 0.01):
        spread = np.sqrt(level * (1 - level) * (1 / len(asked) + 1 / calibration().identities))
        assert abs((found >= calibration().threshold(boxes, level)).mean() - level) < 2.6 * spread


def test_a_threshold_that_forgets_the_number_of_boxes_breaks_its_promise() -> None:
    """What calibration is for: the threshold of 100 boxes lets in strangers by the dozen among 1,400."""
    _, asked = np.unique(CALIBRATED.query_identities, return_index=True)
    found = largest_similarity(CALIBRATED, 1400, 3, asked)
    assert (found >= calibration().threshold(100, 0.01)).mean() > 0.03


def test_missed_pictures_of_the_person_are_counted() -> None:
    unit = CALIBRATED.embeddings / np.linalg.norm(CALIBRATED.embeddings, axis=1, keepdims=True)
    shares = []
    for person in np.unique(CALIBRATED.query_identities):
        mine = np.flatnonzero(CALIBRATED.query_identities == person)
        below = []
        for q in mine:
            query = CALIBRATED.queries[q] / np.linalg.norm(CALIBRATED.queries[q])
            shown = CALIBRATED.seen_scenes[CALIBRATED.seen_identities == person]
            for scene in np.setdiff1d(shown, CALIBRATED.query_scenes[q]):
                there = unit[(CALIBRATED.identities == person) & (CALIBRATED.scenes == scene)] @ query
                below.append(there.max(initial=-1) < 0.7)
        shares += [np.mean(below)] if below else []
    assert calibration().fnir(0.7) == pytest.approx(np.mean(shares), abs=0.011)
    assert calibration().fnir(-0.99) == pytest.approx(0.05, abs=0.02)  # the detector missed so many


def test_levels_that_few_identities_cannot_show_are_continued_and_said_to_be() -> None:
    few = calibrate(made_up(3, people=40, scenes=60))
    assert few.sizes[-1].least >= 0.1
    assert few.least(few.measured_boxes) >= 0.1
    assert few.threshold(few.measured_boxes, 0.01) > few.threshold(few.measured_boxes, 0.1)
    many = calibration()
    assert many.sizes[-1].least <= 0.02


def test_an_identity_weighs_the_same_however_often_it_asks() -> None:
    repeated = np.concatenate([np.arange(len(CALIBRATED.queries)), np.zeros(500, int)])
    crowded = replace(
        CALIBRATED,
        queries=CALIBRATED.queries[repeated],
        query_identities=CALIBRATED.query_identities[repeated],
        query_scenes=CALIBRATED.query_scenes[repeated],
    )
    plain, other = calibration(), calibrate(crowded)
    for row, same in zip(plain.sizes, other.sizes, strict=True):
        np.testing.assert_allclose(row.thresholds[:6], same.thresholds[:6], atol=0.01)
    assert other.unmated == plain.unmated + 500


def test_many_queries_are_thinned_person_by_person() -> None:
    """One asks 6,000 times more: everybody else is still heard."""
    repeated = np.concatenate([np.zeros(6000, int), np.arange(len(CALIBRATED.queries))])
    crowded = replace(
        CALIBRATED,
        queries=CALIBRATED.queries[repeated],
        query_identities=CALIBRATED.query_identities[repeated],
        query_scenes=CALIBRATED.query_scenes[repeated],
    )
    found = calibrate(crowded)
    assert (found.unmated, found.identities) == (MOST_QUERIES, calibration().identities)
    assert found.threshold(500, 0.1) == pytest.approx(calibration().threshold(500, 0.1), abs=0.01)


def test_two_pictures_of_a_person_find_more_of_them() -> None:
    held_out = made_up(4, people=300, scenes=450, noise=0.6)
    pairs = several_pictures(held_out, 2, np.random.default_rng(0))
    assert pairs.query_scenes.shape == (len(pairs.queries), 2)
    assert (pairs.query_scenes[:, 0] != pairs.query_scenes[:, 1]).all()
    one, two = calibrate(held_out), calibrate(pairs)
    assert (one.pictures, two.pictures) == (1, 2)
    assert two.fnir(two.threshold(500, 0.1)) < one.fnir(one.threshold(500, 0.1)) - 0.03


def test_too_few_identities_are_refused() -> None:
    with pytest.raises(CalibrationError, match="12 held-out identities are seen in a second scene; at least 20"):
        calibrate(made_up(5, people=12, scenes=20, unknown=0))


def test_shapes_and_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(CalibrationError, match="do not match"):
        replace(CALIBRATED, scenes=CALIBRATED.scenes[1:])
    with pytest.raises(CalibrationError, match="query_scenes are not numbers below 800"):
        replace(CALIBRATED, query_scenes=CALIBRATED.query_scenes + 800)
    with pytest.raises(CalibrationError, match="a query is of nobody known"):
        replace(CALIBRATED, query_identities=np.full(len(CALIBRATED.queries), UNLABELLED))


def test_nobody_is_found_where_the_detector_found_nothing() -> None:
    blind: HeldOut = replace(
        CALIBRATED,
        embeddings=CALIBRATED.embeddings[:0],
        scenes=CALIBRATED.scenes[:0],
        identities=CALIBRATED.identities[:0],
    )
    with pytest.raises(CalibrationError, match="no box was detected"):
        calibrate(blind)


def test_the_numbers_of_a_small_calibration() -> None:
    """Worked out once: what is measured, what is continued, and on how many people."""
    found = calibrate(made_up(7, people=60, scenes=90))
    assert [row.boxes for row in found.sizes] == [1, 2, 5, 10, 20, 50, 100, 170]
    assert [row.least for row in found.sizes] == [0.001, 0.001, 0.005, 0.005, 0.01, 0.02, 0.05, 0.1]
    scales = [0.11129, 0.08913, 0.0763, 0.06151, 0.05327, 0.033, 0.02588, 0.02738]
    np.testing.assert_allclose([row.scale for row in found.sizes], scales, atol=2e-5)
    first = [-1.0, -1.0, 0.01128, 0.28686, 0.41079, 0.50221, 0.5909, 0.64919, 0.69754, 0.74641, 0.76888]
    np.testing.assert_allclose(found.sizes[0].thresholds, first, atol=2e-5)
    last = [0.46996, 0.56159, 0.67125, 0.75697, 0.77716, 0.79687, 0.82237, 0.84149, 0.86053, 0.88566, 0.91428]
    np.testing.assert_allclose(found.sizes[-1].thresholds, last, atol=2e-5)
    assert len(found.mates) == 101
    np.testing.assert_allclose(found.mates[::20], [-1, 0.63944, 0.74371, 0.80709, 0.85226, 0.93533], atol=2e-5)
    assert (found.pictures, found.identities, found.unmated, found.mated) == (1, 60, 120, 466)
    assert (found.scenes, found.pool) == (90, 340)


def test_pictures_are_used_once_and_come_from_different_scenes() -> None:
    held_out = made_up(7, people=60, scenes=90)
    twice = replace(
        held_out,
        queries=np.repeat(held_out.queries, 3, axis=0) * 5,
        query_identities=np.repeat(held_out.query_identities, 3),
        query_scenes=np.repeat(held_out.query_scenes, 3, axis=0),
    )
    for given in (held_out, twice):
        pairs = several_pictures(given, 2, np.random.default_rng(0))
        assert pairs.query_identities.tolist() == list(range(60))
        assert (pairs.query_scenes[:, 0] != pairs.query_scenes[:, 1]).all()
        unit = held_out.queries / np.linalg.norm(held_out.queries, axis=1, keepdims=True)
        for person, query in enumerate(pairs.queries):
            np.testing.assert_allclose(query, unit[held_out.query_identities == person].mean(0), atol=1e-6)
    assert several_pictures(held_out, 3, np.random.default_rng(0)).query_scenes.shape == (0, 3)
    assert len(several_pictures(held_out, 1, np.random.default_rng(0)).queries) == 120


@pytest.mark.parametrize("name", ["scenes", "seen_scenes", "query_scenes"])
def test_scenes_are_numbers_from_0(name: str) -> None:
    numbers = getattr(CALIBRATED, name).copy()
    numbers.flat[0] = CALIBRATED.scene_count - 1
    replace(CALIBRATED, **{name: numbers})
    for wrong in (-1, CALIBRATED.scene_count):
        numbers.flat[0] = wrong
        with pytest.raises(CalibrationError) as caught:
            replace(CALIBRATED, **{name: numbers})
        assert str(caught.value) == f"held-out identities: {name} are not numbers below 800"


@pytest.mark.parametrize(
    "changes",
    [
        {"identities": CALIBRATED.identities[1:]},
        {"seen_scenes": CALIBRATED.seen_scenes[1:]},
        {"query_identities": CALIBRATED.query_identities[1:]},
        {"query_scenes": CALIBRATED.query_scenes[1:]},
        {"query_scenes": CALIBRATED.query_scenes[:, 0]},
        {"queries": CALIBRATED.queries[:, 1:]},
    ],
)
def test_every_part_of_what_is_held_out_must_fit(changes: dict[str, np.ndarray]) -> None:
    with pytest.raises(CalibrationError, match=r"held-out identities: embeddings \(.*\) do not match$"):
        replace(CALIBRATED, **changes)


def test_twenty_identities_are_enough() -> None:
    assert calibrate(made_up(5, people=20, scenes=40, unknown=0)).identities == 20
    with pytest.raises(CalibrationError, match="19 held-out identities are seen in a second scene; at least 20 are"):
        calibrate(made_up(5, people=19, scenes=40, unknown=0))
