# %% [markdown]
# # Features in three lines
#
# From a project's folder, after `diffps extract`. An array is named by its path: split, view, id of the pass, timestep,
# tap and encoding. `diffps cache status` lists them.

# %%
from pathlib import Path

from cache import FeatureStore
from diffps.datasets.tables import read_scenes

store = FeatureStore(Path("data/features"))
arrays = [spec for spec in store.arrays() if spec.group.split == "train" and "-self-k@" in spec.path]
[spec.path for spec in arrays][:3]

# %% [markdown]
# The three lines, with scenes found by their content. Every checksum is verified; scales and principal channels are
# applied.

# %%
spec = arrays[0]
scenes = [(scene.scene_id, scene.digest) for scene in read_scenes(Path("data/index"), "train")]
reader = store.reader([spec], images=scenes)
feature = reader.read_float(scenes[0][0], spec.name)
feature.shape, feature.dtype

# %% [markdown]
# ## Any Zarr reader
#
# The store is an ordinary Zarr v3 group. Read so, nobody checks receipts: a row without one may hold nothing yet, and
# int8 has to be multiplied by its scales, one for each channel of 256 consecutive positions.

# %%
import numpy as np
import xarray
import zarr

group = zarr.open_group("data/features/features.zarr", mode="r")
values = group[spec.path]
row = xarray.DataArray(values[0], dims=("y", "x", "channel"), name=spec.name)
scaled = f"{spec.path}.scales" in group
if scaled:
    positions = row.sizes["y"] * row.sizes["x"]
    scales = np.repeat(group[f"{spec.path}.scales"][0].astype(np.float32), 256, axis=0)[:positions]
    row = row.astype(np.float32) * scales.reshape(row.shape)
row.sizes
