"""Run the VAE once over every image and keep the moments: whatever is read from the UNet later starts from these."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffps.errors import ConfigError, ImageError
from diffps.geometry import Canvas
from diffps.records import Scene, Split, View
from diffps.taps import LATENT_STRIDE
from stages.index import INDEX_FOLDER
from stages.job import Job, RuntimeConfig
from stages.recipes import MOMENTS
from stages.shards import Group, Place, Row, Skipped, ahead, chunks, padded, write_groups

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from cache import ShardTask
    from diffps.backbone.checkpoint import Checkpoint
    from diffps.backbone.latents import NoiseKey
    from stages.params import Params

WORDS_FILE = Path("data/encode/words.safetensors")
Dtype = Literal["float32", "bfloat16", "float16"]
DECODED_PIXELS = 1 << 21  # canvas pixels the VAE takes at once on a GPU, unless runtime.vae_batch says otherwise


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``encode`` of params.yaml.

    ``checkpoint`` is a folder in diffusers' layout, a hub id (with ``revision``), ``builtin:random`` or
    ``builtin:streets``. ``canvas`` (height, width) in pixels, multiples of 64, is what every image is stretched to.
    ``views``: hflip is made for the train split only. ``words``: whose text embeddings SFAN gets. ``dtype``: what the
    VAE computes in.
    """

    checkpoint: str = "builtin:random"
    revision: str | None = None
    canvas: tuple[int, int] = (1280, 1280)
    views: tuple[View, ...] = ("identity", "hflip")
    words: tuple[str, ...] = ("head", "shirts", "pants", "shoes")
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        Canvas(*self.canvas)
        if "identity" not in self.views or len(set(self.views)) != len(self.views):
            raise ConfigError(f"encode.views {list(self.views)}: expected identity, and hflip at most once")

    @property
    def frame(self) -> Canvas:
        return Canvas(*self.canvas)

    def views_of(self, split: Split) -> tuple[View, ...]:
        """The views of a split that are made: hflip serves training only."""
        return self.views if split == "train" else ("identity",)


def run(params: "Params", job: Job) -> None:
    """Write the words' embeddings, the missing moments and their manifests.

    Raises CheckpointError, ImageError, CacheError; StoppedError when asked to stop, after the shard at hand.
    """
    from cache import FeatureStore
    from diffps.backbone.checkpoint import load_checkpoint
    from diffps.datasets.tables import read_scenes
    from stages.recipes import moments_spec
    from stages.storage import store_root

    config = params.encode
    checkpoint = load_checkpoint(config.checkpoint, config.revision)
    scenes = read_scenes(INDEX_FOLDER)
    write_words(checkpoint, config.words, WORDS_FILE)
    store = FeatureStore(store_root(job))
    groups = []
    by_id = {scene.scene_id: scene for scene in scenes}
    readable = cache(lambda scene_id: is_readable(Path(params.index.root), by_id[scene_id]))
    for split in splits(scenes):
        images = [(scene.scene_id, scene.digest) for scene in scenes if scene.split == split]
        for view in config.views_of(split):
            specs = [moments_spec(config, checkpoint, split, view)]
            manifests = {moments_manifest(store.root, split, view): specs}
            groups.append(Group(Place(split, view), specs, images, manifests, readable))
    write_groups("encode", store, groups, lambda: LatentComputer(params, job.runtime), params, job)


def dry_run(params: "Params", job: Job) -> str:
    """What would be read and written."""
    from diffps.datasets.tables import read_scenes
    from stages.storage import size

    config = params.encode
    scenes = read_scenes(INDEX_FOLDER)
    count = sum(len(config.views_of(scene.split)) for scene in scenes)
    height, width = config.canvas
    nbytes = height // LATENT_STRIDE * (width // LATENT_STRIDE) * 8 * 4
    return (
        f"encode: {len(scenes)} images, {count} with views, by {config.checkpoint} on {height} x {width} "
        f"-> moments, {size(count * nbytes)} where none lie yet; {WORDS_FILE} ({', '.join(config.words)})"
    )


