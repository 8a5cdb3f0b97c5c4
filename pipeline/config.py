"""params.yaml, and what ``--set`` changes in it, into typed Params: the only place where text becomes parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffps.errors import ConfigError
from stages.params import Params
from stages.typed import build, parse_yaml, set_key


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """The parameters in ``path`` after ``overrides`` ("train.lr=1e-3"), checked against each other.

    Raises ConfigError: no such file, not YAML, an unknown or missing key, a value of another type or out of range.
    """
    raw = _read(path)
    for override in overrides:
        _override(raw, override)
    return build(Params, raw, str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a params file with --params, such as presets/demo.yaml"
        ) from error
    raw = parse_yaml(data, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as 'train:', found {type(raw).__name__}")
    return raw


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value, such as --set train.lr=1e-3")
    try:
        value = parse_yaml(text, "--set")
    except ConfigError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    set_key(Params, raw, key, value, f"--set {override}")
