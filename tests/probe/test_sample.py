from dataclasses import replace

import numpy as np
import pytest

from diffps.errors import DatasetError
from diffps.probe.sample import draw_sample
from diffps.records import Annotations, Scene
from tests.probe.worlds import CANVAS, scenes


def test_the_same_scenes_whatever_the_order_of_the_index() -> None:
    found, annotations = scenes(40, 12)
    first = draw_sample(found, annotations, CANVAS, 15, 3)
    second = draw_sample(found[::-1], dict(reversed(annotations.items())), CANVAS, 15, 3)
    assert first.scenes == second.scenes
    assert len(first.scenes) == 15
    assert first.fitted == 7
    assert draw_sample(found, annotations, CANVAS, 15, 4).scenes != first.scenes


def test_a_small_sample_of_many_identities_still_sees_persons_before_two_cameras() -> None:
    """Of 300 scenes with 200 identities, 20 drawn without looking would hold hardly any pair."""
    drawn = draw_sample(*scenes(300, 200), CANVAS, 20, 0)
    persons = drawn.persons
    pairs = [
        len(set(persons.places[persons.identities == name].tolist())) for name in np.unique(persons.identities).tolist()
    ]
    assert drawn.across == "cameras"
    assert sum(places > 1 for places in pairs) >= 5


def test_boxes_are_on_the_canvas_and_scenes_without_persons_stay_out() -> None:
    found, annotations = scenes(10, 6)
    annotations[found[0].scene_id] = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))
    half = [replace(scene, width=256, height=256) for scene in found]
    drawn = draw_sample(half, annotations, CANVAS, 20, 0)
    assert len(drawn.scenes) == 9
    assert "9 have boxes: all of them were taken" in drawn.limits[0]
    for scene, boxes in zip(drawn.scenes, drawn.boxes, strict=True):
        np.testing.assert_allclose(boxes, annotations[scene.scene_id].boxes / 2)


@pytest.mark.parametrize(
    ("cameras", "identities", "across", "said"),
    [
        (3, 6, "cameras", None),
        (1, 6, "scenes", "no two persons are seen by two cameras"),
        (None, 6, "scenes", "the dataset names no cameras"),
        (3, 1, None, "1 identities, 1 of them in two scenes"),
        (3, 0, None, "no identities"),
    ],
)
def test_what_can_still_be_probed(cameras: int | None, identities: int, across: str | None, said: str | None) -> None:
    found, annotations = scenes(12, max(identities, 3), cameras)
    if identities < 3:
        kept = {name: np.where(each.identities < identities, each.identities, -1) for name, each in annotations.items()}
        annotations = {name: Annotations(each.boxes, kept[name]) for name, each in annotations.items()}
    drawn = draw_sample(found, annotations, CANVAS, 12, 0)
    assert drawn.across == across
    assert (said is None) == (not drawn.limits)
    assert said is None or said in drawn.limits[0]


@pytest.mark.parametrize(("kept", "count"), [(1, 10), (10, 1), (0, 5)])
def test_too_little_to_fit_and_score(kept: int, count: int) -> None:
    found, annotations = scenes(10, 6)
    with pytest.raises(DatasetError, match="needs two or more"):
        draw_sample(found[:kept], annotations, CANVAS, count, 0)


def one_person_in_many() -> tuple[list[Scene], dict[str, Annotations]]:
    """Person 0 in eight scenes of four cameras, two to each; eight more scenes of somebody seen once."""
    found, annotations = scenes(16, 3, None, persons=1)
    found = [replace(scene, camera=number // 2 if number < 8 else 9) for number, scene in enumerate(found)]
    for number, scene in enumerate(found):
        names = np.array([0 if number < 8 else number])
        annotations[scene.scene_id] = Annotations(annotations[scene.scene_id].boxes, names)
    return found, annotations


def test_four_scenes_are_drawn_for_a_persons_sake_from_as_many_cameras() -> None:
    for seed in range(5):
        drawn = draw_sample(*one_person_in_many(), CANVAS, 4, seed)
        assert {scene.camera for scene in drawn.scenes} == {0, 1, 2, 3}
        more = [draw_sample(*one_person_in_many(), CANVAS, count, seed) for count in (9, 12)]
        assert all(len({scene.scene_id for scene in each.scenes}) == len(each.scenes) for each in more)
    # One person alone cannot be searched for: nobody else is seen twice.
    assert drawn.across is None
    assert drawn.limits == (
        "Only detection is probed: the sample has 1 identities, 1 of them in two scenes, and re-ID needs two such "
        "persons.",
    )


def test_the_sample_of_a_seed_stays_what_it_was() -> None:
    """So that probes of two versions can be compared."""
    drawn = draw_sample(*scenes(40, 12), CANVAS, 6, 3)
    assert [scene.scene_id for scene in drawn.scenes] == [
        "s034.jpg",
        "s009.jpg",
        "s029.jpg",
        "s023.jpg",
        "s026.jpg",
        "s039.jpg",
    ]


def test_what_could_not_be_read_is_left_out_and_said() -> None:
    drawn = draw_sample(*scenes(12, 6), CANVAS, 12, 0)
    assert drawn.only(range(12)) is drawn
    rows = [0, 2, 5, 6, 11]
    left = drawn.only(rows)
    assert left.scenes == tuple(drawn.scenes[row] for row in rows)
    assert left.fitted == 3
    for name in ("boxes", "identities"):
        assert all(a is getattr(drawn, name)[row] for a, row in zip(getattr(left, name), rows, strict=True))
    assert left.limits[0] == "7 of 12 images could not be read and were left out."
    one = drawn.only([3])
    assert (one.across, one.fitted) == (None, 1)
    assert one.limits[1].startswith("Only detection is probed: the sample has ")


def test_persons_lie_in_scenes_or_before_cameras() -> None:
    drawn = draw_sample(*scenes(12, 6), CANVAS, 12, 0)
    persons = drawn.persons
    assert persons.scenes.tolist() == np.repeat(np.arange(12), 3).tolist()
    assert persons.places.tolist() == np.repeat([scene.camera for scene in drawn.scenes], 3).tolist()
    assert replace(drawn, across="scenes").persons.places.tolist() == persons.scenes.tolist()
    alone = draw_sample(*scenes(12, 6, None), CANVAS, 12, 0)
    assert alone.across == "scenes"
    assert alone.persons.places.tolist() == persons.scenes.tolist()
    assert alone.limits == ("Persons are searched across scenes, not cameras: the dataset names no cameras.",)


@pytest.mark.parametrize(("shown", "count"), [(1, 2), (2, 1), (0, 2)])
def test_a_sample_of_one_is_told_what_it_lacks(shown: int, count: int) -> None:
    found, annotations = scenes(2, 6)
    with pytest.raises(DatasetError) as caught:
        draw_sample(found[:shown], annotations, CANVAS, count, 0)
    assert str(caught.value) == (
        f"probe: {shown} scenes have boxes and {count} are asked for; a probe fits on one half of its "
        "scenes and scores on the other, so it needs two or more"
    )
    assert draw_sample(found, annotations, CANVAS, 2, 0).fitted == 1
    assert draw_sample(*scenes(3, 6), CANVAS, 3, 0).limits == draw_sample(*scenes(3, 6), CANVAS, 3, 0).limits
