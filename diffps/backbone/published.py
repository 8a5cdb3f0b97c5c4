"""The published diffusion models by their tables of taps, for whoever plans before a checkpoint is here."""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import NamedTuple

from diffps.backbone.dit_taps import PIXART_SIGMA, SD3_MEDIUM, pixart_table, sd3_table
from diffps.taps import SDXL_UNET, TapSpec, check_taps, standard_taps, tap_table

# Ids of models that timm builds and of transformers of diffusion: as many blocks as the model at hand has.
_BLOCK_TAP = re.compile(
    r"vit-block\d{2}-(norm1|q|k|v|attn-out|ffn-inner|out)|vit-norm|vit-text-map|cnn-stage\d(-block\d{2})?-out"
    r"|vit-block\d{2}-(modulated|self-[qkv]|self-out|cross-q|cross-map|cross-out)"
    r"|joint-block\d{2}-(img-(self-)?(modulated|q|k|v|attn-out)|img-ffn-inner|img-out|map)"
)


class Published(NamedTuple):
    """A published diffusion model: its taps by id, and the channels of its latents."""

    taps: Mapping[str, TapSpec]
    latent_channels: int


@cache
def published_models() -> tuple[Published, ...]:
    """SD 2.1, SDXL, PixArt-Sigma and SD 3 medium."""
    return (
        Published(standard_taps(), 4),
        Published(tap_table(SDXL_UNET), 4),
        Published(pixart_table(PIXART_SIGMA), 4),
        Published(sd3_table(SD3_MEDIUM), 16),
    )


def check_ids(ids: Iterable[str]) -> None:
    """Raise UnknownTapError for the first id that no family of models has, naming the nearest."""
    known = {tap for model in published_models() for tap in model.taps}
    check_taps((tap for tap in ids if not _BLOCK_TAP.fullmatch(tap)), sorted(known))
