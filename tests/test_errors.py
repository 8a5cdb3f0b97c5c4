"""An error is one line that can be shown, however long and whatever a damaged file holds."""

import pytest

from diffps.errors import LONGEST, DiffPSError, UnknownTapError, one_line


@pytest.mark.parametrize(
    ("text", "longest", "line"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abc ... fg"),
        ("two\nlines\x1b[0m \x00", 100, r"two\nlines\x1b[0m \x00"),
        ("caf\u00e9 \u65b0", 100, "caf\u00e9 \u65b0"),
        ("\n" * 4, 6, r"\n\ ... \n"),  # what is shown is counted, not what was written
    ],
)
def test_a_text_is_one_printable_line(text: str, longest: int, line: str) -> None:
    assert one_line(text, longest) == line


def test_every_error_is_one_line() -> None:
    assert str(DiffPSError("a\nb")) == r"a\nb"
    assert DiffPSError("a\n", 3, ["\n"]).args == ("a\\n", 3, ["\n"])
    assert str(UnknownTapError("tap 'x'")) == "tap 'x'"  # not its repr, as a KeyError's
    assert str(DiffPSError("x" * LONGEST)) == "x" * 1500
    assert len(str(DiffPSError("x" * (LONGEST + 1)))) == 750 + len(" ... ") + 500
