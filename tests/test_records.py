"""Records are validated once, at construction."""

import os
from pathlib import Path

import numpy as np
import pytest

from diffps.errors import DatasetError
from diffps.names import to_text
from diffps.records import UNLABELLED, Annotations, Detections, Gallery, Query, Scene, SearchIndex


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


def query(identity: int = 3, scene: str = "a") -> Query:
    return Query(query_id="q", scene_id=scene, box=boxes((0, 0, 1, 1))[0], identity=identity)


def test_nobody_is_no_query() -> None:
    """-1 stands for every person without a name: all of them would count as right."""
    assert query(0).identity == 0
    with pytest.raises(DatasetError, match="query q: identity -1 is nobody's"):
        query(-1)


@pytest.mark.parametrize("corners", [(0, 0, 0, 5), (0, 0, 5, 0), (3, 0, 2, 5), (0, 0, np.nan, 5)])
def test_a_query_without_a_box_is_refused(corners: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match="query q: box .* is empty or not"):
        Query(query_id="q", scene_id="a", box=boxes(corners)[0], identity=3)


def test_an_index_agrees_with_itself() -> None:
    def scene(name: str) -> Scene:
        return Scene(scene_id=name, split="test", path=name, width=10, height=10, digest="0", camera=None)

    def index(scenes: list[str], annotated: list[str], queries: tuple[Query, ...] = ()) -> SearchIndex:
        persons = {name: Annotations(boxes(), np.zeros(0, np.int64)) for name in annotated}
        return SearchIndex(
            scenes=tuple(map(scene, scenes)), annotations=persons, queries=queries, galleries=(), report={}
        )

    assert index(["a"], ["a"], (query(),)).scenes[0].scene_id == "a"
    assert index([], []).scenes == ()
    with pytest.raises(DatasetError, match="two scenes have the same id"):
        index(["a", "a"], ["a"])
    with pytest.raises(DatasetError, match="do not name the same images"):
        index(["a", "b"], ["a"])
    with pytest.raises(DatasetError, match="query q: its image b is not in the dataset"):
        index(["a"], ["a"], (query(scene="b"),))


def test_a_gallery_s_parts_have_an_entry_per_query() -> None:
    rows = (np.zeros(1, np.int32),)
    assert Gallery(name="g", query_ids=("q",), scenes=rows, positive_scenes=rows, positive_boxes=rows).name == "g"
    with pytest.raises(DatasetError, match=r"gallery g: its parts have \[1, 2\] entries, not one per query"):
        Gallery(name="g", query_ids=("q",), scenes=rows * 2, positive_scenes=rows, positive_boxes=rows)


@pytest.mark.parametrize(
    ("shape", "names"), [((2, 3), (2,)), ((4,), (1,)), ((2, 4), (1,)), ((2, 4), (2, 1)), ((1, 2, 4), (1,))]
)
def test_annotations_of_another_shape_are_refused(shape: tuple[int, ...], names: tuple[int, ...]) -> None:
    with pytest.raises(DatasetError) as caught:
        Annotations(np.ones(shape, np.float32), np.zeros(names, np.int64))
    assert str(caught.value) == f"annotations: boxes {shape} and identities {names} do not match (n, 4), (n,)"


@pytest.mark.parametrize("corners", [(0, 0, 5, 0), (0, 5, 5, 5), (0, 0, np.inf, 5), (np.nan, 0, 5, 5), (5, 0, 4, 9)])
def test_the_first_box_that_is_none_is_named(corners: tuple[float, ...]) -> None:
    with pytest.raises(DatasetError, match=r"annotations: box 1 is empty or not finite: \["):
        Annotations(boxes((0, 0, 1, 1), corners, (0, 0, 0, 0)), np.zeros(3, np.int64))


def test_the_lowest_identity_is_that_of_the_unlabelled() -> None:
    assert UNLABELLED == -1
    assert Annotations(boxes((0, 0, 1, 1)), np.array([-1])).identities.tolist() == [-1]
    with pytest.raises(DatasetError) as caught:
        Annotations(boxes((0, 0, 1, 1), (0, 0, 1, 1)), np.array([-2, -3]))
    assert str(caught.value) == "annotations: identity -3 is below -1 (unlabelled)"


@pytest.mark.parametrize(("rows", "scores", "embeddings"), [(2, 1, 2), (2, 2, 1), (2, 2, 3), (0, 1, 0)])
def test_each_part_of_detections_is_as_long_as_the_others(rows: int, scores: int, embeddings: int) -> None:
    with pytest.raises(DatasetError, match=rf"shapes \({rows}, 4\), \({scores},\), \({embeddings}, 8\) do not match"):
        Detections(np.ones((rows, 4), np.float32), np.ones(scores, np.float32), np.ones((embeddings, 8), np.float32))
    with pytest.raises(DatasetError, match="do not match"):
        Detections(np.ones((1, 5), np.float32), np.ones(1, np.float32), np.ones((1, 8), np.float32))


@pytest.mark.parametrize("part", ["query_ids", "scenes", "positive_scenes", "positive_boxes"])
def test_every_part_of_a_gallery_counts(part: str) -> None:
    rows = {name: (np.zeros(1, np.int32),) for name in ("scenes", "positive_scenes", "positive_boxes")}
    with pytest.raises(DatasetError, match=r"gallery g: its parts have \[0, 1\] entries"):
        Gallery(**{"name": "g", "query_ids": ("q",), **rows, part: ()})


def test_a_query_is_named_with_its_box() -> None:
    with pytest.raises(DatasetError, match=r"query q: box \[1.0, 2.0\] is empty or not \(4,\)"):
        Query(query_id="q", scene_id="a", box=np.array([1, 2], np.float32), identity=3)
