"""DiffPS: person search on the features of a frozen diffusion model.

The names below are the public API; each is loaded when it is first asked for, so that importing this package is fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffps.backbone.frozen import FrozenUNet
    from diffps.errors import DiffPSError
    from diffps.features import Feature, FeatureShape, FeatureSource, Ref
    from diffps.geometry import Canvas
    from diffps.heads.config import ModelConfig, TapsConfig
    from diffps.model import PersonSearcher, Target, apply_init, build_searcher
    from diffps.records import Annotations, Detections, Query, Scene
    from diffps.schedule import SampleOrder, TrainingConfig
    from diffps.training import HeadTrainer, train_heads
    from stages.finding.searcher import Searcher

_HOMES = {
    "diffps.backbone.frozen": ("FrozenUNet",),
    "diffps.errors": ("DiffPSError",),
    "diffps.features": ("Feature", "FeatureShape", "FeatureSource", "Ref"),
    "diffps.geometry": ("Canvas",),
    "diffps.heads.config": ("ModelConfig", "TapsConfig"),
    "diffps.model": ("PersonSearcher", "Target", "apply_init", "build_searcher"),
    "diffps.records": ("Annotations", "Detections", "Query", "Scene"),
    "diffps.schedule": ("SampleOrder", "TrainingConfig"),
    "diffps.training": ("HeadTrainer", "train_heads"),
    # The one name from beside this package: method and store together. Nothing in here uses it.
    "stages.finding.searcher": ("Searcher",),
}

__all__ = [
    "Annotations",
    "Canvas",
    "Detections",
    "DiffPSError",
    "Feature",
    "FeatureShape",
    "FeatureSource",
    "FrozenUNet",
    "HeadTrainer",
    "ModelConfig",
    "PersonSearcher",
    "Query",
    "Ref",
    "SampleOrder",
    "Scene",
    "Searcher",
    "TapsConfig",
    "Target",
    "TrainingConfig",
    "apply_init",
    "build_searcher",
    "train_heads",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'diffps' has no attribute {name!r}")
