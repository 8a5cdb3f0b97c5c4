"""Recipes say how an array came about; fingerprints name them.

A recipe is nested JSON (pass -> latent -> ...). What does not change a single value (batch size, device, paths, order,
which other arrays were asked for) has no place in it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"
Recipe: TypeAlias = Mapping[str, JSON]

DIGITS = 10
SHOWN = 48  # characters of a value in an explanation
_ABSENT = "absent"


def canonical(recipe: JSON) -> str:
    """JSON with sorted keys and no spaces. Raises ValueError on NaN and infinities, which JSON does not have."""
    return json.dumps(_plain(recipe), sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def fingerprint(recipe: JSON) -> str:
    """First ten hex digits of the SHA-256 of the canonical JSON."""
    return hashlib.sha256(canonical(recipe).encode()).hexdigest()[:DIGITS]


def explain_difference(mine: JSON, theirs: JSON) -> list[str]:
    """One line ``field.path: mine != theirs`` per leaf that differs, in order of the path; empty when equal."""
    left, right = dict(_leaves(mine, "")), dict(_leaves(theirs, ""))
    pairs = [(path, left.get(path, _ABSENT), right.get(path, _ABSENT)) for path in sorted(left.keys() | right.keys())]
    return [f"{path}: {_difference(ours, others)}" for path, ours, others in pairs if ours != others]


def _difference(mine: str, theirs: str) -> str:
    """Both, long ones cut off behind the first place where they differ."""
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), 0)
    shown = max(SHOWN, same + SHOWN // 2)
    return " != ".join(text if len(text) <= shown else f"{text[:shown]}..." for text in (mine, theirs))


def _plain(value: JSON) -> JSON:
    """Tuples and mapping types as what they become when read back from JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _leaves(value: JSON, path: str) -> list[tuple[str, str]]:
    value = _plain(value)
    if isinstance(value, dict) and value:
        return [leaf for key in value for leaf in _leaves(value[key], f"{path}.{key}" if path else key)]
    return [(path, canonical(value))]
