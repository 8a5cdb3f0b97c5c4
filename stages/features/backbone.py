"""A prior on its device, an image at a time or a shard at a time: what passes start from, and the pass."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from cache import ShardTask, SkippedImage
from diffps.backbone.latents import NoiseKey
from diffps.backbone.prior import Prior
from diffps.datasets.tables import read_scenes
from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.records import Scene, Split, View
from stages.config_data import EncodeConfig, ExtractConfig
from stages.devices import choose_device
from stages.features.bases import Keyed, basis_sample, fit_bases
from stages.features.batches import ahead, chunks, padded
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.priors import prior_of
from stages.features.recipes import MOMENTS
from stages.features.shards import Computed, Place, Skipped
from stages.images import ImageFolder
from stages.job import Runtime
from stages.together import index_folder

DECODED_PIXELS = 1 << 21  # canvas pixels the VAE takes at once on a GPU, unless runtime.vae_batch says otherwise
CPU_BATCH = 4  # 1.45 times the images per second of one by one on two cores; more gives nothing


def latent_computer(encode: EncodeConfig, images: ImageFolder, runtime: Runtime) -> "LatentComputer":
    """The VAE of ``encode`` over the indexed scenes, whose files are ``images``."""
    return LatentComputer(prior_of(encode), encode, images, read_scenes(index_folder()), runtime)


def pass_computer(
    encode: EncodeConfig, extract: ExtractConfig, images: ImageFolder, runtime: Runtime
) -> "PassComputer":
    """The pass over the moments in the store of ``runtime``, or over the indexed scenes, whose files are ``images``."""
    plan = PassPlan(encode, extract, open_store(runtime.store))
    if plan.prior.latent_channels is None:
        return PassComputer(
            plan, runtime, LatentComputer(plan.prior, encode, images, read_scenes(index_folder()), runtime)
        )
    return PassComputer(plan, runtime)


class LatentComputer:
    """The first half of ``prior`` on its device: moments from image files, or the canvases where it has no VAE."""

    def __init__(
        self, prior: Prior, encode: EncodeConfig, images: ImageFolder, scenes: Iterable[Scene], runtime: Runtime
    ) -> None:
        self.device = choose_device(runtime)
        self._frame, self._skip, self._images = encode.frame, runtime.skip_unreadable, images
        self._scenes = {scene.scene_id: scene for scene in scenes}
        self._encoder = prior.open_encoder(self.device, encode.dtype)
        self.batch = runtime.vae_batch or vae_batch(encode.frame, self.device.type)

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        """One {"moments": (h, w, 8)} per image of the shard, in order."""
        for item in self.moments([(scene_id, place.view) for scene_id in task.scene_ids]):
            yield item if isinstance(item, Skipped) else {MOMENTS: item}

    def moments(self, images: Sequence[tuple[str, View]]) -> Iterator[NDArray[Any] | Skipped]:
        """Moments (h, w, c) float32 of each (scene id, view), in order. Raises ImageError unless it may be skipped."""
        decoded = ahead(self._load, images, threads=2, depth=2 * self.batch)
        for chunk in chunks(decoded, self.batch):
            pixels = padded([item for item in chunk if not isinstance(item, Skipped)], self.batch)
            computed = iter(() if pixels is None else self._encoder.moments(pixels).cpu().numpy())
            for item in chunk:
                yield item if isinstance(item, Skipped) else next(computed)

    def keyed(self, images: Sequence[tuple[str, View]]) -> Iterator[Keyed | Skipped]:
        """The same with the key that an image's random numbers depend on."""
        for (scene_id, view), moments in zip(images, self.moments(images), strict=True):
            key = NoiseKey(self._scenes[scene_id].digest, view)
            yield moments if isinstance(moments, Skipped) else (key, moments)

    def _load(self, image: tuple[str, View]) -> Tensor | Skipped:
        scene = self._scenes[image[0]]
        try:
            return self._images.on_canvas(scene, self._frame, image[1])
        except ImageError as error:
            if not self._skip:
                raise ImageError(f"{error} (runtime.skip_unreadable: true goes on without it)") from error
            return Skipped(str(error))


