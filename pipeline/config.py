"""params.yaml, and what ``--set`` changes in it, into typed values: the only place where text becomes parameters."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from cache.system import refusal
from diffps.errors import ConfigError
from diffps.pretraining.config import PretrainConfig
from stages.job import Runtime
from stages.params import Params
from stages.typed import build, parse_yaml, set_key

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class ParamsFile(Params):
    """A params file: the parameters, and how to run."""

    runtime: Runtime
    """How to run, never what comes out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainFile:
    """What `diffps pretrain` reads; everything has a default."""

    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """The recipe of the demo's backbone."""

    runtime: Runtime = field(default_factory=Runtime)
    """How to run, never what comes out."""


def load_params(path: Path, overrides: Sequence[str] = ()) -> tuple[Params, Runtime]:
    """What ``path`` says after ``overrides`` ("train.lr=1e-3"), checked against each other.

    Raises ConfigError: no such file, not YAML, an unknown or missing key, a value of another type or out of range.
    """
    found = _build(ParamsFile, _read(path), overrides, str(path))
    return Params(**{entry.name: getattr(found, entry.name) for entry in fields(Params)}), found.runtime


def load_pretraining(path: Path | None, overrides: Sequence[str]) -> tuple[PretrainConfig, Runtime]:
    """The same for `diffps pretrain`; without a file the defaults. Raises ConfigError."""
    where = "pretrain" if path is None else str(path)
    found = _build(PretrainFile, {} if path is None else _read(path), overrides, where)
    return found.pretrain, found.runtime


def _build(kind: type[T], raw: dict[str, Any], overrides: Sequence[str], where: str) -> T:
    for override in overrides:
        _override(kind, raw, override)
    return build(kind, raw, where)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a params file with --params, such as presets/demo.yaml"
        ) from error
    except OSError as error:
        raise refusal(error, path, "read") from error
    raw = parse_yaml(data, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as 'train:', found {type(raw).__name__}")
    return raw


def _override(kind: type, raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value, such as --set train.lr=1e-3")
    try:
        value = parse_yaml(text, "--set")
    except ConfigError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    set_key(kind, raw, key, value, f"--set {override}")
