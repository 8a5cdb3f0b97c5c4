"""Damage as disks, editors and programs do it: to bytes, to JSON values, to cells of a table."""

import json
import random
from typing import Any

WORDS = [b"\0\0\0\0", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", b"\x01\0\0\0", b"\0\0\0\x10", b"\x0e\0\0\0"]
NUMBERS = [
    -1,
    0,
    1,
    5555,
    0.5,
    -0.0,
    1e-320,
    1e308,
    -1e308,
    float("inf"),
    float("nan"),
    2**31,
    2**63,
    -(2**70),
    10**400,
]
TEXTS = [
    "",
    " ",
    "nan",
    "-1",
    "1.0",
    "x" * 10_000,
    "\0",
    "\ud800",
    "\n",
    "../../x",
    "/etc/hosts",
    "a.jpg",
    "c.jpg",
    "\u202e",
]
LISTS = [[], [[]], [1, 2, 3, 4], [1e308, 1e308, 1e308, 1e308]]
NASTY: list[Any] = [None, True, False, {}, {"a": {"b": []}}, "caf\u00e9", "cafe\u0301", *NUMBERS, *TEXTS, *LISTS]
CELLS = ["1e999", "1,5", '"', ";", "\t", "True", "train", "test", "\u00e9", "\r", *TEXTS]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """One to four changes: a bit, a byte, a word, a piece cut out, repeated, or cut off."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(found)) if found else 0
        match rng.randrange(7):
            case 0 if found:
                found[at] = rng.randrange(256)
            case 1 if found:
                found[at] ^= 1 << rng.randrange(8)
            case 2 | 3:
                word = at & ~3
                found[word : word + 4] = rng.choice([*WORDS, rng.randrange(1 << 16).to_bytes(4, "little")])
            case 4:
                del found[at : at + rng.randrange(1, 64)]
            case 5:
                found[at:at] = found[at : at + rng.randrange(1, 64)]
            case 6:
                del found[at:]
    return bytes(found)


def mutate_json(rng: random.Random, data: bytes) -> bytes:
    """Values, keys and items of the parsed content, or bytes."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    content = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        content = _mutate_value(rng, content)
    return json.dumps(content).encode()


def mutate_text(rng: random.Random, data: bytes) -> bytes:
    """Cells and lines, or bytes."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data)
    lines = data.decode().split("\n")
    separator = "," if "," in data.decode() else " "
    for _ in range(rng.choice((1, 1, 2, 4))):
        row = rng.randrange(len(lines))
        parts = lines[row].split(separator)
        match rng.randrange(5):
            case 0 | 1:
                parts[rng.randrange(len(parts))] = rng.choice(CELLS)
                lines[row] = separator.join(parts)
            case 2:
                del lines[row]
            case 3:
                lines.insert(row, lines[rng.randrange(len(lines))])
            case 4:
                parts.insert(rng.randrange(len(parts) + 1), rng.choice(CELLS))
                lines[row] = separator.join(parts)
        lines = lines or [""]
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _mutate_value(rng: random.Random, value: Any) -> Any:
    """One change somewhere below ``value``; the deeper the likelier."""
    if isinstance(value, dict) and value and rng.random() < 0.95:
        key = rng.choice(sorted(value))
        match rng.randrange(8):
            case 0:
                return {name: part for name, part in value.items() if name != key}
            case 1:
                return {**value, rng.choice(("id", "bbox", "person_id", "query", "camera", "width")): rng.choice(NASTY)}
            case _:
                return {**value, key: _mutate_value(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.95:
        at = rng.randrange(len(value))
        match rng.randrange(8):
            case 0:
                return value[:at] + value[at + 1 :]
            case 1:
                return [*value, value[at]]
            case _:
                return [*value[:at], _mutate_value(rng, value[at]), *value[at + 1 :]]
    if rng.random() < 0.02:
        deep: Any = value
        for _ in range(rng.choice((10, 900))):
            deep = [deep]
        return deep
    return rng.choice(NASTY)
