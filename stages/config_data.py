"""Sections ``index``, ``encode`` and ``extract``: the images, and what the frozen backbone makes of them.

Each key is documented below its field; the parameter reference and the JSON Schema are made from these texts.
"""

import re
from dataclasses import dataclass, field
from typing import Literal

from diffps.backbone.prior import CLIP, TIMM, Conditions
from diffps.backbone.published import check_ids
from diffps.datasets.streets import StreetsConfig
from diffps.errors import ConfigError
from diffps.geometry import Canvas, check_sides
from diffps.images import MAX_PIXELS
from diffps.records import Dtype, Split, View
from diffps.taps import FeatureName, tap_kind

LAST_TIMESTEP = 999


@dataclass(frozen=True, kw_only=True, slots=True)
class IndexConfig:
    """The dataset: where it lies and how it is read."""

    dataset: Literal["streets", "prw", "cuhk-sysu", "movienet", "posetrack", "folder", "coco"] = "streets"
    """The dataset's layout: drawn ``streets``; ``prw``, ``cuhk-sysu``, ``movienet`` (MovieNet-PS) or ``posetrack``
    (PoseTrack21-PS) as their authors distribute them; a ``folder`` of images with a CSV file, or ``coco`` JSON."""

    root: str = "data/streets"
    """The dataset's folder; ``streets`` are drawn there when absent."""

    min_box: tuple[int, int] | None = None
    """Smaller boxes (width, height in pixels) are dropped; null takes the dataset's own rule: (10, 20) for cuhk-sysu,
    none elsewhere."""

    identity: str = ""
    """Of ``folder`` and ``coco``: the column or key that names the person, such as ``track_id`` or ``attributes.id``;
    empty: ``person``, ``person_id``."""

    tolerate: float = 0.01
    """Share of boxes, images or queries that may be doubtful or refused for one reason before `diffps index` stops; in
    [0, 1]."""

    max_pixels: int = MAX_PIXELS
    """An image of more pixels is refused: as a rule a mistake or an attack."""

    streets: StreetsConfig = field(default_factory=StreetsConfig)
    """How the scenes of ``streets`` are drawn."""

    def __post_init__(self) -> None:
        if self.min_box is not None and min(self.min_box) < 0:
            raise ConfigError(f"index.min_box {list(self.min_box)}: width and height must be 0 or more")
        if not 0 <= self.tolerate <= 1:
            raise ConfigError(f"index.tolerate {self.tolerate}: a share, in [0, 1]")
        if self.max_pixels < 1:
            raise ConfigError(f"index.max_pixels {self.max_pixels}: must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodeConfig:
    """The VAE, run once over every image."""

    checkpoint: str = "builtin:random"
    """A diffusion model: a folder in diffusers' layout, a safetensors file in the original one, a hub id,
    ``builtin:random`` or ``builtin:streets``. Or another prior: ``timm:NAME``, ``clip:OWNER/NAME``
    (docs/backbones.md)."""

    hub: str | None = None
    """The hub's repository that is fetched where ``checkpoint`` is a folder that is not here."""

    revision: str | None = None
    """Commit, tag or branch of the hub's repository."""

    variant: str | None = None
    """The weights to take where a checkpoint has several (``fp16``); null: the plain ones, or the only ones."""

    canvas: tuple[int, int] = (1280, 1280)
    """(height, width) in pixels, multiples of 64, that every image is stretched to."""

    views: tuple[View, ...] = ("identity", "hflip")
    """``identity``, and ``hflip`` where training is to read mirrored images; made for the train split only."""

    words: tuple[str, ...] = ("head", "shirts", "pants", "shoes")
    """Words whose text embeddings SFAN gets (T_c of Eq. 6)."""

    text_encoder: int = 1
    """The text encoder that embeds ``words``: of SDXL 1 (768 wide) or 2 (1280 wide), of SD 3 also 3 (T5, 4096 wide), of
    other models 1."""

    dtype: Dtype = "float32"
    """What the VAE computes in."""

    def __post_init__(self) -> None:
        if self.is_diffusion:  # other models say what divides their canvases when they are found
            check_sides(*self.canvas)
        if "identity" not in self.views or len(set(self.views)) != len(self.views):
            raise ConfigError(f"encode.views {list(self.views)}: expected identity, and hflip at most once")
        if len(set(self.words)) != len(self.words) or not all(map(str.strip, self.words)):
            raise ConfigError(f"encode.words {list(self.words)}: each a word, and each once")
        if self.text_encoder not in (1, 2, 3):
            raise ConfigError(f"encode.text_encoder {self.text_encoder}: 1, or up to 3 where the model has more")

    @property
    def is_diffusion(self) -> bool:
        """True for a diffusion model, False for one that reads images as they are."""
        return not self.checkpoint.startswith((TIMM, CLIP))

    @property
    def frame(self) -> Canvas:
        return Canvas(*self.canvas)

    def views_of(self, split: Split) -> tuple[View, ...]:
        """The views of a split that are made: hflip serves training only."""
        return self.views if split == "train" else ("identity",)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """One pass of the UNet over the latents, and what is kept of it."""

    name: str = "base"
    """The pass's name for people, in manifests and messages; its identity is a fingerprint."""

    unet: str | None = None
    """Other UNet weights than the checkpoint's (CleanDIFT): a folder or a safetensors file."""

    prompt: str = "person"
    """The text the UNet is shown, padded to its encoder's length with the checkpoint's own pad token."""

    words: tuple[str, ...] = ("person",)
    """Words or phrases of ``prompt``; every cross-attention map in ``taps`` is kept for each."""

    head: Literal["mean"] | int = "mean"
    """Attention head of the maps: the mean over all, or an index (1 is the released code's), stored as an array of its
    own."""

    timesteps: tuple[int, ...] = (0,)
    """Timesteps, 0 to 999; the paper's "t = 0" is 0. Of SD 3 they are thousandths of sigma."""

    taps: tuple[str, ...] = ()
    """Ids of the activations kept (docs/taps.md lists them)."""

    latent: Literal["mean", "sample"] = "mean"
    """The VAE posterior's mean, or a sample seeded per image."""

    noise: Literal["seeded", "none"] = "seeded"
    """The scheduler's noise at the timestep, seeded per image; or the clean latent (CleanDIFT)."""

    seed: int = 0
    """Seed of noise, samples of the posterior and bases of ``project:k``."""

    encoding: str = "int8"
    """How taps are stored: float16, int8, bitround:n or project:k. Maps are kept as they are."""

    transcode: tuple[str, ...] = ()
    """Further encodings of the same taps, made from float16 without another pass; for sweeps over encodings."""

    dtype: Dtype = "float32"
    """What the UNet computes in."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}", self.name):
            raise ConfigError(f"extract.name {self.name!r}: up to 100 letters, digits and . _ + -, no . in front")
        check_ids(self.taps)
        for tap in self.taps:
            kind = tap_kind(tap)
            if kind == "text":
                raise ConfigError(f"extract.taps {tap}: the same for every image, so not stored")
            if kind == "self-map":
                raise ConfigError(f"extract.taps {tap}: positions x positions per image, so not stored")
            if kind == "cross-map" and not self.words:
                raise ConfigError(f"extract.taps {tap}: a map is kept per word; extract.words is empty")
        for name in ("taps", "timesteps", "words", "transcode"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ConfigError(f"extract.{name}: {list(values)} names something twice")
        for timestep in self.timesteps:
            if not 0 <= timestep <= LAST_TIMESTEP:
                raise ConfigError(f"extract.timesteps {timestep}: UNet timesteps are 0 to {LAST_TIMESTEP}")
        if not self.taps or not self.timesteps:
            raise ConfigError("extract: taps and timesteps must not be empty")
        if not all(map(str.strip, self.words)):
            raise ConfigError(f"extract.words {list(self.words)}: one of them is empty")
        if self.seed < 0:
            raise ConfigError(f"extract.seed {self.seed}: must not be negative")

    @property
    def names(self) -> tuple[str, ...]:
        """What heads can ask for: grid taps by id, maps as ``<tap>.<word>``."""
        grids = [tap for tap in self.taps if tap_kind(tap) == "grid"]
        maps = [str(FeatureName(tap, word)) for tap in self.taps if tap_kind(tap) != "grid" for word in self.words]
        return (*grids, *maps)

    @property
    def conditions(self) -> Conditions:
        """What the pass is run under besides the image."""
        return Conditions(
            prompt=self.prompt,
            words=self.words,
            head=self.head,
            latent=self.latent,
            noise=self.noise,
            seed=self.seed,
        )
