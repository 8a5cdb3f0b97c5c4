"""Train a head from Python on the features that `diffps extract` keeps for the demo; no params file is read."""

from functools import partial
from pathlib import Path

from cache import FeatureStore
from diffps import Canvas, HeadTrainer, ModelConfig, TapsConfig, train_heads
from diffps.datasets.tables import read_scenes
from stages.config_heads import TrainConfig
from stages.features.cached import CachedSource
from stages.features.reading import Reading
from stages.head.data import training_set
from stages.head.model import new_model

TAP, MAP = "up-level3-repeat0-vit-block0-self-k", "up-level3-repeat0-vit-block0-cross-map.person"
index, store = Path("data/index"), FeatureStore(Path("data/features"))
taps = TapsConfig(detection=TAP, guidance=MAP, level3=(TAP,))
model = ModelConfig(channels=64, head_channels=128, head_blocks=1, head_weights="random", sfan=None)
train = TrainConfig(taps=taps, model=model, batch=4, epochs=2, lr=3e-3, milestones=())
reading = Reading(names=taps.names, timestep=0, pass_name="base", encoding="int8", head="mean", mirrored=True)
with CachedSource(reading, "train", store, read_scenes(index, "train")) as source:
    data = training_set(train, Canvas(*source.recipe["latent"]["canvas"]), index, source.skipped())
    build = partial(new_model, train, data.canvas, source.shapes, None, data.identities)
    head = HeadTrainer(build, taps.names, train, data.order.batches_per_epoch)
    for step in train_heads({"head": head}, source, data.order, data.target):
        print(step["head"])
head.model.save_pretrained(Path("my-head"), {"reading": reading.to_json(), "recipe": source.recipe})
