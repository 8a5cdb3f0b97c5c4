"""Numbers, yes and no, and nobody as people write them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.datasets.words import CAMERA_LIMIT, SIDE_LIMIT, dotted, flag, is_nobody, number, person_name, whole


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read(value: float) -> None:
    assert number(repr(value)) == value


@pytest.mark.parametrize("text", ["", "nan", "inf", "1_0", "0x10", "1,5", "1 2", "--1", "١"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        number(text)


def test_commas_are_decimal_where_a_table_has_them() -> None:
    assert number("12,5", comma=True) == 12.5
    with pytest.raises(ValueError, match="is no number"):
        number("1,234,5", comma=True)


@given(st.integers(-(2**40), 2**40 - 1))
def test_whole_numbers_with_and_without_a_point(value: int) -> None:
    assert whole(value, "x", 2**40) == whole(str(value), "x", 2**40) == whole(float(value), "x", 2**40) == value
    assert whole(f"{value}.0", "x", 2**40) == value


@pytest.mark.parametrize(
    "value", [1.5, "1.5", math.nan, math.inf, True, None, [1], "x", 2**40, -(2**40) - 1, 10**400, "9" * 99]
)
def test_what_is_no_whole_number_in_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="n .*: expected a whole number below 1099511627776"):
        whole(value, "n", 2**40)


def test_large_numbers_in_text_are_not_rounded() -> None:
    assert whole("9007199254740993", "x", 2**63) == 2**53 + 1


@pytest.mark.parametrize(
    ("value", "meant"), [(True, True), (1, True), (1.0, True), ("Yes", True), (0, False), ("", False)]
)
def test_yes_and_no(value: object, meant: bool) -> None:
    assert flag(value, "query") is meant


@pytest.mark.parametrize("value", [None, 2, "maybe", "10", "01", [], {}])
def test_neither_yes_nor_no(value: object) -> None:
    with pytest.raises(ValueError, match="query .*: expected 1, 0, true, false, yes, no or nothing"):
        flag(value, "query")


@pytest.mark.parametrize("name", ["nan", "NULL", "#N/A", "-12", "-1.0", "?", "??", "-", "unlabeled"])
def test_nobody(name: str) -> None:
    assert is_nobody(name)


@pytest.mark.parametrize("name", ["", "0", "1", "Nan", "Na", "Nobodyson", "-1a", "a-1", "null and void"])
def test_somebody(name: str) -> None:
    assert not is_nobody(name)


def test_names_of_json_values() -> None:
    assert [person_name(value, 10) for value in (" ann ", 7, 7.0, "7", -1)] == ["ann", "7", "7", "7", "-1"]


def test_keys_reach_into_objects_and_no_further() -> None:
    assert dotted({"a": {"b": {"c": 3}}}, "a.b.c") == 3
    for values in ({"a": {"b": 1}}, {"a": [1]}, {}, None, "a.b.c"):
        assert dotted(values, "a.b.c") is None


def test_what_is_wrong_is_shown_up_to_forty_characters() -> None:
    with pytest.raises(ValueError, match=rf"^n '{'x' * 38}': expected"):
        whole("x" * 38, "n", 9)
    with pytest.raises(ValueError, match=rf"^n '{'x' * 36}\.\.\.: expected"):
        whole("x" * 39, "n", 9)
    with pytest.raises(ValueError, match=rf"^q '{'x' * 36}\.\.\.: expected"):
        flag("x" * 39, "q")


def test_limits_of_cameras_and_sides_are_those_of_the_index() -> None:
    assert CAMERA_LIMIT == SIDE_LIMIT == 2**31


@pytest.mark.parametrize(("text", "meant"), [("1,5", 1.5), ("+1.5e1", 15), (".5", 0.5), ("5.", 5), ("-2", -2)])
def test_numbers_as_people_write_them(text: str, meant: float) -> None:
    assert number(text, comma=True) == meant


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_value_that_is_none_names_nobody(value: object) -> None:
    assert person_name(value, 10) == "nan"
    assert is_nobody(person_name(value, 10))
