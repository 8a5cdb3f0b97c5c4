"""The model of one part: its tensors compared with what its config asks for, then loaded."""

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from diffps.backbone.configs import ConfigPart
from diffps.backbone.headers import one_line
from diffps.backbone.identity import NO_WEIGHT, current_name
from diffps.backbone.kinds import describe
from diffps.backbone.weights import Weights
from diffps.errors import CheckpointError

if TYPE_CHECKING:
    import torch

DiffusersModel = Any  # diffusers and transformers have no types a checker can follow

_FLOATS = ("F64", "F32", "F16", "BF16")


def check_tensors(weights: Weights) -> None:
    """Compare names, shapes and dtypes of a part's tensors with its config: headers and a model on the meta device.

    Takes milliseconds once the libraries are imported. Raises CheckpointError that says what the files hold.
    """
    part, files = weights.part, weights.files
    where = files[0] if len(files) == 1 else files[0].parent
    wanted = _shapes(part, json.dumps(weights.config))
    found = weights.shapes()
    if len(wanted.keys() & found.keys()) <= len(wanted) // 2:
        raise CheckpointError(f"{where} holds {describe(weights.stored)}; expected the weights of a {part}")
    for what, names in (("lacks", wanted.keys() - found.keys()), ("has unexpected", found.keys() - wanted.keys())):
        if names:
            raise CheckpointError(
                f"{where} {what} {len(names)} weights of the {part}, e.g. {min(names)}; "
                "is it the right file for this config?"
            )
    wrong = [name for name, shape in wanted.items() if found[name] != shape]
    if wrong:
        raise CheckpointError(
            f"{where}: {len(wrong)} weights of the {part} have another shape than its config says, e.g. {wrong[0]} "
            f"{_times(found[wrong[0]])} for {_times(wanted[wrong[0]])}"
        )
    for name, dtype in weights.dtypes().items():
        if dtype not in _FLOATS:
            raise CheckpointError(f"{where}: tensor {name} is {dtype}; quantised weights are not read")


@lru_cache(maxsize=16)  # a pass compares all parts before it loads one, and loading compares once more
def _shapes(part: ConfigPart, config: str) -> Mapping[str, tuple[int, ...]]:
    """Shape of every tensor that a part's config.json asks for. Raises CheckpointError."""
    model = empty_model(part, json.loads(config))
    wanted = {current_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    wanted.pop(NO_WEIGHT, None)
    return wanted


def empty_model(part: ConfigPart, config: Mapping[str, Any]) -> DiffusersModel:
    """The part that ``config`` describes on the meta device: names and shapes, no memory. Raises CheckpointError."""
    import torch
    from diffusers import AutoencoderKL, PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
    from diffusers.utils import logging

    logging.set_verbosity_error()
    try:
        with torch.device("meta"):
            match part:
                case "unet":
                    return UNet2DConditionModel.from_config(dict(config))
                case "vae":
                    return AutoencoderKL.from_config(dict(config))
                case "pixart":
                    return PixArtTransformer2DModel.from_config(dict(config))
                case "sd3":
                    return SD3Transformer2DModel.from_config(dict(config))
                case _:
                    return _text_class(part)(_text_config(part, config))
    except Exception as error:  # both libraries raise whatever their modules do
        where = f"{part}/" if part in ("unet", "vae", "text_encoder", "text_encoder_2") else ""
        raise CheckpointError(f"{where}config.json describes no {part} ({one_line(error)})") from error


def load(weights: Weights, dtype: "torch.dtype") -> DiffusersModel:
    """The part in ``dtype`` on the CPU, frozen, in eval mode. Raises CheckpointError as :func:`check_tensors` does."""
    check_tensors(weights)
    model = empty_model(weights.part, weights.config)
    names: dict[str, str] = {}
    for name in model.state_dict():
        names.setdefault(current_name(name), name)
    # Copied: what is only mapped would change with the file.
    tensors = {names[name]: value.to(dtype, copy=True) for name, value in weights.tensors().items()}
    if weights.part == "t5" or weights.part.startswith("text_encoder"):
        # Its positions are no weights, and would stay on the meta device.
        model = _load_text_encoder(weights.part, weights.config, tensors)
    else:
        model.load_state_dict(tensors, assign=True)
    if weights.part == "pixart":  # likewise
        model.pos_embed.pos_embed = _positions(model.pos_embed)
    return model.eval().requires_grad_(False)


def _load_text_encoder(
    part: ConfigPart, config: Mapping[str, Any], tensors: "dict[str, torch.Tensor]"
) -> DiffusersModel:
    from transformers.utils import logging

    logging.disable_progress_bar()
    return _text_class(part).from_pretrained(None, config=_text_config(part, config), state_dict=tensors)


def _text_class(part: ConfigPart) -> Any:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

    if part == "t5":
        return T5EncoderModel
    return CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel


def _text_config(part: ConfigPart, config: Mapping[str, Any]) -> Any:
    from transformers import CLIPTextConfig, T5Config

    # A file may say float16; some versions of the library would round the weights to it.
    known = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    return (T5Config if part == "t5" else CLIPTextConfig).from_dict(known)


def _positions(patches: Any) -> "torch.Tensor":
    """(1, N, C) float32: where the patches of PixArt lie on a canvas of its own size."""
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    side, width = patches.base_size, patches.proj.out_channels
    scale = patches.interpolation_scale
    found = get_2d_sincos_pos_embed(width, side, base_size=side, interpolation_scale=scale, output_type="pt")
    positions: torch.Tensor = found.float()[None]
    return positions


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
