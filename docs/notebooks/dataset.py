# %% [markdown]
# # A Dataset over the store
#
# A sample is one scene: its features, boxes and identities. Readers may be copied to worker processes, which open the
# store anew. For training at the disk's speed use `stages.features.cached.CachedSource`, which reads ahead without
# processes; this is the short way.

# %%
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from cache import ArraySpec, FeatureStore
from diffps.datasets.tables import read_annotations, read_scenes


class StoredFeatures(Dataset):
    """Scenes of one split: arrays by name (C, H, W) float32, boxes (n, 4) in the frame, identities (n,), -1 nobody."""

    def __init__(self, store: FeatureStore, arrays: list[ArraySpec], index: Path, split: str) -> None:
        self.names = [spec.name for spec in arrays]
        self.scenes = read_scenes(index, split)
        self.annotations = read_annotations(index)
        images = [(scene.scene_id, scene.digest) for scene in self.scenes]
        self.reader = store.reader(arrays, images=images)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: int) -> dict[str, torch.Tensor]:
        scene = self.scenes[number].scene_id
        said = self.annotations[scene]
        features = {name: torch.from_numpy(self.reader.read_float(scene, name)).permute(2, 0, 1) for name in self.names}
        return {**features, "boxes": torch.from_numpy(said.boxes), "identities": torch.from_numpy(said.identities)}


# %%
store = FeatureStore(Path("data/features"))
arrays = [spec for spec in store.arrays() if spec.path.startswith("train/identity") and "-self-k@" in spec.path][:1]
data = StoredFeatures(store, arrays, Path("data/index"), "train")
{name: tuple(tensor.shape) for name, tensor in data[0].items()}

# %% [markdown]
# Scenes have different numbers of boxes, so batches stay lists.

# %%
loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=list)
batch = next(iter(loader))
len(batch), torch.stack([sample[data.names[0]] for sample in batch]).shape
