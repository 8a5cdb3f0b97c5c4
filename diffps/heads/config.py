"""What a model is made of. Every part can be replaced or switched off here; the paper's numbers are the defaults.

This module does not import torch: params.yaml is checked before anything heavy is loaded.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffps.errors import ConfigError
from diffps.heads.config_rois import BoxConfig, ReIDConfig, RPNConfig, check, check_grid

Head = Literal["resnet50", "convnext"]
# diffps.heads.initialisation says what each does.
Initialisation = Literal["v1", "v2", "xavier-everywhere", "normal-everywhere"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TapsConfig:
    """The features the heads read. With ``level1`` and ``level2`` empty one level is left, the level-3 taps alone."""

    detection: str
    """The tap of the detection branch."""

    guidance: str | None = None
    """The attention map that guides proposals: a cross-map tap with its word, ``<tap>.<word>``; null where the prior
    has none, and ``model.dgrpn`` with it."""

    level1: tuple[str, ...] = ()
    """Re-ID taps of the coarsest level; may be empty."""

    level2: tuple[str, ...] = ()
    """Re-ID taps of the middle level; may be empty."""

    level3: tuple[str, ...]
    """Re-ID taps of the finest level, whose grid re-ID works on; at least one."""

    def __post_init__(self) -> None:
        if not self.level3:
            raise ConfigError("taps.level3: name at least one tap; re-ID works on its grid")
        for level in ("level1", "level2", "level3"):
            names = getattr(self, level)
            if len(set(names)) < len(names):
                raise ConfigError(f"taps.{level}: a tap is named twice: {', '.join(names)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Every feature read, once, in a fixed order."""
        guidance = [] if self.guidance is None else [self.guidance]
        return tuple(dict.fromkeys([self.detection, *guidance, *self.level1, *self.level2, *self.level3]))


