"""What the three stages that choose regions are made of: proposals, boxes, and RoIs of re-ID."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from diffps.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class RPNConfig:
    """Region proposal network, torchvision's."""

    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Anchor sides in canvas pixels."""

    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height divided by width of the anchors."""

    positive_iou: float = 0.7
    """IoU with a person from which an anchor is positive."""

    negative_iou: float = 0.3
    """IoU below which an anchor is negative."""

    samples: int = 256
    """Anchors per image that the loss is over."""

    positive_fraction: float = 0.5
    """Largest share of positive ones among them; between 0 and 1."""

    nms: float = 0.7
    """IoU above which the weaker of two proposals is dropped."""

    train_before_nms: int = 12000
    """Strongest proposals per image before NMS in training."""

    train_after_nms: int = 2000
    """And after it."""

    test_before_nms: int = 6000
    """Strongest proposals per image before NMS in search."""

    test_after_nms: int = 300
    """And after it."""

    def __post_init__(self) -> None:
        for name in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self, name)
            check(bool(values) and _all_above_0(values), f"rpn.{name}", values, "one number or more, each above 0")
        check(
            0 < self.negative_iou <= self.positive_iou <= 1,
            "rpn.negative_iou",
            self.negative_iou,
            "at most positive_iou",
        )
        check(0 < self.positive_fraction < 1, "rpn.positive_fraction", self.positive_fraction, "between 0 and 1")
        # torchvision rounds the share down.
        check(
            self.samples * self.positive_fraction >= 1,
            "rpn.samples",
            self.samples,
            f"so many that positive_fraction {self.positive_fraction} of them is at least 1",
        )
        check(0 <= self.nms <= 1, "rpn.nms", self.nms, "an IoU, in [0, 1]")
        for name in ("train_before_nms", "train_after_nms", "test_before_nms", "test_after_nms"):
            check(getattr(self, name) > 0, f"rpn.{name}", getattr(self, name), "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxConfig:
    """Second stage of detection."""

    grid: tuple[int, int] = (14, 14)
    """(height, width) of an RoI in positions."""

    sampling_ratio: int = 2
    """Samples per position and side (RoIAlign)."""

    samples: int = 128
    """RoIs per image in training; at least 2."""

    positive_iou: float = 0.5
    """IoU with a person from which an RoI is positive."""

    negative_iou: float = 0.5
    """IoU below which an RoI is background."""

    positive_fraction: float = 0.5
    """Share of positive RoIs; between 0 and 1."""

    coder_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Weights of the box regression targets x, y, width, height."""

    score_threshold: float = 0.5
    """Least score for who calls PersonSearcher.detect without one; in the stages ``evaluate.score_threshold`` takes its
    place."""

    nms: float = 0.4
    """IoU above which the weaker of two detections is dropped."""

    detections: int = 300
    """At most so many detections per image."""

    def __post_init__(self) -> None:
        _check_sampling("box", self.samples, self.positive_iou, self.negative_iou, self.positive_fraction)
        check_grid("box", self.grid, 1)
        check(self.sampling_ratio > 0, "box.sampling_ratio", self.sampling_ratio, "at least 1")
        check(_all_above_0(self.coder_weights), "box.coder_weights", self.coder_weights, "above 0, each of them")
        check(0 <= self.score_threshold < 1, "box.score_threshold", self.score_threshold, "in [0, 1)")
        check(0 <= self.nms <= 1, "box.nms", self.nms, "an IoU, in [0, 1]")
        check(self.detections > 0, "box.detections", self.detections, "at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReIDConfig:
    """RoIs of the re-ID branch."""

    grid: tuple[int, int] = (24, 12)
    """(height, width) of an RoI in positions."""

    sampling_ratio: int = 2
    """Samples per position and side (RoIAlign)."""

    samples: int = 128
    """RoIs per image in training; at least 2."""

    positive_iou: float = 0.7
    """IoU with a person from which an RoI is that person."""

    negative_iou: float = 0.3
    """IoU below which an RoI is background."""

    positive_fraction: float = 0.5
    """Share of positive RoIs; between 0 and 1."""

    def __post_init__(self) -> None:
        _check_sampling("reid", self.samples, self.positive_iou, self.negative_iou, self.positive_fraction)
        check_grid("reid", self.grid, 1)
        check(self.sampling_ratio > 0, "reid.sampling_ratio", self.sampling_ratio, "at least 1")


def check(holds: bool, name: str, value: object, expected: str) -> None:
    """Raises ConfigError naming ``model.<name>``, its value and what is ``expected``, unless it ``holds``."""
    if not holds:
        raise ConfigError(f"model.{name} {value}: must be {expected}")


def check_grid(part: str, grid: tuple[int, int], least: int) -> None:
    """Raises ConfigError for a grid of less than ``least`` positions either way."""
    check(min(grid) >= least, f"{part}.grid", grid, f"at least {least} high and wide")


def _all_above_0(values: Iterable[int | float]) -> bool:
    """All are numbers above 0; NaN, which ``min`` passes over, and infinity are none."""
    return all(0 < value < math.inf for value in values)


def _check_sampling(part: str, samples: int, positive: float, negative: float, fraction: float) -> None:
    check(samples >= 2, f"{part}.samples", samples, "at least 2")
    check(
        0 < negative <= positive <= 1, f"{part}.negative_iou", negative, f"above 0 and at most positive_iou {positive}"
    )
    check(0 < fraction < 1, f"{part}.positive_fraction", fraction, "between 0 and 1")
