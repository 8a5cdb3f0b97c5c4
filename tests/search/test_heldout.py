"""Who is in which detected box, as a calibration needs to know it."""

import numpy as np

from diffps.records import UNLABELLED, Annotations, Scene
from diffps.search.heldout import held_out_searches

BOX = np.array([10, 10, 40, 90], np.float32)
ASIDE = np.array([60, 10, 90, 90], np.float32)


def scene(name: str) -> Scene:
    return Scene(scene_id=name, split="test", path=name, width=100, height=100, digest="0")


def test_detections_are_named_by_the_annotation_they_overlap() -> None:
    scenes = [scene("a"), scene("b"), scene("empty")]
    annotations = {
        "a": Annotations(np.stack([BOX, ASIDE]), np.array([7, UNLABELLED])),
        "b": Annotations(np.stack([BOX, ASIDE]), np.array([8, 7])),
        "empty": Annotations(np.empty((0, 4), np.float32), np.empty(0, np.int64)),
    }
    boxes = np.stack([BOX + 2, ASIDE, ASIDE + np.array([25, 0, 25, 0]), BOX, BOX + 4, BOX]).astype(np.float32)
    held_out = held_out_searches(
        scenes,
        annotations,
        boxes,
        np.eye(6, dtype=np.float32),
        np.array([0, 0, 0, 1, 1, 2]),
    )
    nobody = UNLABELLED
    # Of two on one person the better one; one aside, one in a scene without people and one nobody named are nobody.
    assert held_out.identities.tolist() == [7, nobody, nobody, 8, nobody, nobody]
    assert held_out.seen_identities.tolist() == [7, 8, 7]  # the second time in a box that was missed
    assert held_out.seen_scenes.tolist() == [0, 1, 1]
    np.testing.assert_array_equal(held_out.queries, np.eye(6)[[0, 3]])
    assert held_out.query_identities.tolist() == [7, 8]
    assert held_out.query_scenes.tolist() == [[0], [1]]
    assert held_out.scene_count == 3


def test_half_an_overlap_is_enough() -> None:
    truth = Annotations(np.array([[0, 0, 10, 10]], np.float32), np.array([3]))
    for height, identity in ((5, 3), (4.9, UNLABELLED)):
        boxes = np.array([[0, 0, 10, height]], np.float32)
        found = held_out_searches([scene("a")], {"a": truth}, boxes, np.eye(1), np.array([0]))
        assert found.identities.tolist() == [identity]
        assert found.seen_identities.tolist() == [3]
        assert len(found.queries) == (identity == 3)
