"""Plain mappings, as YAML gives them, into the stages' config classes: nothing unknown, nothing of another type."""

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from cache.system import refusal
from diffps.errors import ConfigError, DiffPSError

T = TypeVar("T")

LONGEST = 1_000_000  # bytes of a params file; the presets have under 10,000
LARGEST = 3.4e38  # float32 holds nothing larger
MOST = 100_000  # values in one, aliases written out


def read_asked(path: Path, key: str) -> bytes:
    """The file that parameter ``key`` names. Raises ConfigError with its neighbours where it is none, FileError."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        near = ", ".join(sorted(str(other) for other in path.parent.glob("*.yaml"))) or "none beside it"
        raise ConfigError(f"{key} {path}: cannot be read ({error.strerror}); there are: {near}") from error
    except OSError as error:
        raise refusal(error, path, "read") from error


def parse_yaml(data: bytes | str, where: str) -> Any:
    """What ``data`` says as YAML 1.2, as DVC reads the same file: 1e-4 is a number and `no` a word.

    Raises ConfigError, ``where`` (a file) and the line first, for what is no text or no YAML.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    if len(data) > LONGEST:
        raise ConfigError(f"{where}: has {len(data)} bytes; a file of parameters has at most {LONGEST}")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        yaml = YAML(typ="safe", pure=True)
        if "&" in text:  # only what has an anchor can be repeated
            _check_repeated(yaml.compose(text), where)
        return yaml.load(text)
    except ConfigError:  # which is a ValueError too
        raise
    except RecursionError as error:
        raise ConfigError(f"{where}: is nested too deeply for parameters") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where}: not UTF-8 text at byte {error.start}; is it the right file?") from error
    except (YAMLError, ValueError) as error:  # a date in month 13 is a ValueError
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error or "cannot be parsed").splitlines()[0]
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from error


def _check_repeated(node: Any, where: str) -> None:
    """Raise ConfigError where aliases make a document of more than :data:`MOST` values, or one that holds itself."""
    sizes: dict[int, int] = {}

    def size(node: Any) -> int:
        if id(node) not in sizes:
            sizes[id(node)] = MOST + 1  # until it is known: who meets it inside itself has found a circle
            value = getattr(node, "value", None)
            parts = (
                [part for item in value for part in (item if isinstance(item, tuple) else (item,))]
                if (isinstance(value, list))
                else []
            )
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    if size(node) > MOST:
        raise ConfigError(f"{where}: its aliases repeat into more than {MOST} values, or hold themselves; write it out")


def _check_numbers(raw: Any, where: str, place: str) -> None:
    """Raise ConfigError for a number no parameter can be: NaN, an infinity, beyond float32 or 64 bits."""
    if isinstance(raw, Mapping):
        for key, value in raw.items():
            _check_numbers(value, where, f"{place}.{key}" if place else str(key))
    elif isinstance(raw, list | tuple):
        for value in raw:
            _check_numbers(value, where, place)
    elif (isinstance(raw, float) and not abs(raw) <= LARGEST) or (isinstance(raw, int) and abs(raw) >= 2**63):
        raise ConfigError(
            f"{where}: {place}: must be a finite number of at most 64 bits, below {LARGEST:g}; found {str(raw)[:40]}"
        )


