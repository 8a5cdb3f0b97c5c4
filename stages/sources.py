"""Where heads get features: from the store, or from the backbone now. Both give the same bytes.

The live source sends what it computes through the store's encoding, in batches of the size that extraction uses.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from cache import ArraySpec, Encoded, FeatureStore, SkippedImage, explain_difference
from cache.encodings import Project
from cache.errors import NotCachedError, RecipeError
from diffps.backbone.latents import NoiseKey
from diffps.datasets.tables import read_scenes
from diffps.errors import DatasetError
from diffps.features import Basis, Feature, FeatureShape, FeatureSource, Ref
from diffps.records import Split
from stages.encode import LatentComputer, is_readable
from stages.extract import (
    basis_sample,
    checkpoint_named,
    checkpoint_record,
    manifest_folder,
    recorded_checkpoint,
    stored_name,
    views_read,
)
from stages.index import INDEX_FOLDER
from stages.job import Job
from stages.passes import Pass, PassRunner, unet_batch
from stages.recipes import shown_recipe
from stages.shards import Skipped, ahead
from stages.storage import store_root

if TYPE_CHECKING:
    from stages.params import Params

RING_DEPTH = 3  # batches read ahead


def open_source(
    params: "Params",
    job: Job,
    *,
    split: Split,
    section: Literal["train", "evaluate"],
    names: Sequence[str] | None = None,
    timestep: int | None = None,
) -> "CachedSource | LiveSource":
    """The source that ``section`` asks for, over the views it needs.

    ``names`` and ``timestep`` default to those of section ``train``. Raises NotCachedError, RecipeError, DamagedError,
    CheckpointError; DatasetError where the index has no image of the split.
    """
    if not read_scenes(INDEX_FOLDER, split):
        raise DatasetError(f"{INDEX_FOLDER}: has no image of the {split} split, which {section} reads")
    wanted = tuple(params.train.taps.names if names is None else names)
    config = params.train if section == "train" else params.evaluate
    if config.source == "live":
        return LiveSource(params, job, split, wanted, timestep)
    return CachedSource(params, job, split, wanted, timestep)


class Source(FeatureSource, Protocol):
    """A source that also says what its features are."""

    @property
    def recipe(self) -> Mapping[str, Any]:
        """What a head trained on these features has to be shown again."""


class CachedSource:
    """Features from the store, which is compared with its manifests first; needs neither checkpoint nor images.

    Raises NotCachedError naming what is missing, RecipeError when the store was filled under other params.
    """

    def __init__(
        self, params: "Params", job: Job, split: Split, names: Sequence[str], timestep: int | None = None
    ) -> None:
        store = FeatureStore(store_root(job))
        self._split: Split = split
        step = params.train.timestep if timestep is None else timestep
        self._stored = {name: stored_name(name, params.extract.encoding, params.extract.head) for name in names}
        views: dict[str, list[ArraySpec]] = {}
        for view in views_read(params, split):
            folder = manifest_folder(store.root, split, view, params.extract.name, step)
            views[view] = []
            for name in self._stored.values():
                manifest = folder / f"{name}.json"
                views[view] += store.check(manifest)
                _compare(params, views[view][-1], manifest)
        _compare_checkpoint(params, store.root)
        _compare_scenes(store, split)
        self._reader = store.reader(views)
        self._threads = job.runtime.readers
        self._specs = {name: self._reader.spec(stored, "identity") for name, stored in self._stored.items()}
        self._bases = {name: _basis(spec) for name, spec in self._specs.items()}

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*spec.shape) for name, spec in self._specs.items()}

    @property
    def recipe(self) -> dict[str, Any]:
        """What a head trained on these features has to be shown again."""
        return shown_recipe(self._specs.values())

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        """See FeatureSource. Raises SkippedImage for an image that could not be read when its shard was written."""
        stored = [self._stored[name] for name in names]
        pin = torch.cuda.is_available()
        ring = self._reader.ring(batches, stored, threads=self._threads, depth=RING_DEPTH, output="stored", pin=pin)
        for slot in ring:
            yield {
                name: _feature(slot.values[array], slot.scales.get(array), self._bases[name])
                for name, array in zip(names, stored, strict=True)
            }

    def skipped(self) -> frozenset[str]:
        """Scenes of the split that could not be read when their shards were written (``runtime.skip_unreadable``)."""
        stored = next(iter(self._stored.values()))
        scenes = (scene.scene_id for scene in read_scenes(INDEX_FOLDER, self._split))
        return frozenset(scene for scene in scenes if not self._reader.has((scene, "identity"), stored))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def skipped_scenes(source: FeatureSource, job: Job) -> frozenset[str]:
    """Scenes to leave out, and says so. With live features every file is decoded once to find them."""
    skipped = source.skipped() if isinstance(source, CachedSource | LiveSource) else frozenset()
    if skipped:
        job.say(f"{len(skipped)} unreadable scenes are left out, as extraction skips them: {sorted(skipped)[0]}, ...")
    return skipped


class LiveSource:
    """Features computed now, from the image files: the same values as the store would give, encoding included.

    Equal to the cached source bit by bit on the same device with the same ``runtime.batch``; else within rounding.
    """

    def __init__(
        self, params: "Params", job: Job, split: Split, names: Sequence[str], timestep: int | None = None
    ) -> None:
        self._timestep = params.train.timestep if timestep is None else timestep
        self._split: Split = split
        self._root, self._skip_unreadable = Path(params.index.root), job.runtime.skip_unreadable
        self._latents = LatentComputer(params, job.runtime)
        device = self._latents.device
        setting = Pass(params, store_root(job))
        self._runner = PassRunner(setting, device, job.runtime.compile)
        self._batch = unet_batch(job.runtime, device.type)
        if setting.unfitted(self._timestep):
            sample = basis_sample(read_scenes(INDEX_FOLDER), params.extract.seed)
            images = self._moments([Ref(scene.scene_id) for scene in sample])
            usable = [image for image in images if not isinstance(image, Skipped)]
            setting.fit(self._runner, usable, [self._timestep], self._batch)
        specs = setting.specs(split, "identity", self._timestep)
        self._specs = {name: specs[name] for name in names}
        self._bases = {name: _basis(spec) for name, spec in self._specs.items()}

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*spec.shape) for name, spec in self._specs.items()}

    @property
    def recipe(self) -> dict[str, Any]:
        """What a head trained on these features has to be shown again."""
        return shown_recipe(self._specs.values())

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        """See FeatureSource. Works ahead so that the UNet's batches are full.

        Raises ImageError for an image that cannot be read, SkippedImage where ``runtime.skip_unreadable`` is on.
        """
        asked: deque[Sequence[Ref]] = deque()
        todo: list[Ref] = []
        done: deque[dict[str, Encoded]] = deque()

        def ready() -> Iterator[Mapping[str, Feature]]:
            while asked and len(done) >= len(asked[0]):
                rows = [done.popleft() for _ in asked.popleft()]
                yield {name: self._join(name, rows) for name in names}

        for batch in batches:
            asked.append(batch)
            todo += batch
            while len(todo) >= self._batch:
                done.extend(self._compute(todo[: self._batch], names))
                del todo[: self._batch]
            yield from ready()
        done.extend(self._compute(todo, names))
        yield from ready()

    def skipped(self) -> frozenset[str]:
        """Scenes of the split whose files cannot be read now; none looked for without ``runtime.skip_unreadable``."""
        if not self._skip_unreadable:
            return frozenset()
        scenes = read_scenes(INDEX_FOLDER, self._split)
        readable = ahead(partial(is_readable, self._root), scenes, threads=2, depth=2 * self._batch)
        return frozenset(scene.scene_id for scene, whole in zip(scenes, readable, strict=True) if not whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    def _compute(self, refs: Sequence[Ref], names: Sequence[str]) -> Iterator[dict[str, Encoded]]:
        images = []
        for ref, image in zip(refs, self._moments(refs), strict=True):
            if isinstance(image, Skipped):
                raise SkippedImage(f"scene {ref.scene_id!r}: {image.reason}")
            images.append(image)
        for features in self._runner.features(images, self._timestep, self._batch):
            yield {name: self._specs[name].encoding.encode(features[name][None]) for name in names}

    def _moments(self, refs: Sequence[Ref]) -> Iterator[tuple[NoiseKey, NDArray[Any]] | Skipped]:
        for ref, moments in zip(refs, self._latents.moments(refs), strict=True):
            yield moments if isinstance(moments, Skipped) else (self._latents.key(ref), moments)

    def _join(self, name: str, rows: Sequence[Mapping[str, Encoded]]) -> Feature:
        values = np.concatenate([row[name].values for row in rows])
        scales = [row[name].scales for row in rows]
        joined = None if scales[0] is None else np.concatenate([part for part in scales if part is not None])
        return _feature(values, joined, self._bases[name])


def _feature(values: NDArray[Any], scales: NDArray[Any] | None, basis: Basis | None) -> Feature:
    return Feature(torch.from_numpy(values), None if scales is None else torch.from_numpy(scales), basis)


def _basis(spec: ArraySpec) -> Basis | None:
    if not isinstance(spec.encoding, Project) or spec.encoding.basis is None:
        return None
    basis = spec.encoding.basis
    return Basis(torch.from_numpy(basis.mean), torch.from_numpy(basis.vectors))


def _compare_checkpoint(params: "Params", root: Path) -> None:
    """Raise RecipeError where params name other weights than extract last did: only it can tell whether they are."""
    recorded = recorded_checkpoint(root, params.extract.name)
    if recorded is None:
        return
    differing = explain_difference(checkpoint_named(params), recorded)
    if differing:
        raise RecipeError(
            f"{checkpoint_record(root, params.extract.name)}: the features were made under other params "
            f"({'; '.join(differing)}); run `diffps extract`, which computes nothing where the weights are the same"
        )


def _compare_scenes(store: FeatureStore, split: Split) -> None:
    """Raise NotCachedError where an image of the index is another than the one that was extracted under its name."""
    rows = store.rows(split)
    for scene in read_scenes(INDEX_FOLDER, split):
        row = rows.scenes.get(scene.scene_id)
        if row is not None and rows.digests[row] != scene.digest:
            raise NotCachedError(
                f"scene {scene.scene_id!r}: changed since it was extracted; run `diffps encode` and `diffps extract`"
            )


def _compare(params: "Params", spec: ArraySpec, manifest: Path) -> None:
    """Raise RecipeError where the array was made under other params than these; without looking at weights."""
    extract = params.extract
    recipe: Any = spec.recipe["pass"]
    expected: dict[str, Any] = {
        "canvas": list(params.encode.canvas),
        "prompt": extract.prompt,
        "latent_rule": extract.latent,
        "noise": extract.noise,
        "dtype": extract.dtype,
    }
    found = {name: recipe["latent"]["canvas"] if name == "canvas" else recipe[name] for name in expected}
    expected["encode.dtype"], found["encode.dtype"] = params.encode.dtype, recipe["latent"]["dtype"]
    if "seed" in recipe:
        expected["seed"], found["seed"] = extract.seed, recipe["seed"]
    if "head" in spec.recipe:
        expected["head"], found["head"] = extract.head, spec.recipe["head"]
    differing = explain_difference(expected, found)
    if differing:
        raise RecipeError(f"{manifest}: made under other params ({'; '.join(differing)}); run `diffps extract`")
