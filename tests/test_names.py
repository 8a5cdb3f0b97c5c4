"""Names are compared as people see them and survive as text, whatever bytes they hold."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.names import Names, from_text, normal, same_name, to_text

# As os.fsdecode makes them, and with what looks like an escape in them.
NAMES = st.one_of(
    st.binary(min_size=1, max_size=20).map(lambda data: data.decode("utf-8", "surrogateescape")),
    st.lists(st.sampled_from(["\\x", "\\", "e9", "5c", "x", "\udce9", "é", "\\x5c"]), max_size=6).map("".join),
)


@given(NAMES)
def test_any_name_survives_as_text(name: str) -> None:
    text = to_text(name)
    assert text.encode("utf-8").decode("utf-8") == text
    assert from_text(text) == name


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert to_text(name) == name == from_text(name)


@given(st.lists(NAMES, max_size=5, unique=True))
def test_texts_are_as_different_as_names(names: list[str]) -> None:
    assert len({to_text(name) for name in names}) == len(names)


def test_names_of_other_bytes_go_through_parquet_and_json(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.jpg"), "plain.jpg", "ünïcödé.jpg", "新.jpg"]
    texts = [to_text(name) for name in names]
    pq.write_table(pa.table({"name": texts}), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
    for read in (
        pq.read_table(tmp_path / "x.parquet")["name"].to_pylist(),
        json.loads((tmp_path / "x.json").read_text(encoding="utf-8")),
    ):
        assert [from_text(text) for text in read] == names


def test_names_are_compared_as_they_look() -> None:
    assert same_name("caf\u00e9.jpg", "cafe\u0301.jpg")
    assert not same_name("cafe.jpg", "caf\u00e9.jpg")
    assert not same_name("a.jpg", "A.jpg")
    assert normal("cafe\u0301") == "caf\u00e9"


@pytest.mark.parametrize(
    ("given", "found", "near"),
    [
        ("a/caf\u00e9.jpg", "a/cafe\u0301.jpg", ["a/cafe\u0301.jpg"]),
        ("b.jpg", "b.jpg", []),
        ("B.JPG", None, ["b.jpg"]),
        ("c.jpg", None, []),
    ],
)
def test_a_name_is_found_however_its_accents_are_written(given: str, found: str | None, near: list[str]) -> None:
    names = Names(["a/cafe\u0301.jpg", "b.jpg"])
    assert names.find(given) == found
    assert names.near(given) == near


def test_of_two_that_look_identical_neither_is_guessed() -> None:
    both = ["caf\u00e9.jpg", "cafe\u0301.jpg"]
    names = Names(both)
    assert names.alike() == [both]
    assert all(names.find(name) == name for name in both)
    assert Names([*both, "x"]).alike_but_for_case() == []
    assert Names(["a", "A", "b"]).alike_but_for_case() == [["a", "A"]]


def test_bytes_that_are_no_text_are_spelt_out() -> None:
    assert to_text(os.fsdecode(b"a\x80\xff.jpg")) == r"a\x80\xff.jpg"
    assert to_text(r"a\x80.jpg") == r"a\x5cx80.jpg"  # which a name may hold as well
    assert to_text(r"a\x79.jpg") == from_text(r"a\x79.jpg") == r"a\x79.jpg"  # no escape: 0x79 is a letter
    assert from_text(r"a\x5cx80\xe9") == "a\\x80\udce9"


def test_names_are_counted_once() -> None:
    assert len(Names(["a", "b", "a", "A"])) == 3
    assert len(Names([])) == 0
    assert Names(["stra\u00dfe", "STRASSE", "Strasse"]).near("strasse") == ["stra\u00dfe", "STRASSE", "Strasse"]


def test_one_name_alone_is_like_nobody_elses() -> None:
    assert Names(["a", "b"]).alike() == Names(["a", "b"]).alike_but_for_case() == []
    assert Names(["a", "caf\u00e9", "cafe\u0301"]).alike_but_for_case() == []
    assert Names(["a", "b"]).near("a") == []
