"""Bytes, durations, shares, counts and places for people: one way of writing each."""

import math
from pathlib import Path


def size(nbytes: float) -> str:
    """Bytes in powers of ten: "43 MB", "1.02 TB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def duration(seconds: float) -> str:
    """Seconds as "3.2 s", "48 s", "3 min 20 s" or "2 h 05 min"."""
    if seconds < 59.5:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def percent(value: float | None) -> str:
    """0.1234 as "12.3 %"; a dash where it is undefined."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def count(number: int, noun: str) -> str:
    """ "1 epoch", "2 epochs"."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def placeless(value: str) -> str:
    """What may leave this machine of a value: of a path that only means something here its last part, all else as it
    is."""
    return Path(value).name if value.startswith("~") or Path(value).is_absolute() else value
