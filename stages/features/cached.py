"""Features from the store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from cache import ArraySpec, FeatureStore, explain_difference
from cache.errors import NotCachedError, RecipeError
from cache.ring import read_ahead
from diffps.features import Feature, FeatureShape, Ref
from diffps.records import Scene, Split
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.reading import Reading
from stages.features.recipes import shown_recipe, start_of
from stages.features.stored import feature_of, torch_basis
from stages.places import EXTRACTED

RING_DEPTH = 3  # batches read ahead


class CachedSource:
    """The features that ``reading`` names of ``scenes``, all of one split; needs neither checkpoint nor images.

    The store is compared with its manifests first. Raises NotCachedError naming what is missing or what changed since
    it was extracted, DamagedError where the store is not what its manifests say.
    """

    def __init__(
        self,
        reading: Reading,
        split: Split,
        store: FeatureStore,
        scenes: Sequence[Scene],
        *,
        threads: int | None = None,
    ) -> None:
        self._scenes = scenes
        self._stored = {name: reading.stored(name) for name in reading.names}
        self.manifests: dict[Path, ArraySpec] = {}
        views: dict[str, list[ArraySpec]] = {}
        for view, _, manifest in reading.manifests(split):
            (self.manifests[manifest],) = store.check(manifest, EXTRACTED)
            views.setdefault(view, []).append(self.manifests[manifest])
        images = [(scene.scene_id, scene.digest) for scene in scenes]
        self._reader = store.reader(views, images=images)
        self._require(views)
        self._threads = threads
        self._specs = {name: self._reader.spec(stored, "identity") for name, stored in self._stored.items()}
        self._bases = {name: torch_basis(spec) for name, spec in self._specs.items()}

    def _require(self, views: Iterable[str]) -> None:
        name = next(iter(self._stored.values()))
        for scene in self._scenes:
            try:
                for view in views:
                    self._reader.has((scene.scene_id, view), name)
            except NotCachedError:
                raise NotCachedError(
                    f"{scene.scene_id}: added or changed since it was extracted; run `diffps extract` first"
                ) from None

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*spec.shape) for name, spec in self._specs.items()}

    @property
    def recipe(self) -> dict[str, Any]:
        return shown_recipe(self._specs.values())

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        """See FeatureSource. Raises SkippedImage for an image that could not be read when its shard was written."""
        stored = [self._stored[name] for name in names]
        pin = torch.cuda.is_available()
        ring = read_ahead(
            self._reader, batches, stored, threads=self._threads, depth=RING_DEPTH, output="stored", pin=pin
        )
        for slot in ring:
            yield {
                name: feature_of(slot.values[array], slot.scales.get(array), self._bases[name])
                for name, array in zip(names, stored, strict=True)
            }

    def skipped(self) -> frozenset[str]:
        """Scenes that could not be read when their shards were written (``runtime.skip_unreadable``)."""
        stored = next(iter(self._stored.values()))
        names = (scene.scene_id for scene in self._scenes)
        return frozenset(name for name in names if not self._reader.has((name, "identity"), stored))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def check_made_under(encode: EncodeConfig, extract: ExtractConfig, spec: ArraySpec, manifest: Path) -> None:
    """Raises RecipeError where an array was made under other parameters than these; without looking at weights."""
    recipe: Any = spec.recipe["pass"]
    start = start_of(recipe)
    given: dict[str, Any] = {
        "prompt": extract.prompt,
        "latent_rule": extract.latent,
        "noise": extract.noise,
        "dtype": extract.dtype,
        "seed": extract.seed,
    }
    given_start: dict[str, Any] = {"canvas": list(encode.canvas), "dtype": encode.dtype}
    # A recipe holds what its prior has a use for.
    found = {name: recipe[name] for name in given if name in recipe}
    found |= {f"encode.{name}": start[name] for name in given_start if name in start}
    expected = given | {f"encode.{name}": value for name, value in given_start.items()}
    differing = explain_difference({name: expected[name] for name in found}, found)
    if differing:
        raise RecipeError(f"{manifest}: made under other params ({'; '.join(differing)}); run `diffps extract`")
