"""Parts of a probe add up the same however they are put together."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from diffps.probe.part import Part, together

NAMES = st.sampled_from(["scenes", "a/xx", "b/vectors"])
SUMS = st.dictionaries(NAMES, st.lists(st.integers(-99, 99), min_size=2, max_size=2).map(np.array))
ROWS = st.dictionaries(NAMES, st.lists(st.integers(0, 9), max_size=3).map(lambda rows: np.array(rows, np.int64)))


@given(st.lists(st.builds(Part, SUMS, ROWS), max_size=6), st.integers(0, 6))
def test_parts_of_parts_are_the_parts_in_their_order(parts: list[Part], cut: int) -> None:
    whole = together(parts)
    again = together([together(parts[:cut]), together(parts[cut:])])
    for kind, plain in (("sums", sum), ("rows", lambda arrays: np.concatenate(list(arrays)))):
        found, same = getattr(whole, kind), getattr(again, kind)
        assert list(found) == list(same)
        assert set(found) == {name for part in parts for name in getattr(part, kind)}
        for name, array in found.items():
            expected = plain(getattr(part, kind)[name] for part in parts if name in getattr(part, kind))
            assert array.tolist() == expected.tolist() == same[name].tolist()
