"""The original layout of Stable Diffusion: one file with every part in it, its tensors under the names of its authors.

diffusers' own conversion gives them the names and shapes of its folders, so that the same weights are the same part.
"""

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from diffps.backbone.configs import ConfigPart

if TYPE_CHECKING:
    from torch import Tensor

_PREFIXES: Mapping[ConfigPart, str] = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.",
    "text_encoder_2": "conditioner.embedders.1.",
}
_LAYOUT = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.")


def is_original(names: Iterable[str]) -> bool:
    """True for tensors' ``names`` of the original layout."""
    return any(name.startswith(_LAYOUT) for name in names)


def of_part(part: ConfigPart, names: Iterable[str]) -> list[str]:
    """Those of ``names`` in the original layout that belong to one part."""
    return [name for name in names if name.startswith(_PREFIXES[part])]


def to_diffusers(part: ConfigPart, tensors: "Mapping[str, Tensor]", config: Mapping[str, Any]) -> "dict[str, Tensor]":
    """The tensors of one part as diffusers and transformers name and shape them; they may be on the meta device."""
    from diffusers.loaders import single_file_utils as diffusers

    own = {name: tensors[name] for name in of_part(part, tensors)}
    converted: dict[str, Tensor]
    match part:
        case "unet":
            converted = diffusers.convert_ldm_unet_checkpoint(own, config)
        case "vae":
            converted = diffusers.convert_ldm_vae_checkpoint(own, config)
        case _ if any(name.startswith("cond_stage_model.model.") for name in own):
            # SD 2.x: OpenCLIP's names, and queries, keys and values in one.
            model = SimpleNamespace(config=SimpleNamespace(hidden_size=config["hidden_size"]))
            converted = diffusers.convert_open_clip_checkpoint(model, own)
        case _:
            converted = diffusers.convert_ldm_clip_checkpoint(own)
    return converted
