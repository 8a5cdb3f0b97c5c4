"""No row of a table gets lost: what does not become a box is counted, whatever the table says."""

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffps.datasets.album import Album, Person
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
