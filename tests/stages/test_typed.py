from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from diffps.errors import ConfigError
from stages.typed import LARGEST, LONGEST, MOST, build, keys, parse_yaml, set_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    depth: int = 3
    mode: Literal["mean", "sample"] = "mean"

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ConfigError("depth must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    lr: float
    canvas: tuple[int, int] = (64, 64)
    taps: tuple[str, ...] = ()
    inner: Inner | None = field(default_factory=Inner)


def test_nested_plain_data_becomes_the_dataclass() -> None:
    built = build(Outer, {"lr": 1, "canvas": [128, 64], "taps": ["a"], "inner": {"depth": 4}}, "params.yaml")
    assert built == Outer(lr=1.0, canvas=(128, 64), taps=("a",), inner=Inner(depth=4))


def test_null_switches_an_optional_section_off() -> None:
    assert build(Outer, {"lr": 1.0, "inner": None}, "params.yaml").inner is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lrr": 1.0}, r"^params.yaml: x.lrr is not a parameter; nearest: x.lr$"),
        ({"lr": 1.0, "inner": {"dept": 1}}, r"^params.yaml: x.inner.dept is not a parameter; nearest: x.inner.depth$"),
        ({"lr": 1.0, "zzzzzz": 1}, r"known: x.lr, x.canvas, x.taps, x.inner$"),
        ({"lr": 1.0, "inner": {"zzzzzz": 1}}, r"known: x.inner.depth, x.inner.mode$"),
        ({}, r"^params.yaml: x.lr is missing$"),
        ({"lr": "fast"}, r"x.lr: input should be a valid number, found 'fast'$"),
        ({"lr": True}, r"x.lr: input should be a valid number, found True$"),
        ({"lr": 1.0, "inner": {"depth": 1.5}}, r"x.inner.depth: input should be a valid integer"),
        ({"lr": 1.0, "inner": {"depth": "1"}}, r"x.inner.depth: input should be a valid integer"),
        (
            {"lr": 1.0, "inner": {"mode": "median"}},
            r"mode: input should be 'mean' or 'sample', found 'median'$",
        ),
        ({"lr": 1.0, "inner": {"depth": -1}}, r"^params.yaml: x.inner: depth must not be negative$"),
        ({"lr": 1.0, "canvas": [64]}, r"x.canvas.1 is missing$"),
        ({"lr": "a", "taps": 3}, r"\(and 1 more\)$"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        build(Outer, raw, "params.yaml", "x")
    assert "\n" not in str(caught.value)


def test_keys_are_dotted_sections_first() -> None:
    assert list(keys(Outer)) == ["lr", "canvas", "taps", "inner", "inner.depth", "inner.mode"]


def test_setting_below_an_absent_section_switches_it_on() -> None:
    raw: dict[str, Any] = {"lr": 1.0, "inner": None}
    set_key(Outer, raw, "inner.depth", 7, "--set")
    assert build(Outer, raw, "params.yaml").inner == Inner(depth=7)


def test_a_mapping_changes_what_it_names_of_a_section() -> None:
    raw: dict[str, Any] = {"lr": 1.0, "inner": {"depth": 7, "mode": "sample"}}
    set_key(Outer, raw, "inner", {"depth": 8}, "--set")
    assert raw["inner"] == {"depth": 8, "mode": "sample"}
    with pytest.raises(ConfigError, match="inner.dept is not a parameter; nearest: inner.depth"):
        set_key(Outer, raw, "inner", {"dept": 9}, "--set")


def test_a_mapping_set_twice_stays_as_it_was_given() -> None:
    given = {"depth": 7}
    raw: dict[str, Any] = {"lr": 1.0, "inner": None}
    set_key(Outer, raw, "inner", given, "--set")
    set_key(Outer, raw, "inner.depth", 8, "--set")
    assert given == {"depth": 7}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xfe", "^x.yaml: not UTF-8 text at byte 0"),
        (b"a: 1\na: 2\n", '^x.yaml, line 2: not valid YAML: found duplicate key "a"'),
        ("a: [", "^x.yaml, line 1: not valid YAML: "),
        ("a: \x01", "^x.yaml: not valid YAML: .*special characters are not allowed"),
        ("a: 2020-13-01", "^x.yaml: not valid YAML: month must be"),
    ],
)
def test_what_is_no_yaml_is_said_in_one_line(data: bytes | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_yaml(data, "x.yaml")
    assert "\n" not in str(caught.value)


def test_setting_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="inner.dept is not a parameter; nearest: inner.depth"):
        set_key(Outer, {}, "inner.dept", 7, "--set")
    with pytest.raises(ConfigError, match="depth is not a parameter; nearest: inner.depth"):
        set_key(Outer, {}, "depth", 7, "--set")


@pytest.mark.parametrize(
    ("raw", "place", "found"),
    [
        ({"lr": float("nan")}, "lr", "nan"),
        ({"lr": -float("inf")}, "lr", "-inf"),
        ({"lr": 1.01 * LARGEST}, "lr", "3.4"),
        ({"lr": 2**63}, "lr", "9223372036854775808"),
        ({"lr": 1.0, "canvas": [64, -(2**63)]}, "canvas", "-9223372036854775808"),
        ({"lr": 1.0, "inner": {"depth": float("nan")}}, "inner.depth", "nan"),
    ],
)
def test_numbers_no_parameter_can_be_are_named_with_their_place(raw: dict[str, Any], place: str, found: str) -> None:
    for prefix in ("", "x"):
        where = ".".join([*([prefix] if prefix else []), place])
        with pytest.raises(ConfigError, match=rf"^params.yaml: {where}: must be a finite number .*; found {found}"):
            build(Outer, raw, "params.yaml", prefix)
    assert build(Outer, {"lr": LARGEST, "inner": {"depth": 2**63 - 1}}, "params.yaml").lr == LARGEST


def test_aliases_may_repeat_what_is_small_and_a_file_has_an_end() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x\n", "f")["b"] == [1, 2]
    few = "a: &x [" + ", ".join(["1"] * 100) + "]\n"
    many = "b: [" + ", ".join(["*x"] * (MOST // 50)) + "]\n"
    with pytest.raises(ConfigError, match=f"^f: its aliases repeat into more than {MOST} values"):
        parse_yaml(few + many, "f")
    # The mapping, its two keys, two lists, a hundred values; and a list of a hundred values each time it is repeated.
    whole, rest = divmod(MOST - 105, 101)
    lists = few + "b: [" + ", ".join(["*x"] * whole + ["1"] * rest) + "]\n"
    assert len(parse_yaml(lists, "f")["b"]) == whole + rest
    with pytest.raises(ConfigError, match="repeat into more"):
        parse_yaml(lists.replace("b: [", "b: [1, "), "f")
    assert parse_yaml("# " + "x" * (LONGEST - 2), "f") is None
    with pytest.raises(ConfigError, match=f"^f: has {LONGEST + 1} bytes; a file of parameters has at most {LONGEST}"):
        parse_yaml("# " + "x" * (LONGEST - 1), "f")
