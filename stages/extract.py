"""Run the frozen UNet once over every image's latents and keep the taps and maps that were asked for."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffps.errors import ConfigError
from diffps.records import Split, View
from diffps.taps import check_taps, map_name, standard_taps
from stages.encode import Dtype, splits
from stages.files import write_json
from stages.index import INDEX_FOLDER
from stages.job import Job, RuntimeConfig
from stages.recipes import stored_map
from stages.shards import Group, Place, Row, Skipped, ahead, chunks, write_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cache import FeatureStore, ShardTask
    from diffps.backbone.latents import NoiseKey
    from diffps.records import Scene
    from stages.params import Params
    from stages.passes import Pass

LAST_TIMESTEP = 999
BASIS_IMAGES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``extract`` of params.yaml: one pass of the UNet, called ``name``, and what is kept of it.

    ``unet`` names other UNet weights than the checkpoint's (CleanDIFT). ``words`` are words or phrases of ``prompt``;
    every cross-attention map in ``taps`` is kept for each, of ``head`` (the mean, or an index: an array of its own).
    ``latent`` takes the VAE posterior's mean or a sample; ``noise`` none feeds the clean latent. ``encoding`` is that
    of taps: float16, int8, bitround:n or project:k; maps are kept as they are.
    """

    name: str = "base"
    unet: str | None = None
    prompt: str = "person"
    words: tuple[str, ...] = ("person",)
    head: Literal["mean"] | int = "mean"
    timesteps: tuple[int, ...] = (0,)
    taps: tuple[str, ...] = ()
    latent: Literal["mean", "sample"] = "mean"
    noise: Literal["seeded", "none"] = "seeded"
    seed: int = 0
    encoding: str = "int8"
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        check_taps(self.taps)
        for tap in self.taps:
            kind = standard_taps()[tap].kind
            if kind == "text":
                raise ConfigError(f"extract.taps {tap}: the same for every image, so not stored")
            if kind == "self-map":
                raise ConfigError(f"extract.taps {tap}: positions x positions per image, so not stored")
            if kind == "cross-map" and not self.words:
                raise ConfigError(f"extract.taps {tap}: a map is kept per word; extract.words is empty")
        for field in ("taps", "timesteps", "words"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"extract.{field}: {list(values)} names something twice")
        for timestep in self.timesteps:
            if not 0 <= timestep <= LAST_TIMESTEP:
                raise ConfigError(f"extract.timesteps {timestep}: UNet timesteps are 0 to {LAST_TIMESTEP}")
        if not self.taps or not self.timesteps:
            raise ConfigError("extract: taps and timesteps must not be empty")

    @property
    def names(self) -> tuple[str, ...]:
        """What heads can ask for: grid taps by id, maps as ``<tap>.<word>``."""
        table = standard_taps()
        grids = [tap for tap in self.taps if table[tap].kind == "grid"]
        maps = [map_name(tap, word) for tap in self.taps if table[tap].kind != "grid" for word in self.words]
        return (*grids, *maps)


def run(params: "Params", job: Job) -> None:
    """Write the missing taps and maps, their manifests, and what train and evaluate read.

    Raises CheckpointError, PromptError, UnknownTapError, CacheError; StoppedError when asked to stop, after the shard
    at hand.
    """
    from cache import FeatureStore
    from diffps.datasets.tables import read_scenes
    from stages.passes import Pass
    from stages.storage import store_root

    scenes = read_scenes(INDEX_FOLDER)
    store = FeatureStore(store_root(job))
    setting = Pass(params, store.root)
    make_computer = cache(lambda: PassComputer(params, job.runtime, store, setting))
    if setting.unfitted(*params.extract.timesteps):
        job.say(f"extract: fitting the bases of {params.extract.encoding} on at most {BASIS_IMAGES} images")
        make_computer().fit(scenes)
    write_groups("extract", store, extraction_groups(setting, scenes), make_computer, params, job)
    if recorded_checkpoint(store.root, params.extract.name) != checkpoint_named(params):
        write_json(checkpoint_record(store.root, params.extract.name), checkpoint_named(params))
    write_inputs(params, store, setting, scenes)


def dry_run(params: "Params", job: Job) -> str:
    """What would be read and written."""
    from stages.storage import budget, size

    config = params.extract
    planned = budget(params)
    passes = replace(planned, arrays=[array for array in planned.arrays if array.spec.group.timestep is not None])
    return (
        f"extract {config.name}: {len(config.taps)} taps and maps at t = {', '.join(map(str, config.timesteps))} under "
        f"{config.prompt!r} as {config.encoding} -> {size(passes.nbytes)} in {passes.files} files where none lie yet; "
        "`diffps cache plan` has the hours"
    )


def extraction_groups(setting: "Pass", scenes: "Sequence[Scene]") -> list[Group]:
    """What a pass writes over ``scenes``: a group for every split, view and timestep."""
    params, groups = setting.params, list[Group]()
    for split in splits(scenes):
        images = [(scene.scene_id, scene.digest) for scene in scenes if scene.split == split]
        for view in params.encode.views_of(split):
            readable = _has_moments(setting, split, view)
            for timestep in params.extract.timesteps:
                specs = setting.specs(split, view, timestep)
                folder = manifest_folder(setting.root, split, view, params.extract.name, timestep)
                manifests = {folder / f"{spec.name}.json": [spec] for spec in specs.values()}
                groups.append(Group(Place(split, view, timestep), list(specs.values()), images, manifests, readable))
    return groups


