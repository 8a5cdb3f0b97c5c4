"""What a head is made of agrees: config.json with its classes, tensors with config.json, taps with shapes."""

import json
from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from diffps.errors import CheckpointError, ConfigError
from diffps.features import FeatureShape
from diffps.heads.config import ModelConfig, TapsConfig

T = TypeVar("T")

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
LEVELS = ("level1", "level2", "level3")


def config_from_json(kind: type[T], values: object) -> T:
    """A config class from the plain values of config.json. Raises ConfigError naming the first key that does not go."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{kind.__name__}: {place}: {first['msg']}") from error


def check_shapes(described: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError for the first tensor that config.json says otherwise."""
    expected = {name: tuple(tensor.shape) for name, tensor in described.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{WEIGHTS_FILE}: {name} is {found.get(name, 'missing')}, {CONFIG_FILE} says "
                f"{expected.get(name, 'nothing of it')}"
            )


def check_taps(config: ModelConfig, taps: TapsConfig, shapes: Mapping[str, FeatureShape]) -> None:
    """Raise ConfigError for taps that are not among ``shapes``, or not what the parts that read them need."""
    for name in taps.names:
        if name not in shapes:
            raise ConfigError(f"taps: {name} is not among the features at hand: {', '.join(sorted(shapes))}")
    if config.dgrpn is not None and taps.guidance is None:
        raise ConfigError("taps.guidance: names no map, which model.dgrpn needs; name one, or set model.dgrpn: null")
    if taps.guidance is not None and shapes[taps.guidance].channels != 1:
        raise ConfigError(
            f"taps.guidance {taps.guidance}: has {shapes[taps.guidance].channels} channels; an attention map has one"
        )
    for level in LEVELS:
        found = {shapes[name] for name in getattr(taps, level)}
        if len(found) > 1:
            listed = ", ".join(f"{name} {tuple(shapes[name])}" for name in getattr(taps, level))
            raise ConfigError(f"taps.{level}: taps of one level share grid and channels; found {listed}")