class LatentComputer:
    """The VAE on its device: shards of moments from image files."""

    def __init__(self, params: "Params", runtime: RuntimeConfig) -> None:
        from diffps.backbone.checkpoint import load_checkpoint
        from diffps.backbone.frozen import torch_dtype
        from diffps.backbone.latents import LatentEncoder
        from diffps.datasets.tables import read_scenes
        from stages.devices import choose_device

        config = params.encode
        self.device = choose_device(runtime)
        self._config, self._runtime, self._root = config, runtime, Path(params.index.root)
        self._scenes = {scene.scene_id: scene for scene in read_scenes(INDEX_FOLDER)}
        checkpoint = load_checkpoint(config.checkpoint, config.revision)
        self._encoder = LatentEncoder(checkpoint.load_vae(torch_dtype(config.dtype)), self.device)
        self.batch = runtime.vae_batch or vae_batch(config.frame, self.device.type)

    def rows(self, place: Place, task: "ShardTask") -> Iterator[Row]:
        """One row of {"moments": (h, w, 8)} per image of the shard, in order."""
        for item in self.moments([(scene_id, place.view) for scene_id in task.scene_ids]):
            yield item if isinstance(item, Skipped) else {MOMENTS: item}

    def moments(self, images: Sequence[tuple[str, View]]) -> "Iterator[NDArray[Any] | Skipped]":
        """Moments (h, w, 8) float32 of each (scene id, view), in order. Raises ImageError unless it may be skipped."""
        decoded = ahead(self._load, images, threads=2, depth=2 * self.batch)
        for chunk in chunks(decoded, self.batch):
            pixels = padded([item for item in chunk if not isinstance(item, Skipped)], self.batch)
            computed = iter(() if pixels is None else self._encoder.moments(pixels).cpu().numpy())
            for item in chunk:
                yield item if isinstance(item, Skipped) else next(computed)

    def key(self, image: tuple[str, View]) -> "NoiseKey":
        """What the random numbers of an image depend on."""
        from diffps.backbone.latents import NoiseKey

        return NoiseKey(self._scenes[image[0]].digest, image[1])

    def _load(self, image: tuple[str, View]) -> "Tensor | Skipped":
        from diffps.images import load_scene, to_canvas_tensor

        scene = self._scenes[image[0]]
        try:
            pixels = load_scene(self._root / scene.path, scene.digest)
        except ImageError as error:
            if not self._runtime.skip_unreadable:
                raise ImageError(f"{error} (runtime.skip_unreadable: true goes on without it)") from error
            return Skipped(str(error))
        return to_canvas_tensor(pixels, self._config.frame, image[1])


def is_readable(root: Path, scene: Scene) -> bool:
    """Whether a scene's file below ``root`` can be decoded now and is the one that was indexed."""
    from diffps.images import load_scene

    try:
        load_scene(root / scene.path, scene.digest)
    except ImageError:
        return False
    return True


def vae_batch(frame: Canvas, device: str) -> int:
    """Images the VAE takes at once: fewer than the UNet, whose activations are half as large."""
    return 1 if device == "cpu" else max(1, DECODED_PIXELS // (frame.height * frame.width))


def splits(scenes: Sequence[Scene]) -> list[Split]:
    """The splits that have images, train first."""
    known: tuple[Split, Split] = ("train", "test")
    return [split for split in known if any(scene.split == split for scene in scenes)]


def moments_manifest(root: Path, split: Split, view: View) -> Path:
    """Where the manifest of a split's moments lies."""
    return root / "manifests" / "encode" / split / f"{view}.json"


def write_words(checkpoint: "Checkpoint", words: Sequence[str], path: Path) -> None:
    """Embed ``words``, each as a prompt of its own, into a safetensors file: ``embeddings`` (W, D) float32."""
    import json

    from safetensors.torch import save

    from diffps.backbone.prompts import PromptEncoder

    embeddings = PromptEncoder(checkpoint).word_embeddings(words)
    data = save({"embeddings": embeddings}, {"words": json.dumps(list(words))})
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    partial.replace(path)
