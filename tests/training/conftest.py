"""A world small enough to train in: random features of eight scenes, and persons in them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from diffps.features import Feature, FeatureShape, Ref
from diffps.geometry import Canvas
from diffps.heads.config import EmbeddingConfig, ModelConfig, OIMConfig, SFANConfig, TapsConfig
from diffps.heads.config_rois import BoxConfig, ReIDConfig, RPNConfig
from diffps.model import PersonSearcher, Target, apply_init, build_searcher
from diffps.schedule import Sample, SampleOrder, TrainingConfig
from diffps.training import HeadTrainer

CANVAS = Canvas(64, 64)
GRIDS = {"k": (8, 8, 6), "v": (8, 8, 6), "q": (4, 4, 10), "map.person": (8, 8, 1)}
TAPS = TapsConfig(detection="k", guidance="map.person", level2=("q",), level3=("k", "v"))
MODEL = ModelConfig(
    channels=8,
    head_channels=16,
    head_blocks=1,
    head_weights="random",
    rpn=RPNConfig(anchor_sizes=(16, 32), train_before_nms=30, train_after_nms=10, samples=16),
    box=BoxConfig(grid=(4, 4), samples=8),
    reid=ReIDConfig(grid=(6, 4), samples=8),
    embedding=EmbeddingConfig(size=12, branches=2, reduction=2, kernel=3),
    oim=OIMConfig(queue=8),
    sfan=SFANConfig(alpha=0.5),
)
SCENES = tuple(f"scene{i}" for i in range(8))


@dataclass
class RandomSource:
    """int8 features drawn from the scene's name and view; counts the batches it gives."""

    given: int = 0
    asked: list[tuple[str, ...]] = field(default_factory=list)
    broken: str | None = None

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*grid) for name, grid in GRIDS.items()}

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        self.asked.append(tuple(names))
        for refs in batches:
            self.given += 1
            yield {name: self._feature(refs, name) for name in names}

    def _feature(self, refs: Sequence[Ref], name: str) -> Feature:
        height, width, channels = GRIDS[name]
        values = []
        for ref in refs:
            scene = int(ref.scene_id.removeprefix("scene"))
            rng = np.random.default_rng([scene, ref.view == "hflip", sorted(GRIDS).index(name)])
            values.append(rng.integers(-127, 128, (height, width, channels), np.int8))
        stacked = torch.from_numpy(np.stack(values))
        if name.startswith("map"):
            return Feature(stacked.float().abs() / 127)
        scales = torch.full((len(refs), 1, channels), 0.01, dtype=torch.float16)
        if any(ref.scene_id == self.broken for ref in refs):
            scales = scales * float("nan")
        return Feature(stacked, scales)


def target(sample: Sample) -> Target:
    scene = int(sample.scene_id.removeprefix("scene"))
    boxes = np.array([[4, 4, 24, 50], [30, 8, 52, 60]][: scene % 3], np.float32).reshape(-1, 4)
    if sample.mirrored:
        boxes = CANVAS.mirror(boxes)
    identities = torch.tensor([scene % 4, -1 if scene % 2 else 3][: len(boxes)], dtype=torch.int64)
    return Target(torch.from_numpy(boxes), identities)


def searcher(config: TrainingConfig, model: ModelConfig = MODEL, taps: TapsConfig = TAPS) -> PersonSearcher:
    words = torch.linspace(-1, 1, 8).reshape(2, 4) if model.sfan else None
    built = build_searcher(model, taps, RandomSource().shapes, CANVAS, words, 4)
    apply_init(built, config.init)
    return built


def trainer(
    config: TrainingConfig, model: ModelConfig = MODEL, taps: TapsConfig = TAPS, batches: int = 4
) -> HeadTrainer:
    return HeadTrainer(lambda: searcher(config, model, taps), taps.names, config, batches)


@pytest.fixture(scope="session")
def world() -> SimpleNamespace:
    """Everything above; it holds no state."""
    return SimpleNamespace(
        model=MODEL,
        taps=TAPS,
        source=RandomSource,
        target=target,
        searcher=searcher,
        trainer=trainer,
        order=SampleOrder(SCENES, 2, data_seed=1, flip=True),
    )
