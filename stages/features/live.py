"""Features computed now."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from cache import Encoded, SkippedImage
from diffps.features import Feature, FeatureShape, Ref
from diffps.records import Scene, Split
from stages.features.backbone import LatentComputer, PassRunner, unet_batch
from stages.features.bases import basis_sample, fit_bases
from stages.features.batches import ahead
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.features.recipes import shown_recipe
from stages.features.shards import Skipped
from stages.features.stored import joined_feature, torch_basis
from stages.images import ImageFolder
from stages.job import Runtime


class LiveSource:
    """The features that ``reading`` names of the ``split`` of ``scenes``, computed now from the files of ``images``.

    What is computed goes through the store's encoding, in batches of the size that extraction uses: equal to the cached
    source bit by bit on the same device with the same ``runtime.batch``; else within rounding.
    """

    def __init__(
        self,
        reading: Reading,
        split: Split,
        plan: PassPlan,
        scenes: Sequence[Scene],
        images: ImageFolder,
        runtime: Runtime,
    ) -> None:
        self._timestep, self._images = reading.timestep, images
        self._scenes = [scene for scene in scenes if scene.split == split]
        self._skip_unreadable = runtime.skip_unreadable
        self._latents = LatentComputer(plan.prior, plan.encode, images, scenes, runtime)
        device = self._latents.device
        self._runner = PassRunner(plan, device, runtime.compile)
        self._batch = unet_batch(runtime, device.type)
        if plan.unfitted([self._timestep]):
            sample = [Ref(scene.scene_id) for scene in basis_sample(scenes, plan.extract.seed)]
            usable = [image for image in self._latents.keyed(sample) if not isinstance(image, Skipped)]
            fit_bases(plan, self._runner.features, usable, [self._timestep], self._batch)
        specs = plan.specs(split, "identity", self._timestep)
        self._specs = {name: specs[name] for name in reading.names}
        self._bases = {name: torch_basis(spec) for name, spec in self._specs.items()}

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*spec.shape) for name, spec in self._specs.items()}

    @property
    def recipe(self) -> dict[str, Any]:
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
                yield {name: joined_feature([row[name] for row in rows], self._bases[name]) for name in names}

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
        """Scenes whose files cannot be read now; none looked for without ``runtime.skip_unreadable``."""
        if not self._skip_unreadable:
            return frozenset()
        readable = ahead(self._images.is_readable, self._scenes, threads=2, depth=2 * self._batch)
        pairs = zip(self._scenes, readable, strict=True)
        return frozenset(scene.scene_id for scene, whole in pairs if not whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.close()

    def _compute(self, refs: Sequence[Ref], names: Sequence[str]) -> Iterator[dict[str, Encoded]]:
        images = []
        for ref, image in zip(refs, self._latents.keyed(refs), strict=True):
            if isinstance(image, Skipped):
                raise SkippedImage(f"scene {ref.scene_id!r}: {image.reason}")
            images.append(image)
        for features in self._runner.features(images, self._timestep, self._batch):
            yield {name: self._specs[name].encoding.encode(features[name][None]) for name in names}
