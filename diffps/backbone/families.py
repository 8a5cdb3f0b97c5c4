"""The families of frozen models, and which of them a name belongs to."""

from collections.abc import Mapping
from typing import Any

from diffps.backbone.checkpoint import checkpoint_at
from diffps.backbone.clip import find_clip
from diffps.backbone.dit import DiffusionTransformer
from diffps.backbone.locate import find_checkpoint
from diffps.backbone.parts_folder import PartsFolder
from diffps.backbone.pixart import PixArt
from diffps.backbone.prior import CLIP, TIMM, Prior
from diffps.backbone.sd3 import SD3
from diffps.backbone.stable_diffusion import StableDiffusion
from diffps.backbone.timm_models import TimmModel
from diffps.backbone.weights import read_json
from diffps.errors import CheckpointError

# By the class of diffusers that transformer/config.json names.
FAMILIES: Mapping[str, type[DiffusionTransformer]] = {
    "PixArtTransformer2DModel": PixArt,
    "SD3Transformer2DModel": SD3,
}


def load_prior(
    name: str,
    revision: str | None = None,
    unet: str | None = None,
    variant: str | None = None,
    hub: str | None = None,
) -> Prior:
    """Find a frozen model by what the user calls it: see :mod:`~diffps.backbone.timm_names` for names that begin with
    ``timm:``, :mod:`~diffps.backbone.clip` for ``clip:``, else :func:`~diffps.backbone.checkpoint.load_checkpoint`:
    a folder or repository in diffusers' layout holds a transformer where it has a folder of that name.

    Raises CheckpointError with the way out.
    """
    if name.startswith((TIMM, CLIP)):
        _refuse_unet(name, unet)
        return TimmModel(name, revision) if name.startswith(TIMM) else find_clip(name, revision, variant)
    place = find_checkpoint(name, revision, variant, hub)
    config = place.folder / "transformer" / "config.json"
    if place.file is not None or not config.is_file():
        return StableDiffusion(checkpoint_at(place, name, unet, variant))
    _refuse_unet(name, unet)
    family = _family(name, read_json(config))
    return family(PartsFolder(place.folder, name, family.PARTS, variant))


def _family(name: str, config: Mapping[str, Any]) -> type[DiffusionTransformer]:
    what = str(config.get("_class_name"))
    if what == "Transformer2DModel" and config.get("norm_type") == "ada_norm_single":
        what = "PixArtTransformer2DModel"  # its name before diffusers 0.29
    if what not in FAMILIES:
        raise CheckpointError(f"checkpoint {name}: a transformer of class {what}; read are {', '.join(FAMILIES)}")
    return FAMILIES[what]


def _refuse_unet(name: str, unet: str | None) -> None:
    if unet is not None:
        raise CheckpointError(f"checkpoint {name}: has no UNet that {unet} could take the place of")
