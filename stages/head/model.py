"""A new model of section ``train``."""

from collections.abc import Mapping

from torch import Tensor

from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.model import PersonSearcher, apply_init, build_searcher
from stages.config_heads import TrainConfig


def new_model(
    train: TrainConfig, canvas: Canvas, shapes: Mapping[str, FeatureShape], words: Tensor | None, identities: int
) -> PersonSearcher:
    """Initialised from torch's global generator. ``words`` (W, D): text embeddings, None where SFAN is off."""
    model = build_searcher(train.model, train.taps, shapes, canvas, words, identities)
    apply_init(model, train.init)
    return model
