"""The families of frozen models, and which of them a name belongs to."""

from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.clip import find_clip
from diffps.backbone.prior import CLIP, TIMM, Prior
from diffps.backbone.stable_diffusion import StableDiffusion
from diffps.backbone.timm_models import TimmModel
from diffps.errors import CheckpointError


def load_prior(
    name: str,
    revision: str | None = None,
    unet: str | None = None,
    variant: str | None = None,
    hub: str | None = None,
) -> Prior:
    """Find a frozen model by what the user calls it: see :mod:`~diffps.backbone.timm_names` for names that begin with
    ``timm:``, :mod:`~diffps.backbone.clip` for ``clip:``, else :func:`~diffps.backbone.checkpoint.load_checkpoint`.

    Raises CheckpointError with the way out.
    """
    if name.startswith((TIMM, CLIP)):
        if unet is not None:
            raise CheckpointError(f"checkpoint {name}: has no UNet that {unet} could take the place of")
        return TimmModel(name, revision) if name.startswith(TIMM) else find_clip(name, revision, variant)
    return StableDiffusion(load_checkpoint(name, revision, unet, variant, hub))
