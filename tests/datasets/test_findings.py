"""What readers notice is counted, told in lines, kept as JSON, and stops a run where it is too much."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.findings import KINDS, Findings, from_json, lines, require_plausible, to_json
from diffps.errors import DatasetError


def some() -> Findings:
    findings = Findings()
    findings.seen("boxes", 137)
    for line in range(4, 92):
        findings.add("doubtful", "lie outside their image", "boxes", f"persons.csv line {line}: a.jpg")
    findings.add("repaired", "were cut at the edge", "boxes", "persons.csv line 2: b.jpg", count=3)
    findings.seen("images", 12)
    findings.add("fine", "were read", "images", count=12)
    return findings


def test_findings_are_counted_by_reason_with_their_share_and_first_example() -> None:
    fine, repaired, doubtful = some().records()
    assert (fine.count, fine.total, fine.share, fine.example) == (12, 12, 1.0, "")
    assert (repaired.kind, repaired.count, repaired.total) == ("repaired", 3, 137)
    assert doubtful.count == 88
    assert doubtful.share == 88 / 137
    assert doubtful.example == "persons.csv line 4: a.jpg"


def test_the_block_says_kind_count_share_and_where() -> None:
    assert lines(some().records()) == [
        "fine      12 images were read",
        "repaired  3 of 137 boxes (2.2 %) were cut at the edge; first: persons.csv line 2: b.jpg",
        "doubtful  88 of 137 boxes (64.2 %) lie outside their image; first: persons.csv line 4: a.jpg",
    ]


def test_findings_survive_json() -> None:
    records = some().records()
    assert from_json(json.loads(json.dumps(to_json(records)))) == records


def test_findings_of_two_readers_add_up() -> None:
    both = Findings()
    both.extend(some().records())
    both.extend(some().records())
    assert [(f.count, f.total) for f in both.records()] == [(24, 24), (6, 274), (176, 274)]


def test_doubt_above_the_share_stops_and_names_the_key() -> None:
    with pytest.raises(DatasetError) as caught:
        require_plausible(some().records())
    assert re.fullmatch(
        r"doubtful: 88 of 137 boxes \(64.2 %\) lie outside their image; first: persons.csv line 4: a.jpg; "
        r"more than 1.0 % stops: mend the data, or let it pass with index.tolerate=0.643",
        str(caught.value),
    )
    require_plausible(some().records(), 0.643)


@pytest.mark.parametrize(
    ("kind", "stops"), [("fine", False), ("repaired", False), ("doubtful", True), ("refused", True)]
)
def test_only_what_is_in_doubt_or_lost_stops(kind: str, stops: bool) -> None:
    findings = Findings()
    findings.seen("boxes", 10)
    findings.add(kind, "are odd", "boxes")  # type: ignore[arg-type]
    if stops:
        with pytest.raises(DatasetError):
            require_plausible(findings.records())
    else:
        require_plausible(findings.records())


@given(
    st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("abc"), st.integers(1, 9)), max_size=9),
    st.integers(0, 30),
)
def test_the_value_that_a_refusal_names_lets_the_data_pass(found: list[tuple[str, str, int]], seen: int) -> None:
    findings = Findings()
    findings.seen("boxes", seen)
    for kind, reason, count in found:
        findings.add(kind, reason, "boxes", count=count)  # type: ignore[arg-type]
    records = findings.records()
    assert sum(record.count for record in records) == sum(count for *_, count in found)
    try:
        require_plausible(records)
    except DatasetError as error:
        require_plausible(records, float(str(error).rpartition("=")[2]))


def of(count: int, total: int, kind: str = "doubtful", reason: str = "are odd") -> Findings:
    findings = Findings()
    findings.seen("boxes", total)
    findings.add(kind, reason, "boxes", "here", count=count)  # type: ignore[arg-type]
    return findings


@pytest.mark.parametrize(
    ("count", "total", "line"),
    [
        (1, 1000, "1 of 1000 boxes (0.1 %) are odd; first: here"),
        (1, 1001, "1 of 1001 boxes (under 0.1 %) are odd; first: here"),
        (1, 2, "1 of 2 boxes (50.0 %) are odd; first: here"),
        (2, 2, "2 boxes are odd; first: here"),
        (3, 2, "3 boxes are odd; first: here"),
    ],
)
def test_a_share_is_said_where_there_is_one(count: int, total: int, line: str) -> None:
    (finding,) = of(count, total).records()
    assert finding.line == line


def test_one_in_a_hundred_is_tolerated_and_more_names_the_largest_share() -> None:
    require_plausible(of(1, 100).records())
    require_plausible(of(3, 10).records(), 0.3)
    with pytest.raises(DatasetError, match=r"^refused: 2 of 100 boxes \(2.0 %\) .*more than 1.0 % .*=0.021$"):
        require_plausible(of(2, 100, "refused").records())
    with pytest.raises(DatasetError, match=r"more than 0.0 % stops: .*index.tolerate=1$"):
        require_plausible(of(2, 2).records(), 0)
    with pytest.raises(DatasetError, match=r"^refused: 5 of 9 .*; first: here \(and 1 more such findings\); more than"):
        require_plausible([*of(2, 9).records(), *of(5, 9, "refused").records(), *of(9, 9, "fine").records()])
    with pytest.raises(DatasetError, match=r"first: here \(and 2 more such findings\)"):
        require_plausible([*of(2, 9).records(), *of(5, 9).records(), *of(9, 10).records()])


def test_nothing_is_added_for_a_count_of_none_and_long_texts_are_cut() -> None:
    findings = Findings()
    findings.add("fine", "were read", "boxes", count=0)
    assert findings.records() == ()
    findings.seen("boxes")
    findings.seen("boxes")
    findings.add("fine", "r" * 300, "boxes", "e" * 301)
    findings.add("fine", "r" * 300, "boxes", "later")
    (finding,) = findings.records()
    assert (finding.count, finding.total) == (2, 2)
    assert finding.reason == "r" * 300
    assert finding.example == f"{'e' * 150} ... {'e' * 100}"


def test_totals_of_another_reader_count_once_for_what_they_are_totals_of() -> None:
    both = Findings()
    both.extend([*of(2, 9).records(), *of(3, 9, reason="are small").records(), *of(5, 4, reason="are large").records()])
    assert [(finding.count, finding.total) for finding in both.records()] == [(2, 9), (3, 9), (5, 9)]


def test_data_without_anything_are_plausible() -> None:
    require_plausible(Findings().records())
    assert lines(()) == []
