"""The families of frozen models, and which of them a name belongs to."""

from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.prior import Prior
from diffps.backbone.stable_diffusion import StableDiffusion


def load_prior(
    name: str,
    revision: str | None = None,
    unet: str | None = None,
    variant: str | None = None,
    hub: str | None = None,
) -> Prior:
    """Find a frozen model by what the user calls it; see :func:`~diffps.backbone.checkpoint.load_checkpoint` for
    diffusion models. Raises CheckpointError with the way out."""
    return StableDiffusion(load_checkpoint(name, revision, unet, variant, hub))
