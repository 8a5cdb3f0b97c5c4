"""What every frozen model that features are read from can tell and do: the seam between families of models.

A prior knows its taps and who it is without loading weights; it loads them when a pass over images is opened.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from diffps.errors import ConfigError
from diffps.geometry import check_sides
from diffps.taps import TapSpec, check_taps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffps.backbone.latents import NoiseKey

# What begins the names of models that timm builds, and of CLIP and SigLIP.
TIMM, CLIP = "timm:", "clip:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """What a pass is run under besides the image. What a prior has no use for changes nothing in it.

    ``prompt`` and the ``words`` of it whose maps are read, of attention ``head`` (an index or "mean"); ``latent``: the
    mean of the VAE's posterior, or a sample; ``noise`` at the timestep, or none; ``seed`` of both.
    """

    prompt: str = ""
    words: tuple[str, ...] = ()
    head: Literal["mean"] | int = "mean"
    latent: Literal["mean", "sample"] = "mean"
    noise: Literal["seeded", "none"] = "seeded"
    seed: int = 0


class Encoder(Protocol):
    """The first half of a frozen model: from pixels to what a pass starts from."""

    def moments(self, pixels: "Tensor") -> "Tensor":
        """``pixels`` (B, 3, H, W) in [-1, 1] -> (B, h, w, c) float32."""


class Pass(Protocol):
    """A frozen model on its device under one set of conditions; a context manager that leaves it as it was."""

    def __enter__(self) -> "Pass": ...

    def __exit__(self, *_: object) -> None: ...

    def features(self, starts: "Tensor", timestep: int, keys: "Sequence[NoiseKey]") -> "dict[str, Tensor]":
        """Taps and maps by name, (B, H, W, C), of what the encoder gave: (B, h, w, c), one key per image."""


class Prior(Protocol):
    """A frozen model. ``name`` is what the user called it.

    ``taps``: every tap by id, in forward order, from config alone. ``latent_channels``: of the moments that are worth
    storing; None where a pass starts from the image itself. ``multiple`` divides both sides of a canvas.
    ``largest``: no side of a canvas is longer; None where any goes. ``last_timestep``: timesteps count from 0 to it; 0
    for a model that has none.
    """

    @property
    def name(self) -> str: ...

    @property
    def taps(self) -> Mapping[str, TapSpec]: ...

    @property
    def latent_channels(self) -> int | None: ...

    @property
    def multiple(self) -> int: ...

    @property
    def largest(self) -> int | None: ...

    @property
    def last_timestep(self) -> int: ...

    def digests(self) -> Mapping[str, str]:
        """Who this is, wherever it lies: the digest of every part, 16 hex digits."""

    def check_tensors(self) -> None:
        """Compare the files' tensors with the config, from their headers. Raises CheckpointError."""

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        """Of the model, all that decides what a pass starts from; ``dtype`` is what the encoder computes in."""

    def pass_recipe(self, conditions: Conditions) -> dict[str, Any]:
        """Of the model and the conditions, all that decides a pass, but for its timestep and dtype."""

    def tokens(self, conditions: Conditions) -> Mapping[str, Sequence[int]]:
        """The conditions' words, each with what says in a recipe where its map comes from. Raises PromptError."""

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> "Tensor | None":
        """(W, D) float32, T_c of SFAN, by one of its text encoders, counted from 1; None for a model without text.
        Raises ConfigError for an encoder that it does not have."""

    def describe(self, conditions: Conditions) -> Iterable[str]:
        """Lines for people: what it is, from where, its digests, what the conditions come to. Raises PromptError."""

    def flops(self, canvas: tuple[int, int], taps: Sequence[str]) -> Mapping[str, int]:
        """Operations of one image by part, up to the last of ``taps``; from config alone."""

    def open_encoder(self, device: "torch.device | str", dtype: str) -> Encoder:
        """Load the first half. Raises CheckpointError."""

    def open_pass(
        self,
        taps: Sequence[str],
        conditions: Conditions,
        device: "torch.device | str",
        dtype: str,
        *,
        compiled: bool = False,
    ) -> Pass:
        """Load the model and read ``taps`` of it. Raises CheckpointError, UnknownTapError, PromptError."""


def check_pass(
    prior: Prior, canvas: tuple[int, int], taps: Iterable[str], timesteps: Iterable[int], conditions: Conditions
) -> None:
    """Raises UnknownTapError, or ConfigError for what this prior cannot be asked for; loads nothing."""
    check_sides(*canvas, prior.multiple)
    if prior.largest is not None and max(canvas) > prior.largest:
        raise ConfigError(
            f"encode.canvas {list(canvas)}: {prior.name} has positions up to {prior.largest} pixels a side"
        )
    taps = tuple(taps)
    check_taps(taps, prior.taps)
    for timestep in timesteps:
        if not 0 <= timestep <= prior.last_timestep:
            known = f"0 to {prior.last_timestep}" if prior.last_timestep else "none but 0: it is no diffusion model"
            raise ConfigError(f"extract.timesteps {timestep}: {prior.name} has {known}")
    maps = [prior.taps[tap] for tap in taps if prior.taps[tap].kind == "cross-map"]
    if maps and not conditions.words:
        raise ConfigError("extract.words: a map is kept per word; name one")
    if conditions.head != "mean" and any(not 0 <= conditions.head < tap.channels for tap in maps):
        least = min(maps, key=lambda tap: tap.channels)
        raise ConfigError(f"extract.head {conditions.head}: {least.id} has heads 0 to {least.channels - 1}")


def overflow(name: str) -> str:
    """What is said of a VAE that overflows in half precision."""
    return (
        f"encode.dtype float16: the VAE of {name} overflows in it (force_upcast in its config); set encode.dtype to "
        "bfloat16 or float32"
    )
