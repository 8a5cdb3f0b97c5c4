"""The prior that section ``encode`` names."""

from diffps.backbone.families import load_prior
from diffps.backbone.prior import Prior
from stages.config_data import EncodeConfig


def prior_of(encode: EncodeConfig, unet: str | None = None) -> Prior:
    """Found, not loaded; ``unet`` is ``extract.unet``. Raises CheckpointError with the way out."""
    return load_prior(encode.checkpoint, encode.revision, unet, encode.variant, encode.hub)
