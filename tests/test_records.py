"""Records are validated once, at construction."""

import os
from pathlib import Path

import numpy as np
import pytest

from diffps.errors import DatasetError
from diffps.names import to_text
from diffps.records import Annotations, Detections, Scene


def boxes(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32).reshape(-1, 4)


def test_a_scene_without_persons_is_valid() -> None:
    empty = Annotations(boxes(), np.zeros(0, np.int64))
    assert len(empty.boxes) == 0


def test_a_scene_leads_to_its_file_whatever_bytes_its_name_holds() -> None:
    name = os.fsdecode(b"images/caf\xe9.jpg")
    scene = Scene(scene_id="x", split="test", path=to_text(name), width=1, height=1, digest="0")
    assert os.fsencode(scene.file(Path("root"))) == b"root/images/caf\xe9.jpg"


@pytest.mark.parametrize(
    ("rows", "ids", "message"),
    [
        ([(0, 0, 5, 5)], [1, 2], "do not match"),
        ([(0, 0, 5, 5), (3, 3, 3, 9)], [1, 2], "box 1 is empty"),
        ([(0, 0, np.nan, 5)], [1], "box 0 is empty or not finite"),
        ([(0, 0, 5, 5)], [-2], "identity -2 is below -1"),
    ],
)
def test_annotations_name_what_is_wrong(rows: list[tuple[float, ...]], ids: list[int], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Annotations(boxes(*rows), np.array(ids, np.int64))


def test_detections_must_agree_in_length() -> None:
    with pytest.raises(DatasetError, match="do not match"):
        Detections(boxes((0, 0, 1, 1)), np.ones(2, np.float32), np.ones((1, 8), np.float32))
    assert len(Detections(boxes((0, 0, 1, 1)), np.ones(1, np.float32), np.ones((1, 8), np.float32))) == 1


def test_scene_size_is_height_then_width() -> None:
    scene = Scene(scene_id="a.jpg", split="test", path="frames/a.jpg", width=30, height=20, digest="00")
    assert scene.size == (20, 30)
