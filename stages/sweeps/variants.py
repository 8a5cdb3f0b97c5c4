"""The variants of a sweep file, each with its parameters."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from cache import CacheError, parse_encoding
from cache.fingerprint import fingerprint
from diffps.errors import ConfigError
from stages.features.reading import Reading
from stages.head.identity import head_settings
from stages.params import Params, override
from stages.places import SWEEP
from stages.typed import build, keys, parse_yaml, read_asked

KEYS_OF_FILE = ("base", "variants", "grid")
# What a variant may change outside section `train`: which of the arrays stored are read.
ENCODING = "extract.encoding"
# The params file of another pass: a variant takes its sections encode, extract and train.
FILE = "params"
MOST = 1000  # heads of one sweep
LONGEST = 200  # letters of a head's name, which is a folder's


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One head of a sweep. ``group``: its name without the seed; heads of one group differ in nothing else."""

    name: str
    group: str
    changes: Mapping[str, Any]
    params: Params

    @property
    def folder(self) -> Path:
        """Where it is trained; the same settings have the same folder in every sweep file."""
        return SWEEP / "heads" / f"{self.name}-{fingerprint(self.settings)[:6]}"

    @property
    def settings(self) -> dict[str, Any]:
        """What its weights follow from, but for the data."""
        return head_settings(self.params.train, self.params.encode, self.params.extract)

    @property
    def reading(self) -> Reading:
        """What it is fed."""
        return Reading.of(self.params.train, self.params.extract)


def read_variants(params: Params) -> list[Variant]:
    """The variants that ``sweep.file`` names, in order. Raises ConfigError naming file, variant and nearest key."""
    path = Path(params.sweep.file)
    content = _read(path)
    base = _changes(_mapping(content.get("base"), f"{path}: base"), {}, f"{path}: base")
    grid = {str(key): values for key, values in _mapping(content.get("grid"), f"{path}: grid").items()}
    listed = _mapping(content.get("variants") or {"": {}}, f"{path}: variants")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(f"{path}: grid.{key}: expected a list of values, found {values!r}")
    count = len(listed) * math.prod(map(len, grid.values()))
    if count > MOST:
        raise ConfigError(f"{path}: asks for {count:,} heads, more than {MOST:,}; name fewer variants or values")
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    passes: dict[str, Params] = {}
    for name, value in listed.items():
        own = _mapping(value, f"{path}: variants.{name}")
        file = own.pop(FILE, None)
        for point in product(*grid.values()):
            cell = dict(zip(grid, point, strict=True))
            label = _label(str(name), cell)
            if label in found:
                raise ConfigError(f"{path}: two variants are called {label}")
            group = _label(str(name), {key: value for key, value in cell.items() if key != "seed"})
            found[label] = group, _changes(own, cell, f"{path}: variant {label}")
            if file is not None:
                passes[label] = _of_file(asdict(params), Path(str(file)), f"{path}: variant {label}")
    if params.train.source == "cached":
        here = {label: each for label, each in found.items() if label not in passes}
        _check_timesteps(here, params.extract.timesteps, path)
    variants = []
    for label, (group, changes) in found.items():
        where = f"{path}: variant {label}"
        full = {_full_key(key, where): value for key, value in {**base, **changes}.items()}
        own_params = override(passes.get(label, params), full, where)
        if label in passes:
            changes = {FILE: own_params.extract.name, **changes}
        variant = Variant(name=label, group=group, changes=changes, params=own_params)
        try:
            parse_encoding(variant.params.extract.encoding)
        except CacheError as error:
            raise ConfigError(f"{where}: {ENCODING}: {error}") from error
        variants.append(variant)
    _check_distinct(variants, path)
    return variants


def _of_file(sections: Mapping[str, Any], file: Path, where: str) -> Params:
    """``sections`` of the params with the pass and the head of another params file; data and evaluation stay theirs."""
    raw = _mapping(parse_yaml(read_asked(file, f"{where}: {FILE}"), f"{where}: {FILE} {file}"), str(file))
    own: dict[str, Any] = {name: raw[name] for name in ("encode", "extract", "train") if name in raw}
    other = build(Params, {**sections, **own}, str(file))
    if other.extract.name == sections["extract"]["name"]:
        raise ConfigError(f"{where}: {file} calls its pass {other.extract.name} too; give it another extract.name")
    return other


