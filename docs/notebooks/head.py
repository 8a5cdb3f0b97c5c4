# %% [markdown]
# # A head in a program
#
# A trained head reads features, from the store or from the backbone, and gives the people of each scene with their
# embeddings. This one reads those of the store; no checkpoint is needed.

# %%
from pathlib import Path

import numpy as np

from cache import FeatureStore
from diffps import PersonSearcher, Ref
from diffps.datasets.tables import read_scenes
from stages.features.cached import CachedSource
from stages.features.reading import Reading
from stages.head.saved import training_of

folder = Path("results/train/head")
head = PersonSearcher.from_pretrained(folder)
reading = Reading.from_json(training_of(folder)["reading"])
scenes = read_scenes(Path("data/index"), "test")
[scene.scene_id for scene in scenes][:3]

# %%
with CachedSource(reading, "test", FeatureStore(Path("data/features")), scenes) as source:
    batch = [Ref(scene.scene_id) for scene in scenes[:2]]
    features = next(iter(source.stream([batch], reading.names)))
    found = head.detect(features, score_threshold=0.0)
[(len(persons.boxes), persons.embeddings.shape) for persons in found]

# %% [markdown]
# Boxes are in the canvas frame. Embeddings have unit length, so the cosine of two is their product: here everybody of
# the first scene against everybody of the second.

# %%
similarity = found[0].embeddings @ found[1].embeddings.T
assert np.abs(similarity).max() <= 1 + 1e-5
similarity.shape
