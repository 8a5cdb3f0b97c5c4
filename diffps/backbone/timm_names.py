"""What calls a model of timm, and whether a file holds its weights.

``timm:NAME`` is a model of timm's list, its weights from the hub or its cache; ``timm:NAME@FILE`` takes them from a
safetensors file; ``timm:FOLDER`` is a folder as the hub's repositories of timm are: config.json, model.safetensors.
"""

import difflib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from diffps.backbone.prior import TIMM
from diffps.backbone.weights import find_weights, read_json
from diffps.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")
_RUNNING = (".running_mean", ".running_var")


class TimmName(NamedTuple):
    """An ``architecture`` of timm, with the tag of its weights where they are timm's own, and the ``arguments`` that
    differ from it; ``config`` overrides timm's (mean, std). Without ``files`` the weights are on the hub."""

    architecture: str
    arguments: Mapping[str, Any]
    config: Mapping[str, Any]
    files: tuple[Path, ...]


def read_name(name: str) -> TimmName:
    """Take ``name`` apart, and look into its folder. Raises CheckpointError with the nearest name that timm knows."""
    what = name.removeprefix(TIMM)
    folder = Path(what).expanduser()
    if folder.is_dir():
        config = read_json(folder / "config.json")
        architecture = config.get("architecture")
        if not isinstance(architecture, str):
            raise CheckpointError(f"{name}: {folder / 'config.json'} names no architecture of timm")
        _check_architecture(name, architecture)
        arguments, own = config.get("model_args") or {}, config.get("pretrained_cfg") or {}
        return TimmName(architecture, arguments, own, find_weights(folder, "model"))
    architecture, given, place = what.partition("@")
    _check_architecture(name, architecture)
    path = Path(place).expanduser()
    if given and not path.is_file():
        raise CheckpointError(f"{name}: no such file as {path}; wanted there: the weights as safetensors")
    return TimmName(architecture, {}, {}, (path,) if given else ())


def fitted(model: Any, tensors: "Mapping[str, Tensor]", file: Path) -> "Mapping[str, Tensor]":
    """``tensors`` of ``file`` by the names of ``model``, through timm's own conversion where they have others.

    Raises CheckpointError with the first tensor that differs.
    """
    problem = _difference(model, tensors)
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if problem and convert is not None:
        try:
            converted = without_classifier(model, convert(dict(tensors), model))
        except Exception:  # of a file that is of no format the conversion knows
            converted = {}
        if not _difference(model, converted):
            return converted
    if problem:
        raise CheckpointError(f"{file}: not the weights of {model.pretrained_cfg['architecture']}: {problem}")
    return tensors


def without_classifier(model: Any, tensors: Mapping[str, Value]) -> dict[str, Value]:
    """``tensors`` but for those of the layer that names classes, which no tap comes after."""
    names = model.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{name}." for name in ((names,) if isinstance(names, str) else names))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(heads)}


def _difference(model: Any, tensors: "Mapping[str, Tensor]") -> str:
    """The first tensor, in the model's order, that is not there or has another shape; or one too many."""
    wanted = model.state_dict()
    needed = {name for name, _ in model.named_parameters()} | {name for name in wanted if name.endswith(_RUNNING)}
    for name, value in wanted.items():
        if name not in tensors:
            if name in needed:
                return f"{name} is missing"
        elif tensors[name].shape != value.shape:
            return f"{name} is {list(tensors[name].shape)}, expected {list(value.shape)}"
    extra = next((name for name in tensors if name not in wanted), None)
    return f"{extra} is unknown to it" if extra else ""


def _check_architecture(name: str, architecture: str) -> None:
    import timm

    plain, _, tag = architecture.partition(".")
    known = timm.list_models()
    if plain not in known:
        nearest = difflib.get_close_matches(plain, known, n=1, cutoff=0.0)[0]
        raise CheckpointError(f"{name}: timm has no model {plain!r}; the nearest is {nearest!r}")
    tags = [each.partition(".")[2] for each in timm.list_models(f"{plain}.*", pretrained=True)]
    if tag and tag not in tags:
        nearest = next(iter(difflib.get_close_matches(tag, tags, n=1, cutoff=0.0)), "none")
        raise CheckpointError(f"{name}: timm has no weights {tag!r} of {plain}; the nearest are {nearest!r}")