def build(cls: type[T], raw: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """An instance of dataclass ``cls`` from ``raw``, nested dataclasses included; types are checked, not converted.

    ``where`` (a file) and ``prefix`` (the dotted place in it) begin each message. Raises ConfigError for an unknown
    key, naming the nearest; for a missing key; for a value of another type; and for what a class refuses itself.
    """
    from pydantic import TypeAdapter, ValidationError

    _check_numbers(raw, where, prefix)
    for unknown, known in _unknown_keys(cls, raw, prefix):
        raise ConfigError(f"{where}: {unknown} is not a parameter; {_nearest(unknown, known)}")
    try:
        # JSON's strict mode is YAML's: lists become tuples, 1 is a float too, but "1" is no number and true no integer.
        return TypeAdapter(cls).validate_json(json.dumps(raw), strict=True)
    except (TypeError, DiffPSError) as error:  # a date, which JSON lacks; an error that is no ValueError
        raise ConfigError(f"{where}: {error}") from error
    except ValidationError as error:
        problems = error.errors()
        first = problems[0]
        keys_of = [tuple(str(part) for part in each["loc"] if _is_key(str(part))) for each in problems]
        place = ".".join([*([prefix] if prefix else []), *keys_of[0]])
        # The branches of a union are told as one.
        same = [each for each, found in zip(problems, keys_of, strict=True) if found == keys_of[0]]
        cause = first.get("ctx", {}).get("error")
        more = f" (and {len(problems) - len(same)} more)" if len(problems) > len(same) else ""
        if first["type"] == "missing":
            text = f"{place} is missing"
        else:
            messages = [f"{each['msg'][0].lower()}{each['msg'][1:]}" for each in same]
            messages[1:] = [message.removeprefix("input should be ") for message in messages[1:]]
            said = cause if isinstance(cause, Exception) else " or ".join(messages)
            found = "" if isinstance(cause, Exception) else f", found {first['input']!r}"
            # What contradicts across sections has no place of its own and names the keys itself.
            text = f"{place}: {said}{found}" if place else f"{said}{found}"
        raise ConfigError(f"{where}: {text}{more}") from error


def keys(cls: type, prefix: str = "") -> Iterator[str]:
    """Every dotted key of dataclass ``cls``, sections before what they hold."""
    hints = get_type_hints(cls)
    for field in fields(cls):
        key = f"{prefix}.{field.name}" if prefix else field.name
        yield key
        inner = dataclass_in(hints[field.name])
        if inner is not None:
            yield from keys(inner, key)


def set_key(cls: type, raw: dict[str, Any], key: str, value: Any, where: str) -> None:
    """Put ``value`` at the dotted ``key`` of ``raw``, plain data for ``cls``.

    A mapping changes what it names of a section and leaves the rest. Raises ConfigError for an unknown key.
    """
    known = list(keys(cls))
    if key not in known:
        raise ConfigError(f"{where}: {key} is not a parameter; {_nearest(key, known)}")
    *sections, leaf = key.split(".")
    place = raw
    for section in sections:
        if not isinstance(place.get(section), dict):  # absent, or null: what is set switches the section on
            place[section] = {}
        place = place[section]
    if isinstance(value, dict) and isinstance(place.get(leaf), dict):
        for part, each in value.items():
            set_key(cls, raw, f"{key}.{part}", each, where)
    else:
        place[leaf] = deepcopy(value)  # it may be set in several, and each be changed further


def _unknown_keys(cls: type, raw: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[str]]]:
    hints = get_type_hints(cls)
    known = [f"{prefix}.{field.name}" if prefix else field.name for field in fields(cls)]
    names = {field.name for field in fields(cls)}
    for name, value in raw.items():
        key = f"{prefix}.{name}" if prefix else str(name)
        if name not in names:
            yield key, known
            continue
        inner = dataclass_in(hints[name])
        if inner is None:
            continue
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from _unknown_keys(inner, part, key)


def dataclass_in(hint: Any) -> type | None:
    """The dataclass in ``X``, ``X | None`` or ``tuple[X, ...]``; None where there is none."""
    if isinstance(hint, type) and is_dataclass(hint):
        return hint
    return next((found for part in get_args(hint) if (found := dataclass_in(part)) is not None), None)


def _nearest(key: str, known: list[str]) -> str:
    parent, _, leaf = key.rpartition(".")
    siblings = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == parent}
    # By its own name in its section, which all the names there begin with; of no section as a whole.
    names = siblings or {name: name for name in known}
    close = get_close_matches(leaf if siblings else key, names, 1, 0.6)
    if close:
        return f"nearest: {names[close[0]]}"
    # A right name in the wrong section is the other common slip.
    elsewhere = [name for name in known if name.rpartition(".")[2] == leaf]
    if elsewhere:
        return f"nearest: {elsewhere[0]}"
    return "known: " + ", ".join(names.values())


def _is_key(part: str) -> bool:
    """Pydantic names the branches of a union in the location as well; people did not write those."""
    return (part != "int" and part.isidentifier()) or part.isdigit() or "-" in part
