"""What the parts of an index say about each other."""

import numpy as np
import pytest

from diffps.datasets.findings import Findings
from diffps.datasets.plausible import (
    IN_BOTH_SPLITS,
    NOBODY_TO_FIND,
    NOT_ANNOTATED,
    compare_images,
    compare_names,
    compare_queries,
    overlaps,
    too_little,
)
from diffps.records import Annotations, Gallery, Query, Scene, Split

BOX = np.array([0, 0, 30, 60], np.float32)


def scene(name: str, split: Split, digest: str = "") -> Scene:
    return Scene(scene_id=name, split=split, path=name, width=100, height=100, digest=digest or name)


def persons(*identities: int) -> Annotations:
    boxes = np.array([BOX + 40 * n for n in range(len(identities))], np.float32).reshape(-1, 4)
    return Annotations(boxes, np.array(identities, np.int64))


def query(name: str, identity: int, box: np.ndarray = BOX) -> Query:
    return Query(query_id=f"q{identity}", scene_id=name, box=box, identity=identity)


def told(findings: Findings) -> list[str]:
    return [f"{finding.count} of {finding.total} {finding.of}: {finding.example}" for finding in findings.records()]


def test_one_content_under_two_names() -> None:
    findings = Findings()
    findings.seen("images", 4)
    scenes = [scene("a", "train", "x"), scene("b", "train", "x"), scene("c", "test", "x"), scene("d", "test")]
    compare_images(scenes, findings)
    assert told(findings) == ["1 of 4 images: b and a", "1 of 4 images: c and a"]


def test_queries_beside_annotations_and_other_images() -> None:
    scenes = [scene("a", "test"), scene("b", "test"), scene("t", "train")]
    annotations = {"a": persons(5, 6), "b": persons(5), "t": persons(6)}
    findings = Findings()
    compare_queries(scenes, annotations, [query("a", 5)], findings)
    assert told(findings) == []
    # 6 is on no other test image; 7 is nowhere; 5 is elsewhere on the image than asked.
    asked = [query("a", 6, BOX + 40), query("a", 7), query("a", 5, BOX + 20)]
    compare_queries(scenes, annotations, asked, findings)
    assert told(findings) == ["2 of 4 queries: query q6 on a", "2 of 4 queries: query q7 on a"]


def test_overlap_is_intersection_over_union() -> None:
    """All of it; a half to the side and below; an edge; a corner; apart; a quarter inside it; nothing."""
    box = np.float32([0, 0, 10, 20])
    others = [[0, 0, 10, 20], [5, 0, 15, 20], [0, 10, 10, 30], [10, 0, 20, 20], [10, 20, 30, 40], [50, 50, 60, 60]]
    others += [[2, 5, 7, 15], [3, 3, 3, 3]]
    assert overlaps(box, np.float32(others)).tolist() == pytest.approx([1, 1 / 3, 1 / 3, 0, 0, 0, 1 / 4, 0])
    assert overlaps(box * 0, np.float32([[0, 0, 0, 0]])).tolist() == [0]


@pytest.mark.parametrize(("right", "lies"), [(5, True), (4, False)])
def test_a_query_lies_on_its_person_from_an_overlap_of_a_half(right: float, lies: bool) -> None:
    scenes = [scene("a", "test"), scene("b", "test")]
    there = Annotations(np.float32([[0, 0, 10, 10]]), np.array([5]))
    findings = Findings()
    asked = [query("a", 5, np.float32([0, 0, right, 10]))]
    compare_queries(scenes, {"a": there, "b": persons(5)}, asked, findings)
    assert (told(findings) == []) is lies


def test_listed_galleries_are_asked_line_by_line() -> None:
    scenes, annotations = [scene("a", "test"), scene("b", "test")], {"a": persons(5), "b": persons()}
    gallery = Gallery(
        name="100",
        query_ids=("q5",),
        scenes=(np.array([1], np.int32),),
        positive_scenes=(np.array([], np.int32),),
        positive_boxes=(np.empty((0, 4), np.float32),),
    )
    findings = Findings()
    compare_queries(scenes, annotations, [query("a", 5)], findings, [gallery])
    assert told(findings) == ["1 of 1 gallery lines: gallery 100 line 1"]


def test_too_little_to_learn_from_is_said() -> None:
    scenes = [scene("a", "train"), scene("b", "train"), scene("c", "test")]
    annotations = {"a": persons(0, 1, -1), "b": persons(0, 2), "c": persons(9)}
    assert too_little(scenes, annotations) == [
        "3 training identities are few (under 50) to tell strangers apart by",
        "5 training boxes are few (under 500) to learn to find people from",
        "2 of 3 training identities have a single box: nothing to compare it with",
    ]
    assert too_little(scenes[2:], annotations) == []
    many = [scene(f"m{n}", "train") for n in range(100)]
    assert (
        too_little(many, {s.scene_id: persons(*(n % 60 for n in range(row, row + 6))) for row, s in enumerate(many)})
        == []
    )


@pytest.mark.parametrize(
    ("people", "boxes", "warnings"),
    [
        (50, 500, []),
        (49, 500, ["49 training identities are few (under 50) to tell strangers apart by"]),
        (50, 499, ["499 training boxes are few (under 500) to learn to find people from"]),
    ],
)
def test_what_is_few_is_below_the_limits(people: int, boxes: int, warnings: list[str]) -> None:
    annotations = {"a": persons(*(n % people for n in range(boxes)))}
    assert too_little([scene("a", "train")], annotations) == warnings


def test_a_half_of_the_persons_may_have_one_box() -> None:
    scenes = [scene("a", "train")]
    assert len(too_little(scenes, {"a": persons(0, 0, 1)})) == 2
    assert too_little(scenes, {"a": persons(0, 0, 1, 2)})[2:] == [
        "2 of 3 training identities have a single box: nothing to compare it with"
    ]
    assert len(too_little(scenes, {"a": persons(-1, -1)})) == 2


def test_names_of_both_splits_and_names_that_are_almost_alike() -> None:
    findings = Findings()
    findings.seen("persons", 9)
    compare_names(["bob", "ann", "", "Cat"], ["ANN", "bob", "ann", "cat", "CAT", ""], findings)
    assert told(findings) == [
        "2 of 9 persons: ann",
        "3 of 9 persons: CAT and Cat",
    ]
    assert [finding.reason.partition(" ")[0] for finding in findings.records()] == ["are", "differ"]
    nobody = Findings()
    compare_names([""], ["", "ann"], nobody)
    assert told(nobody) == []


def test_images_without_a_size_have_no_content_in_common() -> None:
    findings = Findings()
    unread = [
        Scene(scene_id=name, split="test", path=name, width=0, height=0, digest="x", camera=None) for name in "ab"
    ]
    compare_images(unread, findings)
    compare_images([scene("c", "test", "x"), *unread, scene("d", "train", "x")], findings)
    assert [(finding.reason, finding.example) for finding in findings.records()] == [(IN_BOTH_SPLITS, "d and c")]


def test_a_person_is_found_where_somebody_else_sees_them_once_more() -> None:
    """Who is not annotated on the query's own image needs one other image, who is needs another one."""
    scenes = [scene("a", "test"), scene("b", "test"), scene("c", "test")]
    annotations = {"a": persons(5, 5), "b": persons(6), "c": persons(-1)}
    findings = Findings()
    compare_queries(scenes, annotations, [query("a", 5), query("a", 6)], findings)
    assert [(f.reason, f.count, f.example) for f in findings.records()] == [
        (NOBODY_TO_FIND, 1, "query q5 on a"),
        (NOT_ANNOTATED, 1, "query q6 on a"),
    ]
