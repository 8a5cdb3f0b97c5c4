"""No row of a table gets lost: what does not become a box is counted, whatever the table says."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffps.datasets.album import IDENTITY_LIMIT, Album, Person, number_identities
from diffps.datasets.assembly import assemble
from diffps.datasets.files import ImageFacts
from diffps.datasets.findings import Findings, from_json
from diffps.errors import DatasetError

NUMBERS = st.one_of(st.integers(-30, 150), st.floats(-30, 150), st.sampled_from([0, 0.5, 1e30, -1e30]))
BOXES = st.tuples(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
NAMES = st.sampled_from(["", "ann", "bob", "5555", "7"])
ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), BOXES, NAMES, st.sampled_from([None, True, False])), max_size=20
)
SPLITS = {"a": "train", "b": "test", "c": "test"}
SIZES = {"a": (80, 100), "b": None, "c": (40, 50)}
LEFT_OUT = ("left out", "have no", "lie outside", "are narrower", "are not made")


@given(ROWS, st.sampled_from([(0, 0), (10, 20)]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_row_is_a_box_or_a_count(rows: list, min_box: tuple[int, int]) -> None:
    findings = Findings()
    album = Album(findings)
    asked = 0
    for number, (name, box, person, query) in enumerate(rows):
        photo = album.add_photo(name, SPLITS[name], f"row {number}", size=SIZES[name])  # type: ignore[arg-type]
        mark = query if person and SPLITS[name] == "test" else None
        asked += bool(mark)
        album.add_person(photo, Person(box, person, mark, f"row {number}"))
    try:
        index = assemble(
            "folder",
            album,
            Path(),
            "",
            measure=lambda paths: [ImageFacts(100, 80, path.name) for path in paths],
            min_box=min_box,
            findings=findings,
            way_out="",
        )
    except DatasetError:  # all boxes within 0 to 1, or all second corners: then nothing is read
        return
    told = from_json(index.report["findings"])  # type: ignore[arg-type]
    kept = sum(len(persons.boxes) for persons in index.annotations.values())
    lost = sum(
        finding.count for finding in told if finding.of == "boxes" and any(w in finding.reason for w in LEFT_OUT)
    )
    assert kept + lost == len(rows)
    if any(mark is not None for image, _, person, mark in rows if person and SPLITS[image] == "test"):
        lost_queries = sum(finding.count for finding in told if finding.of == "marked queries")
        merged = sum(finding.count for finding in told if "repeat another" in finding.reason)
        assert asked - merged <= len(index.queries) + lost_queries <= asked


def test_identities_are_numbered_in_the_order_of_their_names() -> None:
    assert number_identities(["b", "", "a", "cc", "b"], "test") == {"a": 0, "b": 1, "cc": 2}
    assert number_identities(["12", "7"], "train") == {"7": 0, "12": 1}
    assert number_identities(["12", "7"], "test") == {"7": 7, "12": 12}
    largest = str(IDENTITY_LIMIT - 1)
    assert number_identities([largest, "0"], "test") == {"0": 0, largest: 2**63 - 1}
    for odd in (str(IDENTITY_LIMIT), "07", "-1", "1.0", "\u0663"):
        assert set(number_identities([odd, "5"], "test").values()) == {0, 1}
    assert number_identities([], "test") == {}


def test_a_photo_is_what_was_said_of_it_first() -> None:
    album = Album(Findings())
    photo = album.add_photo("a.jpg", "test", "row 1")
    album.add_photo("b.jpg", "train", "row 2", camera=0, size=(3, 4))
    assert album.add_photo("a.jpg", "test", "row 3", camera=0, size=(80, 100)) is photo
    assert album.add_photo("a.jpg", "test", "row 4") is photo
    assert (photo.at, photo.camera, photo.size) == ("row 1", 0, (80, 100))
    assert list(album.photos) == ["a.jpg", "b.jpg"]
    with pytest.raises(ValueError, match=r"^image a.jpg is in both splits$"):
        album.add_photo("a.jpg", "train", "row 5")
    with pytest.raises(ValueError, match=r"^image a.jpg has camera 0 and camera 1; an image has one$"):
        album.add_photo("a.jpg", "test", "row 5", camera=1)
    with pytest.raises(ValueError, match=r"^image a.jpg is 100 x 80 and 80 x 100 pixels large; an image has one size$"):
        album.add_photo("a.jpg", "test", "row 5", size=(100, 80))
    with pytest.raises(ValueError, match=r"^a query needs a person's name$"):
        album.add_person(photo, Person((1, 2, 3, 4), "", True, "row 6"))
    with pytest.raises(ValueError, match=r"^a query lies in a test image, this one is in train; clear its query or "):
        album.add_person(album.photos["b.jpg"], Person((1, 2, 3, 4), "", True, "row 6"))
    with pytest.raises(ValueError, match=r"^box \[1, 2, inf, 4\] is not finite$"):
        album.add_person(photo, Person((1, 2, float("inf"), 4), "ann", None, "row 6"))
    assert photo.persons == []


def test_rows_that_are_there_twice_are_one_and_a_query_if_one_of_them_is() -> None:
    findings = Findings()
    album = Album(findings)
    photo = album.add_photo("a.jpg", "test", "row 1")
    for row, query in enumerate((False, True, False, None)):
        album.add_person(photo, Person((1, 2, 3, 4), "ann", query, f"row {row}"))
    album.add_person(photo, Person((1, 2, 3, 4), "bob", None, "row 9"))
    album.tidy()
    assert [(person.name, person.query, person.at) for person in photo.persons] == [
        ("ann", True, "row 0"),
        ("bob", None, "row 9"),
    ]
    assert [(f.kind, f.count, f.total, f.example) for f in findings.records()] == [
        ("repaired", 3, 3, "row 1: a.jpg"),
        ("doubtful", 1, 3, "row 9: a.jpg"),
    ]
