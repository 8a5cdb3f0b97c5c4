from dataclasses import replace

import numpy as np
import pytest

from diffps.errors import DatasetError
from diffps.probe.sample import draw_sample
from diffps.records import Annotations
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