def _label(name: str, cell: Mapping[str, Any]) -> str:
    parts = [name] if name else []
    for key, value in cell.items():
        parts.append(f"{key.rpartition('.')[2]}{'' if key == 'seed' else '='}{_value(value)}")
    return "-".join(parts) or "base"


def _value(value: Any) -> str:
    text = "off" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)
    return re.sub(r"[^A-Za-z0-9_.:+-]+", "_", text).strip("_")


def _changes(own: Mapping[Any, Any], cell: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A variant's own changes and those of its point of the grid by dotted key, mappings of sections taken apart.

    Raises ConfigError where a parameter is set twice, also as part of a section.
    """
    known = set(keys(Params))
    leaves = [(key, key, value) for key, value in _leaves(own, known)]
    leaves += [(key, f"grid.{key}", value) for key, value in _leaves(cell, known)]
    for (one, said, _), (other, also_said, _) in combinations(leaves, 2):
        if f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}."):
            raise ConfigError(f"{where}: {said} and {also_said} contradict each other; keep one of them")
    for key, _, value in leaves:
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {key}: must be a finite number, found {value}")
    return {key: value for key, _, value in leaves}


def _leaves(content: Mapping[Any, Any], known: set[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for part, value in content.items():
        key = f"{prefix}{part}"
        if isinstance(value, dict) and value and f"train.{key}" in known:
            yield from _leaves(value, known, f"{key}.")
        else:
            yield key, value


def _full_key(key: str, where: str) -> str:
    if key == ENCODING:
        return key
    if key.startswith("extract."):
        raise ConfigError(f"{where}: {key} cannot be varied here, only {ENCODING} and the keys of section train can")
    return f"train.{key}"


def _check_timesteps(found: Mapping[str, tuple[str, Mapping[str, Any]]], stored: Sequence[int], path: Path) -> None:
    """All variants that read a timestep extract does not make, at once: one more extraction serves them all."""
    wanted = {label: changes["timestep"] for label, (_, changes) in found.items() if "timestep" in changes}
    wanted = {label: value for label, value in wanted.items() if type(value) is int}  # others are refused by name later
    missing = [label for label, timestep in wanted.items() if timestep not in stored]
    if missing:
        every = json.dumps(sorted({*stored, *wanted.values()})).replace(" ", "")
        raise ConfigError(
            f"{path}: {', '.join(missing)} read timesteps that extract.timesteps {list(stored)} lacks: "
            f"run `diffps extract --set extract.timesteps={every}`, then `diffps sweep` with the same --set"
        )


def _check_distinct(variants: Sequence[Variant], path: Path) -> None:
    seen: dict[str, str] = {}
    for variant in variants:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.:=+-]*", variant.name):
            raise ConfigError(f"{path}: variant {variant.name!r}: use letters, digits and . : = + _ - for names")
        if len(variant.name) > LONGEST:
            raise ConfigError(f"{path}: variant {variant.name[:40]}...: its name is longer than {LONGEST} letters")
        same = fingerprint(variant.settings)
        if same in seen:
            raise ConfigError(f"{path}: {seen[same]} and {variant.name} are the same settings")
        seen[same] = variant.name


def _read(path: Path) -> dict[str, Any]:
    found = _mapping(parse_yaml(read_asked(path, "sweep.file"), f"sweep.file {path}"), str(path))
    if unknown := [key for key in found if key not in KEYS_OF_FILE]:
        raise ConfigError(f"{path}: {unknown[0]} is not known; a sweep file has {', '.join(KEYS_OF_FILE)}")
    return found


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a mapping, found {type(value).__name__}")
    return dict(value)


def describe_changes(changes: Mapping[str, Any]) -> str:
    """Changes as one line for a table."""
    return ", ".join(f"{key}={_plain(value)}" for key, value in changes.items()) or "as in params"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
