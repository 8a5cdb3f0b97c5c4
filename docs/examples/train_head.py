"""A head from Python: features of a store, persons of an index, and no params file."""

import sys
from pathlib import Path

from cache import FeatureStore
from diffps.datasets.tables import read_scenes
from diffps.geometry import Canvas
from diffps.heads.config import TapsConfig
from diffps.training import HeadTrainer, train_heads
from stages.config_heads import TrainConfig
from stages.features.cached import CachedSource
from stages.features.reading import Reading
from stages.head.data import training_set
from stages.head.model import new_model

index, store, (detection, guidance, *level3) = Path("data/index"), Path("data/features"), sys.argv[1:]
