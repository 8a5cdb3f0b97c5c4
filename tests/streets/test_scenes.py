"""Drawn scenes: the same everywhere, and what is beside the picture fits it."""

import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from diffps.datasets.streets.captions import WORDS, caption
from diffps.datasets.streets.people import make_identity
from diffps.datasets.streets.scene import MAX_PERSONS, DrawnScene, draw_scene
from diffps.datasets.streets.scenery import OBJECTS, make_camera

DIGEST = """
import hashlib, numpy as np
from diffps.datasets.streets.people import make_identity
from diffps.datasets.streets.scene import draw_scene
from diffps.datasets.streets.scenery import make_camera
scene = draw_scene(make_camera(3, 2), [make_identity(3, n) for n in (5, 9)], np.random.default_rng(8))
print(hashlib.sha256(scene.jpeg() + scene.parts.tobytes()).hexdigest())
"""


def _scene(seed: int, persons: int = 4, size: int = 256) -> DrawnScene:
    people = [make_identity(1, seed * 10 + number) for number in range(persons)]
    return draw_scene(make_camera(1, seed % 6), people, np.random.default_rng(seed), size=size)


def test_another_process_draws_the_same_bytes() -> None:
    scene = draw_scene(make_camera(3, 2), [make_identity(3, n) for n in (5, 9)], np.random.default_rng(8))
    here = hashlib.sha256(scene.jpeg() + scene.parts.tobytes()).hexdigest()
    root = Path(__file__).parents[2]
    there = subprocess.run([sys.executable, "-c", DIGEST], cwd=root, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), persons=st.integers(0, 12), size=st.sampled_from([96, 128, 200, 256]))
def test_boxes_bound_the_masks_and_every_part_belongs_to_a_person(seed: int, persons: int, size: int) -> None:
    scene = _scene(seed, persons, size)
    assert scene.image.shape == (size, size, 3)
    assert scene.instances.max(initial=0) == len(scene.persons)
    for number, person in enumerate(scene.persons, start=1):
        rows, columns = np.nonzero(scene.instances == number)
        assert person.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert 0 < person.visible <= 1
    assert not scene.parts[scene.instances == 0].any()
    assert not scene.objects[scene.instances > 0].any()
    assert scene.objects.max() <= len(OBJECTS)


def test_an_identity_is_kept_and_no_two_are_alike() -> None:
    assert make_identity(0, 7) == make_identity(0, 7)
    looks = {
        (who.shirt, who.pattern, who.second, who.pants, who.shoes, who.hair, who.hat, who.bag)
        for who in (make_identity(0, number) for number in range(200))
    }
    assert len(looks) > 190


def test_a_street_has_many_scales_and_partly_hidden_persons() -> None:
    persons = [person for seed in range(60) for person in _scene(seed, 5).persons]
    heights = np.array([person.height for person in persons])
    visible = np.array([person.visible for person in persons])
    assert np.quantile(heights, 0.95) > 2.5 * np.quantile(heights, 0.05)
    assert 0.05 < (visible < 0.7).mean() < 0.5
    assert sum(bool(_scene(seed).objects.any()) for seed in range(20)) > 10


def test_cameras_differ_in_light_and_background() -> None:
    assert draw_scene(make_camera(0, 0), [], np.random.default_rng(0)).image.shape == (256, 256, 3)
    empty = [draw_scene(make_camera(0, k), [], np.random.default_rng(0)).image.mean((0, 1)) for k in range(4)]
    assert min(np.abs(a - b).max() for i, a in enumerate(empty) for b in empty[:i]) > 5


def test_captions_stay_within_the_vocabulary_and_name_what_is_there() -> None:
    rng = np.random.default_rng(0)
    people = [make_identity(0, number) for number in range(30)]
    texts = [caption(people[i % 30 : i % 30 + 2], ["car"], rng) for i in range(200)]
    assert {word for text in texts for word in text.split()} <= set(WORDS)
    assert {"", "person"} & set(texts)
    assert any("shirts" in text and "car" in text for text in texts)
    assert all("person" not in caption([], ["tree"], rng) for _ in range(50))


def test_too_many_persons_are_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        _scene(0, MAX_PERSONS + 1)


def test_as_many_persons_as_labels_allow_are_drawn() -> None:
    assert MAX_PERSONS == 40
    scene = _scene(0, MAX_PERSONS)
    assert scene.instances.max() == len(scene.persons) > 10
    assert 5 * MAX_PERSONS + len(OBJECTS) < 256


def test_the_picture_is_kept_as_the_camera_keeps_it() -> None:
    scene = _scene(0)
    buffer = io.BytesIO()
    Image.fromarray(scene.image).save(buffer, "JPEG", quality=scene.camera.quality)
    assert scene.jpeg() == buffer.getvalue()
