"""What a model is made of. Every part can be replaced or switched off here; the paper's numbers are the defaults.

This module does not import torch: params.yaml is checked before anything heavy is loaded.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffps.errors import ConfigError

Head = Literal["resnet50", "convnext"]
Initialisation = Literal["xavier", "normal"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TapsConfig:
    """Which features the heads read: tap ids, and for ``guidance`` a cross-map tap with its word, ``<tap>.<word>``.

    ``level1`` and ``level2`` may be empty: with both empty one level is left, the level-3 taps alone.
    """

    detection: str
    guidance: str
    level1: tuple[str, ...] = ()
    level2: tuple[str, ...] = ()
    level3: tuple[str, ...]

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
        return tuple(dict.fromkeys([self.detection, self.guidance, *self.level1, *self.level2, *self.level3]))


@dataclass(frozen=True, kw_only=True, slots=True)
class DGRPNConfig:
    """Guidance of the region proposals by the cross-attention map (Eq. 1-4). Windows are odd, in positions of the map.

    ``beta`` and ``gamma`` are the learnable scalars' first values.
    """

    tau: float = 0.7
    delta: float = 5.0
    peak_window: int = 7
    neighbourhood: int = 9
    peaks: int = 50
    beta: float = 1.0
    gamma: float = 0.0

    def __post_init__(self) -> None:
        _check(0 <= self.tau < 1, "dgrpn.tau", self.tau, "in [0, 1)")
        _check(self.delta > 0, "dgrpn.delta", self.delta, "above 0")
        _check(self.peaks > 0, "dgrpn.peaks", self.peaks, "at least 1")
        for name in ("peak_window", "neighbourhood"):
            size = getattr(self, name)
            _check(size > 0 and size % 2 == 1, f"dgrpn.{name}", size, "odd and positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class MSFRNConfig:
    """Frequency refinement (Eq. 5). ``wavelet`` is any discrete one of PyWavelets; ``refine_low_band`` sends LL
    through a block of its own too, as in the paper's figure; the released code leaves it alone."""

    wavelet: str = "haar"
    refine_low_band: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SFANConfig:
    """Semantic aggregation (Eq. 6); ``alpha`` is the learnable scalar's first value."""

    alpha: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """Region proposal network. Anchor sizes in canvas pixels; the limits before and after NMS are per image."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    samples: int = 256
    positive_fraction: float = 0.5
    nms: float = 0.7
    train_before_nms: int = 12000
    train_after_nms: int = 2000
    test_before_nms: int = 6000
    test_after_nms: int = 300

    def __post_init__(self) -> None:
        for name in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self, name)
            _check(bool(values) and min(values) > 0, f"rpn.{name}", values, "one number or more, each above 0")
        _check(
            0 < self.negative_iou <= self.positive_iou <= 1,
            "rpn.negative_iou",
            self.negative_iou,
            "at most positive_iou",
        )
        _check(0 < self.positive_fraction < 1, "rpn.positive_fraction", self.positive_fraction, "between 0 and 1")
        # torchvision rounds the share down.
        _check(
            self.samples * self.positive_fraction >= 1,
            "rpn.samples",
            self.samples,
            f"so many that positive_fraction {self.positive_fraction} of them is at least 1",
        )
        _check(0 <= self.nms <= 1, "rpn.nms", self.nms, "an IoU, in [0, 1]")
        for name in ("train_before_nms", "train_after_nms", "test_before_nms", "test_after_nms"):
            _check(getattr(self, name) > 0, f"rpn.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxConfig:
    """Second stage of detection: RoIs of ``grid`` (height, width) positions, ``samples`` of them per image in
    training.

    ``score_threshold`` decides for who calls PersonSearcher.detect without one; in the stages
    ``evaluate.score_threshold`` takes its place.
    """

    grid: tuple[int, int] = (14, 14)
    sampling_ratio: int = 2
    samples: int = 128
    positive_iou: float = 0.5
    negative_iou: float = 0.5
    positive_fraction: float = 0.5
    coder_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.5
    nms: float = 0.4
    detections: int = 300

    def __post_init__(self) -> None:
        _check_sampling("box", self.samples, self.positive_iou, self.negative_iou, self.positive_fraction)
        _check_grid("box", self.grid, 1)
        _check(min(self.coder_weights) > 0, "box.coder_weights", self.coder_weights, "above 0, each of them")
        _check(0 <= self.score_threshold < 1, "box.score_threshold", self.score_threshold, "in [0, 1)")
        _check(0 <= self.nms <= 1, "box.nms", self.nms, "an IoU, in [0, 1]")
        _check(self.detections > 0, "box.detections", self.detections, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReIDConfig:
    """RoIs of the re-ID branch, as :class:`BoxConfig`."""

    grid: tuple[int, int] = (24, 12)
    sampling_ratio: int = 2
    samples: int = 128
    positive_iou: float = 0.7
    negative_iou: float = 0.3
    positive_fraction: float = 0.5

    def __post_init__(self) -> None:
        _check_sampling("reid", self.samples, self.positive_iou, self.negative_iou, self.positive_fraction)
        _check_grid("reid", self.grid, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingConfig:
    """Part encoder: ``mge`` cuts the map into 1 .. ``branches`` horizontal strips, ``gfe`` pools it whole.

    ``size`` is the length of the whole embedding, half of it from each of the two maps.
    """

    kind: Literal["mge", "gfe"] = "mge"
    size: int = 1024
    branches: int = 3
    reduction: int = 16
    kernel: int = 7
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        _check(self.branches > 0, "embedding.branches", self.branches, "at least 1")
        # A branch gets a share of one map's half, and the last one cuts it into as many strips as there are branches.
        least = 2 * self.branches**2 if self.kind == "mge" else 2
        _check(self.size >= least, "embedding.size", self.size, f"at least {least}, one number for every strip")
        _check(self.reduction > 0, "embedding.reduction", self.reduction, "at least 1")
        _check(self.kernel > 0 and self.kernel % 2 == 1, "embedding.kernel", self.kernel, "odd and positive")
        _check(0 <= self.drop_path < 1, "embedding.drop_path", self.drop_path, "in [0, 1)")


@dataclass(frozen=True, kw_only=True, slots=True)
class OIMConfig:
    """Online instance matching: length of the queue of unlabelled persons, momentum of the table, scale of the
    logits."""

    queue: int = 5000
    momentum: float = 0.5
    scale: float = 30.0

    def __post_init__(self) -> None:
        _check(self.queue >= 0, "oim.queue", self.queue, "not negative")
        _check(0 <= self.momentum < 1, "oim.momentum", self.momentum, "in [0, 1)")
        _check(self.scale > 0, "oim.scale", self.scale, "above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """A whole person searcher.

    ``channels`` C of every aggregated map; ``head`` the backbone head (layer4 of a ResNet-50, last stage of a
    ConvNeXt) of ``head_channels`` outputs and ``head_blocks`` blocks. ``head_weights`` is ``imagenet``
    (torchvision's; fits 1024 -> 2048 for resnet50 and 512 -> 1024 for convnext), ``random``, or a file of such
    weights. ``dgrpn``, ``msfrn`` (its FRMs) and ``sfan`` null are off; ``shared_features`` gives detection the re-ID
    branch's map.
    """

    channels: int = 1024
    head: Head = "resnet50"
    head_channels: int = 2048
    head_blocks: int = 3
    head_weights: str = "imagenet"
    shared_features: bool = False
    dgrpn: DGRPNConfig | None = field(default_factory=DGRPNConfig)
    msfrn: MSFRNConfig | None = field(default_factory=MSFRNConfig)
    sfan: SFANConfig | None = field(default_factory=SFANConfig)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxConfig = field(default_factory=BoxConfig)
    reid: ReIDConfig = field(default_factory=ReIDConfig)
    embedding: EmbeddingConfig = field(default_factory=EmbeddingConfig)
    oim: OIMConfig = field(default_factory=OIMConfig)

    def __post_init__(self) -> None:
        _check(self.channels > 0, "channels", self.channels, "at least 1")
        _check(self.head_blocks > 0, "head_blocks", self.head_blocks, "at least 1")
        _check(
            self.head_channels > 0 and self.head_channels % 4 == 0,
            "head_channels",
            self.head_channels,
            "a multiple of 4 (a bottleneck is a quarter as wide)",
        )
        if self.head == "convnext":  # it halves the grid rounding down
            _check_grid("box", self.box.grid, 2)
            _check_grid("reid", self.reid.grid, 2)
        strips = self.embedding.branches if self.embedding.kind == "mge" else 1
        rows = (self.reid.grid[0] + 1) // 2 if self.head == "resnet50" else self.reid.grid[0] // 2
        _check(rows >= strips, "reid.grid", self.reid.grid, f"at least {2 * strips} high for {strips} strips")


def _check(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"model.{name} {value}: must be {expected}")


def _check_grid(part: str, grid: tuple[int, int], least: int) -> None:
    _check(min(grid) >= least, f"{part}.grid", grid, f"at least {least} high and wide")


def _check_sampling(part: str, samples: int, positive: float, negative: float, fraction: float) -> None:
    _check(samples >= 2, f"{part}.samples", samples, "at least 2")
    _check(
        0 < negative <= positive <= 1, f"{part}.negative_iou", negative, f"above 0 and at most positive_iou {positive}"
    )
    _check(0 < fraction < 1, f"{part}.positive_fraction", fraction, "between 0 and 1")
