"""A tiny searcher, and scenes whose features show persons plainly: no backbone is needed to train a head on them."""

from dataclasses import dataclass

import numpy as np
import torch

from diffps.features import Feature, FeatureShape
from diffps.geometry import Canvas
from diffps.heads.config import EmbeddingConfig, ModelConfig, OIMConfig, TapsConfig
from diffps.heads.config_rois import BoxConfig, ReIDConfig, RPNConfig
from diffps.model import PersonSearcher, Target, apply_init, build_searcher

CANVAS = Canvas(128, 192)
IDENTITIES = 4
TAPS = TapsConfig(detection="d", guidance="m.person", level1=("a",), level2=("b", "c"), level3=("d", "e"))
SHAPES = {
    "a": FeatureShape(4, 6, 12),
    "b": FeatureShape(8, 12, 10),
    "c": FeatureShape(8, 12, 10),
    "d": FeatureShape(16, 24, 8),
    "e": FeatureShape(16, 24, 8),
    "m.person": FeatureShape(16, 24, 1),
}
CONFIG = ModelConfig(
    channels=24,
    head_channels=48,
    head_blocks=1,
    head_weights="random",
    rpn=RPNConfig(anchor_sizes=(32, 64), samples=64, train_before_nms=300, train_after_nms=100, test_after_nms=50),
    box=BoxConfig(grid=(6, 4), samples=24),
    reid=ReIDConfig(grid=(8, 4), samples=24),
    embedding=EmbeddingConfig(size=48, reduction=4, kernel=3),
    oim=OIMConfig(queue=6),
)


def searcher(config: ModelConfig = CONFIG, taps: TapsConfig = TAPS, seed: int = 0, init: str = "v1") -> PersonSearcher:
    torch.manual_seed(seed)
    words = torch.randn(4, 9)
    built = build_searcher(config, taps, SHAPES, CANVAS, words, IDENTITIES)
    apply_init(built, init)
    return built


@dataclass(frozen=True)
class Batch:
    features: dict[str, Feature]
    targets: list[Target]

    def __getitem__(self, images: slice) -> "Batch":
        return Batch(
            {name: Feature(feature.values[images]) for name, feature in self.features.items()}, self.targets[images]
        )


def scenes(count: int = 8, persons: int = 2, seed: int = 0) -> Batch:
    """``count`` images of ``persons`` each side by side; identities follow each other, so that each is seen often."""
    rng = np.random.default_rng(seed)
    values = {name: 0.1 * rng.standard_normal((count, *shape)).astype(np.float32) for name, shape in SHAPES.items()}
    looks = {
        name: rng.standard_normal((IDENTITIES, shape.channels)).astype(np.float32) for name, shape in SHAPES.items()
    }
    targets = []
    for image in range(count):
        boxes, identities = [], []
        for person in range(persons):
            width, height = rng.uniform(28, 44), rng.uniform(56, 90)
            left = person * CANVAS.width / persons + rng.uniform(2, CANVAS.width / persons - width - 2)
            top = rng.uniform(2, CANVAS.height - height - 2)
            identity = (image * persons + person) % IDENTITIES
            boxes.append([left, top, left + width, top + height])
            identities.append(identity)
            for name, shape in SHAPES.items():
                y = (np.arange(shape.height) + 0.5) * CANVAS.height / shape.height
                x = (np.arange(shape.width) + 0.5) * CANVAS.width / shape.width
                down, right = (y[:, None] - top) / height, (x - left) / width
                inside = (down >= 0) & (down < 1) & (right >= 0) & (right < 1)
                # Head and feet look different, or a part of a person could not be told from the whole.
                look = 1.0 if name == TAPS.guidance else looks[name][identity] + 3 * (down[..., None] - 0.5)
                values[name][image] += (inside[..., None] * look).astype(np.float32)
        targets.append(Target(torch.tensor(boxes).reshape(-1, 4), torch.tensor(identities, dtype=torch.int64)))
    return Batch({name: Feature(torch.from_numpy(array)) for name, array in values.items()}, targets)
