"""When each sample is seen and how fast a head learns: pure functions of the settings and a position.

A position counts the batches of one training from 0; ``batches_per_epoch`` of them make an epoch. Nothing here
depends on the head, so heads with equal ``data_seed`` and batch size can be trained from one stream.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

from diffps.errors import ConfigError
from diffps.heads.config import Initialisation
from diffps.records import Dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Factors of the five losses in their sum, each >= 0."""

    rpn_cls: float = 1.0
    """Persons against background among anchors."""

    rpn_reg: float = 1.0
    """Boxes of the anchors."""

    prop_cls: float = 1.0
    """Persons against background among proposals."""

    prop_reg: float = 10.0
    """Boxes of the proposals."""

    reid: float = 2.0
    """Online instance matching."""

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) >= 0:
                raise ConfigError(f"weights.{item.name} {getattr(self, item.name)}: must not be negative")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How one head learns. Defaults are the paper's released configuration."""

    seed: int = 1
    """The head's own: initialisation, RoI sampling, drop path."""

    epochs: int = 30
    """Times every training scene is seen."""

    lr: float = 1e-4
    """Adam's learning rate."""

    milestones: tuple[int, ...] = (8, 14)
    """Epochs, from 0, at which the rate is multiplied by ``decay``."""

    decay: float = 0.1
    """Factor of the rate at each milestone."""

    warmup_epochs: float = 1.0
    """Epochs over which the rate rises linearly from ``warmup_start`` times ``lr``; may be a fraction."""

    warmup_start: float = 0.001
    """Share of ``lr`` that training begins with; in (0, 1]."""

    clip: float = 10.0
    """Norm at which gradients are clipped."""

    precision: Dtype = "float32"
    """What the head computes in; half precision by autocast."""

    accumulate: int = 1
    """Batches that make one step of the optimiser."""

    init: Initialisation = "v1"
    """Rule of the first weights: as released ``v1`` for CUHK-SYSU and ``v2`` for PRW; ``xavier-everywhere`` and
    ``normal-everywhere`` reach aggregation and MSFRN too."""

    weights: LossWeights = field(default_factory=LossWeights)
    """Factors of the five losses."""

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulate"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("lr", "clip", "decay"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} {getattr(self, name)}: must be above 0")
        if self.lr > 1e30:  # Adam's first step is ten times as long, and overflows
            raise ConfigError(f"lr {self.lr}: must be at most 1e30")
        if not 0 < self.warmup_start <= 1:
            raise ConfigError(f"warmup_start {self.warmup_start}: must be in (0, 1], a share of lr")
        if self.warmup_epochs < 0 or self.seed < 0:
            raise ConfigError("warmup_epochs and seed must not be negative")
        if list(self.milestones) != sorted(set(self.milestones)) or min(self.milestones, default=1) < 1:
            raise ConfigError(f"milestones {list(self.milestones)}: must be epochs from 1, strictly increasing")

    def learning_rate(self, position: int, batches_per_epoch: int) -> float:
        """The rate at a batch ``position``."""
        epoch = position // batches_per_epoch
        rate = self.lr * self.decay ** sum(milestone <= epoch for milestone in self.milestones)
        warmup = self.warmup_epochs * batches_per_epoch
        if position < warmup:
            risen = position / warmup
            rate *= self.warmup_start * (1 - risen) + risen
        return rate


class Sample(NamedTuple):
    """One scene of a batch, mirrored or not."""

    scene_id: str
    mirrored: bool


@dataclass(frozen=True, slots=True)
class SampleOrder:
    """The order of the training scenes, drawn anew each epoch from (``data_seed``, epoch) alone.

    Where ``flip`` is on, each sample is mirrored with probability 0.5. The last incomplete batch of an epoch is
    dropped. Raises ConfigError where the scenes do not fill one batch.
    """

    scene_ids: tuple[str, ...]
    batch: int
    data_seed: int
    flip: bool

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= len(self.scene_ids):
            raise ConfigError(f"batch {self.batch}: must be between 1 and the {len(self.scene_ids)} training scenes")

    @property
    def batches_per_epoch(self) -> int:
        return len(self.scene_ids) // self.batch

    def epoch(self, epoch: int) -> list[list[Sample]]:
        """Every batch of an epoch."""
        rng = np.random.default_rng([self.data_seed, epoch])
        order = rng.permutation(len(self.scene_ids))
        mirrored = (rng.random(len(order)) < 0.5) & self.flip
        samples = [Sample(self.scene_ids[i], bool(flip)) for i, flip in zip(order, mirrored, strict=True)]
        return [samples[i * self.batch : (i + 1) * self.batch] for i in range(self.batches_per_epoch)]

    def batches(self, start: int, stop: int) -> Iterator[list[Sample]]:
        """The batches at positions ``start`` to ``stop``, the last not included."""
        while start < stop:
            epoch, offset = divmod(start, self.batches_per_epoch)
            chunk = self.epoch(epoch)[offset : offset + stop - start]
            yield from chunk
            start += len(chunk)
