import pytest

from stages.text import count, duration, percent, size

DURATIONS = {
    0.0532: "0.053 s",
    3.21: "3.2 s",
    9.94: "9.9 s",
    9.95: "10 s",
    59.4: "59 s",
    59.5: "1 min 00 s",
    75: "1 min 15 s",
    119.7: "2 min 00 s",
    3599: "59 min 59 s",
    3600: "1 h 00 min",
    7265: "2 h 01 min",
}
SIZES = {12: "12 B", 999.4: "999 B", 999.5: "1 kB", 86_300_000: "86.3 MB", 7.8e11: "780 GB", 1.02e12: "1.02 TB"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("nbytes", "text"), SIZES.items())
def test_sizes_are_decimal(nbytes: float, text: str) -> None:
    assert size(nbytes) == text


def test_an_undefined_share_is_a_dash() -> None:
    assert [percent(0.1234), percent(None), percent(float("nan"))] == ["12.3 %", "–", "–"]


def test_one_is_singular() -> None:
    assert [count(1, "epoch"), count(1200, "epoch")] == ["1 epoch", "1,200 epochs"]
