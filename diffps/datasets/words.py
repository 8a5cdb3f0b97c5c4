"""What people write into cells and JSON values: numbers, yes and no, and nobody."""

import math
import re
from collections.abc import Mapping
from typing import Any

from diffps.records import Split

CAMERA_LIMIT = 2**31  # int32 in the index
SIDE_LIMIT = 2**31
NOBODY_NAMED = "are named as programs name nobody ({}) and were read as unlabelled"

YES = {"1", "true", "yes", "y"}
NO = {"0", "false", "no", "n", ""}
SPLITS: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
# Also given names and surnames are Nan and Na: only the spellings that programs write are nobody.
NOBODY = re.compile(
    r"""nan|NaN|NAN|<NA>|NA|N/A|n/a|\#N/A|[Nn]one|NONE|[Nn]ull|NULL|[Uu]nknown|UNKNOWN|[Uu]nlabell?ed|UNLABELL?ED
        |undefined|nobody|[?]+|-+|-\d+(\.0*)?""",
    re.X,
)
NUMBER = re.compile(r"[+-]?(\d+([.]\d*)?|[.]\d+)([eE][+-]?\d+)?", re.ASCII)
INTEGER = re.compile(r"[+-]?\d{1,30}", re.ASCII)
COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+", re.ASCII)


def number(text: str, *, comma: bool = False) -> float:
    """A number as people write it, with a decimal comma where ``comma`` says that there are some. Raises ValueError."""
    plain = text.replace(",", ".") if comma and COMMA_NUMBER.fullmatch(text) else text
    if not NUMBER.fullmatch(plain):
        raise ValueError(f"{text!r} is no number")
    return float(plain)


def whole(value: Any, what: str, limit: int) -> int:
    """A whole number from -``limit`` to ``limit`` - 1, as a number or in text, 7 as well as 7.0. Raises ValueError."""
    found: float | int | None = None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        found = value
    elif isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        text = value.strip()
        found = int(text) if INTEGER.fullmatch(text) else float(text)
    if found is None or not -limit <= found < limit or found != int(found):  # nan is in no range
        raise ValueError(f"{what} {_short(value)}: expected a whole number below {limit}")
    return int(found)


def flag(value: Any, what: str) -> bool:
    """Yes or no: true, 1, 1.0, yes and their opposites, as values or in text. Raises ValueError."""
    text = str(value).strip().casefold()
    text = text.removesuffix(".0") if text in ("1.0", "0.0") else text
    if value is None or text not in YES | NO:
        raise ValueError(f"{what} {_short(value)}: expected 1, 0, true, false, yes, no or nothing")
    return text in YES


def is_nobody(name: str) -> bool:
    """A name that programs write for nobody: nan, None, -1, unknown, ? and the like; not the empty one."""
    return NOBODY.fullmatch(name) is not None


def person_name(value: Any, limit: int) -> str:
    """The name that a JSON value gives somebody: text as it is, a whole number as text. Raises ValueError."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "nan"
    return str(whole(value, "identity", limit))


def dotted(values: Any, key: str) -> Any:
    """The value at ``a.b.c`` of nested objects; None where one of them is not there."""
    found = values
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
