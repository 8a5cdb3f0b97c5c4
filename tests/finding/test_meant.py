"""Who is meant in a picture of a query."""

import numpy as np
import pytest

from diffps.errors import ConfigError
from diffps.records import Detections
from stages.finding.meant import SeveralPeopleError, box_meant
from stages.finding.photos import Photo

PHOTO = Photo("me.jpg", np.zeros((80, 100, 3), np.uint8), "")
BOXES = np.float32([[10, 20, 40.4, 79.6], [50, 20, 70, 60], [1, 2, 3, 4]])


def found(*scores: float) -> Detections:
    return Detections(BOXES[: len(scores)], np.float32(scores), np.zeros((len(scores), 2), np.float32))


def test_the_only_person_is_meant() -> None:
    """A score of 0.5 is enough; what lies below is nobody, and has no number."""
    for person in (None, 1):
        assert box_meant(PHOTO, found(0.5, 0.49), person).tolist() == BOXES[0].tolist()
    with pytest.raises(ConfigError, match=r"person 2: me.jpg shows 1; expected 1 to 1"):
        box_meant(PHOTO, found(0.5, 0.49), 2)


def test_one_of_several_is_meant_by_number() -> None:
    people = found(0.9, 0.8, 0.1)
    assert [box_meant(PHOTO, people, person).tolist() for person in (1, 2)] == BOXES[:2].tolist()
    for person in (0, 3, -1):
        with pytest.raises(ConfigError, match=rf"person {person}: me.jpg shows 2; expected 1 to 2"):
            box_meant(PHOTO, people, person)
    with pytest.raises(SeveralPeopleError, match=r"me.jpg: 2 people are in it; say which with --person 1 to 2") as said:
        box_meant(PHOTO, people, None)
    assert (said.value.photo, said.value.people.boxes.tolist()) == (PHOTO, BOXES[:2].tolist())


def test_where_nobody_is_found_the_best_candidate_is_named() -> None:
    with pytest.raises(ConfigError, match=r"best candidate, 10,20,30,60, scores 0.31 where 0.5 is needed"):
        box_meant(PHOTO, found(0.31, 0.2), None)
    with pytest.raises(ConfigError, match=r"me.jpg: no person is found in it \(there is no candidate either\)"):
        box_meant(PHOTO, found(), 1)