class PassRunner:
    """The model of a pass on its device."""

    def __init__(self, plan: PassPlan, device: torch.device, compiled: bool = False) -> None:
        extract = plan.extract
        opened = plan.prior.open_pass(extract.taps, extract.conditions, device, extract.dtype, compiled=compiled)
        self._stack = ExitStack()
        self._pass = self._stack.enter_context(opened)

    def close(self) -> None:
        """Take the hooks off the model."""
        self._stack.close()

    def tensors(self, images: Sequence[Keyed], timestep: int, batch: int) -> dict[str, Tensor]:
        """Features of up to ``batch`` images in one forward of ``batch`` places: {name: (images, H, W, C)}.

        They are on the device, in the model's dtype, maps in float32; empty where there are no images.
        """
        moments = padded([torch.from_numpy(value) for _, value in images], batch)
        if moments is None:
            return {}
        keys = [key for key, _ in images] + [NoiseKey("", "identity")] * (batch - len(images))
        found = self._pass.features(moments, timestep, keys)
        return {name: value[: len(images)] for name, value in found.items()}

    def features(self, images: Sequence[Keyed], timestep: int, batch: int) -> Iterator[dict[str, NDArray[Any]]]:
        """The same for each image, {name: (H, W, C)}: float32, or float16 when the model computes in half precision."""
        arrays = {name: _numpy(value) for name, value in self.tensors(images, timestep, batch).items()}
        for row in range(len(images)):
            yield {name: value[row] for name, value in arrays.items()}


class PassComputer:
    """A pass on its device: taps and maps from stored moments, or from ``images`` where the prior has no VAE."""

    def __init__(self, plan: PassPlan, runtime: Runtime, images: LatentComputer | None = None) -> None:
        device = choose_device(runtime)
        self.batch = unet_batch(runtime, device.type)
        self._plan, self._images = plan, images
        self._runner = PassRunner(plan, device, runtime.compile)

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        """One {array name: (H, W, C)} per image of the shard, in order."""
        timestep = place.timestep
        assert timestep is not None, "a pass has a timestep"
        names = {spec.name: name for name, spec in self._plan.specs(place.split, place.view, timestep).items()}
        wanted = {spec.name: names[spec.name] for spec in task.specs}
        images = self._starts(place.split, place.view, list(zip(task.scene_ids, task.digests, strict=True)))
        for chunk in chunks(images, self.batch):
            present = [item for item in chunk if not isinstance(item, Skipped)]
            computed = self._runner.features(present, timestep, self.batch)
            for item in chunk:
                if isinstance(item, Skipped):
                    yield item
                else:
                    features = next(computed)
                    yield {array: features[name] for array, name in wanted.items()}

    def fit(self, scenes: Sequence[Scene]) -> None:
        """Fit the bases that ``project:k`` lacks on a seeded sample of ``scenes``."""
        sample = basis_sample(scenes, self._plan.extract.seed)
        images = [(scene.scene_id, scene.digest) for scene in sample]
        starts = self._starts(sample[0].split, "identity", images)
        usable = [item for item in starts if not isinstance(item, Skipped)]
        fit_bases(self._plan, self._runner.features, usable, self._plan.extract.timesteps, self.batch)

    def _starts(self, split: Split, view: View, images: Sequence[tuple[str, str]]) -> Iterator[Keyed | Skipped]:
        if self._images is not None:
            return self._images.keyed([(scene_id, view) for scene_id, _ in images])
        spec = self._plan.moments(split, view)
        images = list(images)
        reader = self._plan.store.reader([spec], images=images)

        def load(image: tuple[str, str]) -> Keyed | Skipped:
            scene_id, digest = image
            try:
                return NoiseKey(digest, view), reader.read_float(scene_id, spec.name)
            except SkippedImage as error:
                return Skipped(str(error))

        return ahead(load, images, threads=1, depth=2 * self.batch)


def vae_batch(frame: Canvas, device: str) -> int:
    """Images the VAE takes at once: fewer than the UNet, whose activations are half as large."""
    return 1 if device == "cpu" else max(1, DECODED_PIXELS // (frame.height * frame.width))


def unet_batch(runtime: Runtime, device: str) -> int:
    """Images the UNet takes at once, to begin with: halved where they do not fit."""
    return runtime.batch or (CPU_BATCH if device == "cpu" else runtime.shard)


def _numpy(value: Tensor) -> NDArray[Any]:
    # The store has no bfloat16; what overflows float16 becomes infinite and is refused there.
    value = value.half() if value.dtype == torch.bfloat16 else value
    return value.contiguous().cpu().numpy()
