"""Bytes of features: of everything a store will keep, and of what a head reads of an image."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from cache import ArraySpec, GroupKey, parse_encoding, tap_name
from cache.budget import Budget, PlannedArray
from cache.encodings import Float32
from diffps.backbone.prior import check_pass
from diffps.backbone.published import published_models
from diffps.datasets.tables import read_scenes
from diffps.errors import CheckpointError, DatasetError
from diffps.features import FeatureShape
from diffps.records import Split
from diffps.taps import LATENT_STRIDE, FeatureName, TapSpec, tap_kind
from stages.config_data import EncodeConfig, ExtractConfig, IndexConfig
from stages.features.priors import prior_of
from stages.features.reading import Reading, stored_map
from stages.features.recipes import MOMENTS
from stages.places import INDEX
from stages.together import index_folder, json_content

# For planning before the data is here.
PUBLISHED: dict[str, dict[Split, int]] = {
    "prw": {"train": 5704, "test": 6112},
    "cuhk-sysu": {"train": 11206, "test": 6978},
}


class Sizes(NamedTuple):
    """Taps of a prior and channels of its latents, None where it has none; from config files alone."""

    taps: Mapping[str, TapSpec]
    latent_channels: int | None


def sizes_of(encode: EncodeConfig, extract: ExtractConfig) -> Sizes:
    """Sizes of the prior. Raises CheckpointError where it is not here, UnknownTapError for a tap it lacks."""
    prior = prior_of(encode, extract.unet)
    check_pass(prior, encode.canvas, extract.taps, extract.timesteps, extract.conditions)
    return Sizes(prior.taps, prior.latent_channels)


def sizes_or_standard(encode: EncodeConfig, extract: ExtractConfig) -> Sizes:
    """:func:`sizes_of`; where the checkpoint is not here yet, those of the published model that has the taps. A folder
    that is not here is not fetched for it."""
    try:
        return sizes_of(replace(encode, hub=None), extract)
    except CheckpointError:
        known = next((model for model in published_models() if set(extract.taps) <= model.taps.keys()), None)
        if known is None or not encode.is_diffusion:
            raise
        return Sizes(*known)


def image_counts(config: IndexConfig) -> dict[Split, int]:
    """Images per split: of the index if it is this dataset's, else what is drawn or published. Raises DatasetError."""
    if config.dataset == "streets":
        return {"train": config.streets.train_scenes, "test": config.streets.test_scenes}
    report = INDEX / "report.json"
    if report.is_file() and json_content(report, "index").get("dataset") == config.dataset:
        counts: dict[Split, int] = {}
        for scene in read_scenes(index_folder()):
            counts[scene.split] = counts.get(scene.split, 0) + 1
        return counts
    if config.dataset not in PUBLISHED:
        raise DatasetError(f"index.dataset {config.dataset}: its size is known once `diffps index` has run")
    return PUBLISHED[config.dataset]


def budget(
    counts: Mapping[Split, int], encode: EncodeConfig, extract: ExtractConfig, shard: int, sizes: Sizes
) -> Budget:
    """Everything encode and extract keep of ``counts`` images per split."""
    arrays = []
    for split, images in counts.items():
        for view in encode.views_of(split):
            if sizes.latent_channels is not None:
                latent = GroupKey(split, view, "latent")
                arrays.append(PlannedArray(moments_array(encode, sizes.latent_channels, latent), images))
            for timestep in extract.timesteps:
                group = GroupKey(split, view, "pass", timestep)
                arrays += [PlannedArray(spec, images) for spec in _pass_arrays(encode, extract, sizes, group)]
    return Budget(arrays=arrays, shard=shard)


def moments_only(planned: Budget) -> Budget:
    """What encode writes of it."""
    return replace(planned, arrays=[array for array in planned.arrays if array.spec.group.timestep is None])


def passes_only(planned: Budget) -> Budget:
    """What extract writes of it."""
    return replace(planned, arrays=[array for array in planned.arrays if array.spec.group.timestep is not None])


def moments_array(encode: EncodeConfig, latent_channels: int, group: GroupKey) -> ArraySpec:
    """The planned array of moments."""
    height, width = (side // LATENT_STRIDE for side in encode.canvas)
    return ArraySpec(group, MOMENTS, (height, width, 2 * latent_channels), Float32(), {})


def feature_shapes(reading: Reading, encode: EncodeConfig, sizes: Sizes) -> dict[str, FeatureShape]:
    """Grid and channels of every feature read."""
    return {name: _shape(FeatureName.parse(name), encode, sizes) for name in reading.names}


def feature_bytes(reading: Reading, encode: EncodeConfig, sizes: Sizes) -> dict[str, int]:
    """Bytes that lie in the store for one image and view of every feature read."""
    group = GroupKey("train", "identity", "pass", reading.timestep)
    found = {}
    for name in reading.names:
        feature = FeatureName.parse(name)
        encoding = parse_encoding(reading.encoding) if feature.word is None else Float32()
        spec = ArraySpec(group, reading.stored(name), _shape(feature, encode, sizes), encoding, {})
        found[name] = spec.image_bytes
    return found


def _pass_arrays(encode: EncodeConfig, extract: ExtractConfig, sizes: Sizes, group: GroupKey) -> Iterator[ArraySpec]:
    encodings = [parse_encoding(encoding) for encoding in (extract.encoding, *extract.transcode)]
    for tap in extract.taps:
        if tap_kind(tap) == "grid":
            shape = _shape(FeatureName(tap), encode, sizes)
            yield from (ArraySpec(group, tap_name(tap, encoding), shape, encoding, {}) for encoding in encodings)
            continue
        for word in extract.words:
            feature = FeatureName(tap, word)
            name = stored_map(str(feature), extract.head)
            yield ArraySpec(group, name, _shape(feature, encode, sizes), Float32(), {})


def _shape(feature: FeatureName, encode: EncodeConfig, sizes: Sizes) -> FeatureShape:
    tap = sizes.taps[feature.tap]
    height, width = encode.canvas
    return FeatureShape(height // tap.stride, width // tap.stride, tap.channels if feature.word is None else 1)
