"""Floating-point operations of the backbone, counted from configs alone."""

from collections.abc import Iterator
from dataclasses import replace

from diffps.backbone.locate import at_hand
from diffps.errors import CheckpointError
from diffps.taps import check_taps
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.priors import prior_of


def operations(encode: EncodeConfig, extract: ExtractConfig) -> Iterator[str]:
    """A line on what an image costs up to the last tap, at one timestep; none where the checkpoint is not here. No
    weights are read, nothing is fetched. Raises UnknownTapError."""
    if not at_hand(encode.checkpoint, encode.revision, encode.hub):
        return
    try:
        prior = prior_of(replace(encode, hub=None), extract.unet)
    except CheckpointError:
        return
    check_taps(extract.taps, prior.taps)
    parts = prior.flops(encode.canvas, extract.taps)
    shares = ", ".join(f"{name} {count / 1e12:.3g}" for name, count in parts.items())
    yield f"operations: {sum(parts.values()) / 1e12:.3g} TFLOP an image at one timestep ({shares})"