@dataclass(frozen=True, kw_only=True, slots=True)
class DGRPNConfig:
    """Guidance of the region proposals by the cross-attention map (Eq. 1-4). Windows are in positions of the map."""

    tau: float = 0.7
    """Threshold of the normalised map (Eq. 1); in [0, 1)."""

    delta: float = 5.0
    """Least extent of a Gaussian in positions (Eq. 2); above 0."""

    peak_window: int = 7
    """Side of the window a peak is the maximum of; odd."""

    neighbourhood: int = 9
    """Side of the window a peak's extent is measured in; odd."""

    peaks: int = 50
    """At most so many peaks, the strongest."""

    beta: float = 1.0
    """First value of the learnable width of the Gaussians (Eq. 3)."""

    gamma: float = 0.0
    """First value of the learnable weight of the guidance (Eq. 4); 0 begins without it."""

    def __post_init__(self) -> None:
        check(0 <= self.tau < 1, "dgrpn.tau", self.tau, "in [0, 1)")
        check(self.delta > 0, "dgrpn.delta", self.delta, "above 0")
        check(self.peaks > 0, "dgrpn.peaks", self.peaks, "at least 1")
        for name in ("peak_window", "neighbourhood"):
            size = getattr(self, name)
            check(size > 0 and size % 2 == 1, f"dgrpn.{name}", size, "odd and positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class MSFRNConfig:
    """Frequency refinement (Eq. 5)."""

    wavelet: str = "haar"
    """Any discrete wavelet of PyWavelets."""

    refine_low_band: bool = False
    """Send LL through a block of its own too, as in the paper's figure; the released code leaves it alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SFANConfig:
    """Semantic aggregation (Eq. 6)."""

    alpha: float = 0.0
    """First value of the learnable weight of the aggregation; 0 begins without it."""

    temperature: float = 1.0
    """Divides the cosines before the softmax over words; above 0. At 1, as released, the softmax is nearly even and the
    map hardly moves."""

    def __post_init__(self) -> None:
        check(self.temperature > 0, "sfan.temperature", self.temperature, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """Part encoder."""

    kind: Literal["mge", "gfe"] = "mge"
    """``mge`` cuts the map into 1 .. ``branches`` horizontal strips, ``gfe`` pools it whole."""

    size: int = 1024
    """Length of the whole embedding, half of it from each of the two maps."""

    branches: int = 3
    """Branches of mge."""

    reduction: int = 16
    """Channels of the map divided by those of CBAM's hidden layer."""

    kernel: int = 7
    """Side of CBAM's spatial kernel; odd."""

    drop_path: float = 0.1
    """Share of the pieces dropped in training; in [0, 1)."""

    def __post_init__(self) -> None:
        check(self.branches > 0, "embedding.branches", self.branches, "at least 1")
        # A branch gets a share of one map's half, and the last one cuts it into as many strips as there are branches.
        least = 2 * self.branches**2 if self.kind == "mge" else 2
        check(self.size >= least, "embedding.size", self.size, f"at least {least}, one number for every strip")
        check(self.reduction > 0, "embedding.reduction", self.reduction, "at least 1")
        check(self.kernel > 0 and self.kernel % 2 == 1, "embedding.kernel", self.kernel, "odd and positive")
        check(0 <= self.drop_path < 1, "embedding.drop_path", self.drop_path, "in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OIMConfig:
    """Online instance matching."""

    queue: int = 5000
    """Length of the queue of unlabelled persons."""

    momentum: float = 0.5
    """Momentum of the table of labelled ones; in [0, 1)."""

    scale: float = 30.0
    """Scale of the logits."""

    def __post_init__(self) -> None:
        check(self.queue >= 0, "oim.queue", self.queue, "not negative")
        check(0 <= self.momentum < 1, "oim.momentum", self.momentum, "in [0, 1)")
        check(self.scale > 0, "oim.scale", self.scale, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A whole person searcher."""

    channels: int = 1024
    """Channels C of every aggregated map."""

    head: Head = "resnet50"
    """Backbone heads: layer4 of a ResNet-50, or the last stage of a ConvNeXt."""

    head_channels: int = 2048
    """Their outputs; a multiple of 4."""

    head_blocks: int = 3
    """Their blocks."""

    head_weights: str = "imagenet"
    """``imagenet`` (torchvision's; fits 1024 -> 2048 for resnet50 and 512 -> 1024 for convnext), ``random``, or a file
    of such weights."""

    shared_features: bool = False
    """Detection takes the re-ID branch's map."""

    dgrpn: DGRPNConfig | None = field(default_factory=DGRPNConfig)
    """Guidance of the proposals; null: off."""

    msfrn: MSFRNConfig | None = field(default_factory=MSFRNConfig)
    """Frequency refinement (the FRMs); null: off."""

    sfan: SFANConfig | None = field(default_factory=SFANConfig)
    """Semantic aggregation; null: off."""

    rpn: RPNConfig = field(default_factory=RPNConfig)
    """Region proposals."""

    box: BoxConfig = field(default_factory=BoxConfig)
    """Second stage of detection."""

    reid: ReIDConfig = field(default_factory=ReIDConfig)
    """RoIs of the re-ID branch."""

    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    """Part encoder."""

    oim: OIMConfig = field(default_factory=OIMConfig)
    """Online instance matching."""

    def __post_init__(self) -> None:
        check(self.channels > 0, "channels", self.channels, "at least 1")
        check(self.head_blocks > 0, "head_blocks", self.head_blocks, "at least 1")
        check(
            self.head_channels > 0 and self.head_channels % 4 == 0,
            "head_channels",
            self.head_channels,
            "a multiple of 4 (a bottleneck is a quarter as wide)",
        )
        if self.head == "convnext":  # it halves the grid rounding down
            check_grid("box", self.box.grid, 2)
            check_grid("reid", self.reid.grid, 2)
        strips = self.embedding.branches if self.embedding.kind == "mge" else 1
        least = 2 * strips if self.head == "convnext" else 2 * strips - 1
        check(self.reid.grid[0] >= least, "reid.grid", self.reid.grid, f"at least {least} high for {strips} strips")
