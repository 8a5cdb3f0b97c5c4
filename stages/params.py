"""All parameters of a run: one section a stage, checked against each other before any stage starts."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from stages.job import RuntimeConfig
from stages.typed import build, set_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """The sections of params.yaml. Raises ConfigError where two of them contradict each other."""

    runtime: RuntimeConfig


def override(params: Params, changes: Mapping[str, Any], where: str) -> Params:
    """``params`` with other values at dotted keys ("train.model.sfan": None), checked as a params file is.

    ``where`` begins the message of the ConfigError for a key or value that does not go.
    """
    raw = asdict(params)
    for key, value in changes.items():
        set_key(Params, raw, key, value, where)
    return build(Params, raw, where)