def _has_moments(setting: "Pass", split: Split, view: View) -> Callable[[str], bool]:
    """Whether a scene's moments are stored; the store is opened when first asked."""
    from cache import CacheError, FeatureStore
    from stages.recipes import moments_spec

    spec = moments_spec(setting.params.encode, setting.checkpoint, split, view)
    reader = cache(lambda: FeatureStore(setting.root).reader([spec]))

    def has(scene_id: str) -> bool:
        try:
            return reader().has(scene_id, spec.name)
        except CacheError:
            return False

    return has


def basis_sample(scenes: "Sequence[Scene]", seed: int) -> "list[Scene]":
    """The scenes that the basis of ``project:k`` is fitted on: of the training split, or of the only one there is."""
    import numpy as np

    train = [scene for scene in scenes if scene.split == "train"] or list(scenes)
    chosen = np.random.default_rng(seed).permutation(len(train))[:BASIS_IMAGES]
    return [train[row] for row in sorted(chosen.tolist())]


def stored_name(name: str, encoding: str, head: int | str) -> str:
    """Array of the store that holds what heads call ``name``, under ``extract.encoding`` and ``extract.head``."""
    return f"{name}@{encoding}" if name in standard_taps() else stored_map(name, head)


def views_read(params: "Params", split: Split) -> tuple[View, ...]:
    """The views a head is fed: mirrored ones from their own arrays only while training with ``flip: cached``."""
    return ("identity", "hflip") if split == "train" and params.train.flip == "cached" else ("identity",)


def write_inputs(params: "Params", store: "FeatureStore", setting: "Pass", scenes: "Sequence[Scene]") -> None:
    """Write inputs/train.json and inputs/evaluate.json: manifests of exactly the arrays those stages read."""
    timestep = params.train.timestep
    if timestep not in params.extract.timesteps:
        return
    read: dict[str, Split] = {"train": "train", "evaluate": "test"}
    for section, split in read.items():
        images = [(scene.scene_id, scene.digest) for scene in scenes if scene.split == split]
        if images:
            found = [setting.specs(split, view, timestep) for view in views_read(params, split)]
            specs = [specs[name] for specs in found for name in params.train.taps.names]
            store.write_manifest(store.root / "inputs" / f"{section}.json", specs, {split: images})


def manifest_folder(root: Path, split: Split, view: View, name: str, timestep: int) -> Path:
    """Where the manifests of one pass and timestep lie."""
    return root / "manifests" / "extract" / split / view / name / f"t{timestep}"


def checkpoint_record(root: Path, name: str) -> Path:
    """Where it is written which checkpoint a pass was last made with or found complete for."""
    return root / "manifests" / "extract" / "checkpoints" / f"{name}.json"


def recorded_checkpoint(root: Path, name: str) -> dict[str, str | None] | None:
    """What :func:`checkpoint_named` was then; None where nothing is written."""
    path = checkpoint_record(root, name)
    if not path.is_file():
        return None
    found: dict[str, str | None] = json.loads(path.read_text(encoding="utf-8"))
    return found


def checkpoint_named(params: "Params") -> dict[str, str | None]:
    """The weights as params name them. Whether they are those of the store, only their digests can tell."""
    encode = params.encode
    named = {"encode.checkpoint": encode.checkpoint, "encode.revision": encode.revision}
    return {**named, "extract.unet": params.extract.unet}


class PassComputer:
    """The UNet on its device: shards of taps and maps from stored moments."""

    def __init__(self, params: "Params", runtime: RuntimeConfig, store: "FeatureStore", setting: "Pass") -> None:
        from stages.devices import choose_device
        from stages.passes import PassRunner, unet_batch

        device = choose_device(runtime)
        self.batch = unet_batch(runtime, device.type)
        self._runner = PassRunner(setting, device, runtime.compile)
        self._params, self._store, self._setting = params, store, setting

    def rows(self, place: Place, task: "ShardTask") -> Iterator[Row]:
        """One row of {array name: (H, W, C)} per image of the shard, in order."""
        timestep = place.timestep
        assert timestep is not None, "a pass has a timestep"
        names = {spec.name: name for name, spec in self._setting.specs(place.split, place.view, timestep).items()}
        wanted = {spec.name: names[spec.name] for spec in task.specs}
        images = self._moments(place.split, place.view, zip(task.scene_ids, task.digests, strict=True))
        for chunk in chunks(images, self.batch):
            present = [item for item in chunk if not isinstance(item, Skipped)]
            computed = self._runner.features(present, timestep, self.batch)
            for item in chunk:
                if isinstance(item, Skipped):
                    yield item
                else:
                    features = next(computed)
                    yield {array: features[name] for array, name in wanted.items()}

    def fit(self, scenes: "Sequence[Scene]") -> None:
        """Fit what ``project:k`` needs on a seeded sample of ``scenes``."""
        sample = basis_sample(scenes, self._params.extract.seed)
        images = [(scene.scene_id, scene.digest) for scene in sample]
        moments = self._moments(sample[0].split, "identity", images)
        usable = [item for item in moments if not isinstance(item, Skipped)]
        self._setting.fit(self._runner, usable, self._params.extract.timesteps, self.batch)

    def _moments(
        self, split: Split, view: View, images: "Iterable[tuple[str, str]]"
    ) -> "Iterator[tuple[NoiseKey, NDArray[Any]] | Skipped]":
        from cache import SkippedImage
        from diffps.backbone.latents import NoiseKey
        from stages.recipes import moments_spec

        spec = moments_spec(self._params.encode, self._setting.checkpoint, split, view)
        reader = self._store.reader([spec])

        def load(image: tuple[str, str]) -> "tuple[NoiseKey, NDArray[Any]] | Skipped":
            scene_id, digest = image
            try:
                return NoiseKey(digest, view), reader.read_float(scene_id, spec.name)
            except SkippedImage as error:
                return Skipped(str(error))

        return ahead(load, images, threads=1, depth=2 * self.batch)
