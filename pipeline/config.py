"""params.yaml, and what ``--set`` changes in it, into typed Params: the only place where text becomes parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffps.errors import ConfigError
from stages.params import Params
from stages.typed import build, set_key


def load_params(path: Path, overrides: Sequence[str] = ()) -> Params:
    """The parameters in ``path`` after ``overrides`` ("train.lr=1e-3"), checked against each other.

    Raises ConfigError: no such file, not YAML, an unknown or missing key, a value of another type or out of range.
    """
    raw = _read(path)
    for override in overrides:
        _override(raw, override)
    return build(Params, raw, str(path))


def _read(path: Path) -> dict[str, Any]:
    from ruamel.yaml.error import MarkedYAMLError

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); give a params file with --params, such as presets/demo.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text at byte {error.start}; is it a params file?") from error
    try:
        raw = _yaml(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        line = f", line {mark.line + 1}" if mark else ""
        problem = (error.problem or "cannot be parsed").splitlines()[0]
        raise ConfigError(f"{path}{line}: not valid YAML: {problem}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected sections such as 'train:', found {type(raw).__name__}")
    return raw


def _yaml(text: str) -> Any:
    # YAML 1.2, as DVC reads the same file: 1e-4 is a number and `no` a word.
    from ruamel.yaml import YAML

    return YAML(typ="safe", pure=True).load(text)


def _override(raw: dict[str, Any], override: str) -> None:
    from ruamel.yaml.error import YAMLError

    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals:
        raise ConfigError(f"--set {override}: expected key=value, such as --set train.lr=1e-3")
    try:
        value = _yaml(text)
    except YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from error
    set_key(Params, raw, key, value, f"--set {override}")
