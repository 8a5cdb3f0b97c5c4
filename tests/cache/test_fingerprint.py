import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache import explain_difference, fingerprint
from cache.fingerprint import _difference, canonical

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text(max_size=4)
KEYS = st.sampled_from("abcde")
INNER = LEAVES | st.lists(LEAVES, max_size=3) | st.dictionaries(KEYS, LEAVES, max_size=3)
RECIPES = st.dictionaries(
    KEYS, INNER | st.lists(INNER, max_size=2) | st.dictionaries(KEYS, INNER, max_size=2), max_size=4
)


def test_ten_hex_digits_that_never_change() -> None:
    assert fingerprint({"b": [1, 2.5, "ü"], "a": {"c": None}}) == "08bb59ea78"


@given(RECIPES)
def test_order_of_keys_and_tuples_do_not_matter(recipe: dict[str, object]) -> None:
    backwards = dict(reversed(recipe.items()))
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in backwards.items()}
    assert fingerprint(recipe) == fingerprint(tuples)  # type: ignore[arg-type]
    assert explain_difference(recipe, tuples) == []  # type: ignore[arg-type]


@given(RECIPES, RECIPES)
def test_equal_fingerprints_mean_no_difference_to_explain(a: dict[str, object], b: dict[str, object]) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (explain_difference(a, b) == [])  # type: ignore[arg-type]


def test_differences_are_named_by_path() -> None:
    mine = {"pass": {"unet": "aa", "seed": 0}, "timestep": 0}
    theirs = {"pass": {"unet": "bb", "seed": 0, "noise": "none"}, "timestep": 0}
    assert explain_difference(mine, theirs) == ['pass.noise: absent != "none"', 'pass.unet: "aa" != "bb"']


def test_nan_is_no_recipe() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"alpha": float("nan")})


def test_long_values_are_cut_behind_where_they_differ() -> None:
    mine, theirs = [0] * 77, [0] * 77
    theirs[40] = 7
    (line,) = explain_difference({"ids": mine}, {"ids": theirs})
    assert line.startswith("ids: [0,0,")
    assert "0,7,0" in line
    assert line.count("...") == 2
    assert len(line) < 250
    assert explain_difference({"a": 1}, {"a": 12}) == ["a: 1 != 12"]


def test_how_much_of_a_long_value_is_shown() -> None:
    """48 characters, or 24 behind the first that differs; and all of it where it is no longer."""
    for length, differs, shown in ((48, 0, 48), (49, 0, 48), (100, 24, 48), (100, 25, 49), (100, 60, 84)):
        mine = "[" + "1" * (length - 2) + "]"
        theirs = mine[:differs] + "2" + mine[differs + 1 :] if differs else mine.replace("1", "2")
        found = _difference(mine, theirs).split(" != ")
        assert found == [text if len(text) <= shown else f"{text[:shown]}..." for text in (mine, theirs)]
    assert _difference("abc", "abcd") == "abc != abcd"


def test_canonical_json_has_sorted_keys_and_no_spaces() -> None:
    assert canonical({"b": (1, None, True), "a": {"d": "\u00fc", "c": 2.5}, 3: []}) == (  # type: ignore[dict-item]
        '{"3":[],"a":{"c":2.5,"d":"\u00fc"},"b":[1,null,true]}'
    )
    assert explain_difference({"a": {}}, {"a": {"b": 1}}) == ["a: {} != absent", "a.b: absent != 1"]
    assert explain_difference(1, 2) == [": 1 != 2"]
