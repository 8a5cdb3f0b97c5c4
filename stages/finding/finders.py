"""Who is in the pictures of a folder: through the backbone, or through the store where features are to be kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from cache import FeatureStore
from cache.forget import forget
from cache.ring import read_ahead
from cache.traces import find_removed
from diffps.errors import ImageError
from diffps.features import expand_once
from diffps.geometry import Canvas
from diffps.images import canvas_tensor
from diffps.names import from_text
from diffps.records import Scene
from stages.config_data import EncodeConfig, ExtractConfig
from stages.devices import choose_device
from stages.features.backbone import LatentComputer, PassComputer
from stages.features.batches import ahead, chunks
from stages.features.complete import write_missing
from stages.features.plan import PassPlan
from stages.features.shards import Place, Work
from stages.features.stored import feature_of, torch_basis
from stages.finding.embedder import BATCH, Embedder, OnCanvas, SearchHead, asked_pass
from stages.finding.folders import FOUND, Found, folder_name
from stages.finding.photos import content_of
from stages.finding.segments import NamedFile
from stages.images import ImageFolder
from stages.job import Job, Runtime
from stages.places import EXTRACTED, store_root
from stages.search.inference import detect_people


class FreshFinder:
    """The pictures of ``folder`` through the backbone of ``embedder``, which is loaded when it is first needed."""

    def __init__(
        self, folder: Path, canvas: Canvas, embedder: Callable[[], Embedder], runtime: Runtime, max_pixels: int
    ) -> None:
        self._folder, self._canvas, self._embedder, self._max_pixels = folder, canvas, embedder, max_pixels
        self._store, self._takeover = photo_store(runtime, folder), runtime.takeover

    def prepare(self, files: Sequence[NamedFile], job: Job) -> None:
        """Forget features that an earlier search kept of pictures that are gone. Raises LockedError."""
        _forget_gone(self._store, files, takeover=self._takeover)

    def find(self, files: Sequence[NamedFile]) -> Iterator[list[Found | ImageError]]:
        """See :class:`Finder`."""
        model = self._embedder()
        for batch in chunks(zip(files, ahead(self._load, files, threads=2, depth=2 * BATCH), strict=True), BATCH):
            readable = [picture for _, picture in batch if isinstance(picture, OnCanvas)]
            people = iter(model.detect(readable, FOUND))
            yield [
                picture if isinstance(picture, ImageError) else (file, picture.size, next(people))
                for file, picture in batch
            ]

    def _load(self, file: NamedFile) -> OnCanvas | ImageError:
        path = self._folder / from_text(file.name)
        try:
            _, size = content_of(path, self._max_pixels)
            pixels = canvas_tensor(path, self._canvas, digest=file.digest, max_pixels=self._max_pixels)
            return OnCanvas(file.digest, size, pixels)
        except ImageError as error:
            return error


class KeptFinder:
    """The pictures of ``folder`` through the store: what it lacks is computed and written, then read by the head.

    Pictures go by their content, so those that an index or another folder brought are there already. Raises what
    :func:`asked_pass` raises.
    """

    def __init__(self, head: SearchHead, folder: Path, runtime: Runtime, max_pixels: int) -> None:
        self._head, self._folder, self._max_pixels = head, folder, max_pixels
        self._runtime = replace(runtime, skip_unreadable=True)  # one torn photograph is no reason to stop
        self._store = photo_store(runtime, folder)
        self._plan, self._specs = asked_pass(head, self._store)

    def prepare(self, files: Sequence[NamedFile], job: Job) -> None:
        """Complete their features and forget others'. Raises StoreFullError before anything is computed, LockedError,
        StoppedError."""
        _forget_gone(self._store, files, takeover=self._runtime.takeover)
        images = ImageFolder(self._folder, self._max_pixels)
        # Of a scene its content alone counts here: sizes are looked up where boxes are.
        scenes = {
            file.name: Scene(scene_id=file.name, split="test", path=file.name, width=0, height=0, digest=file.digest)
            for file in files
        }
        work = Work(
            Place("test", "identity", self._head.reading.timestep),
            list(self._specs.values()),
            _contents(files),
            EXTRACTED,
            {},
            lambda name: images.is_readable(scenes[name]),
        )
        computer = partial(_computer, self._plan.encode, self._plan.extract, images, tuple(scenes.values()))
        write_missing("search", self._store, [work], computer, self._runtime, job)

    @torch.no_grad()
    def find(self, files: Sequence[NamedFile]) -> Iterator[list[Found | ImageError]]:
        """See :class:`stages.finding.folders.Finder`."""
        device = choose_device(self._runtime)
        searcher = self._head.searcher.to(device).eval()
        reader = self._store.reader(list(self._specs.values()), images=_contents(files))
        bases = {name: torch_basis(spec) for name, spec in self._specs.items()}
        arrays = {name: spec.name for name, spec in self._specs.items()}
        first = next(iter(arrays.values()))
        batches = list(chunks(files, BATCH))
        readable = [[file for file in batch if reader.has(file.name, first)] for batch in batches]
        names = [[file.name for file in batch] for batch in readable]
        slots = read_ahead(reader, names, list(arrays.values()), threads=self._runtime.reading_threads, output="stored")
        for batch, known, slot in zip(batches, readable, slots, strict=True):
            sizes = [content_of(self._path(file), self._max_pixels)[1] for file in known]
            features = {
                name: expand_once(feature_of(slot.values[array], slot.scales.get(array), bases[name]), None, device)
                for name, array in arrays.items()
            }
            people = detect_people(searcher, features, sizes, FOUND) if known else []
            found = {file.name: (file, size, who) for file, size, who in zip(known, sizes, people, strict=True)}
            yield [
                found.get(file.name)
                or ImageError(f"{self._path(file)}: cannot be decoded, or changes while it is read")
                for file in batch
            ]

    def _path(self, file: NamedFile) -> Path:
        return self._folder / from_text(file.name)


def photo_store(runtime: Runtime, folder: Path) -> FeatureStore:
    """The store as a searched folder sees it: names are those of its files."""
    return FeatureStore(store_root(runtime.store), f"searched {folder_name(folder)}")


def _contents(files: Sequence[NamedFile]) -> list[tuple[str, str]]:
    return [(file.name, file.digest) for file in files]


def _computer(
    encode: EncodeConfig, extract: ExtractConfig, images: ImageFolder, scenes: Sequence[Scene], runtime: Runtime
) -> PassComputer:
    plan = PassPlan(encode, extract, FeatureStore(store_root(runtime.store)))
    return PassComputer(plan, runtime, LatentComputer(plan.prior, encode, images, scenes, runtime))


def _forget_gone(store: FeatureStore, files: Sequence[NamedFile], *, takeover: bool) -> None:
    """Take out of the store what ``store.dataset`` alone has names for, and is not among ``files``."""
    table = store.rows("test")
    own = {row for row, names in table.called().items() if any(name.dataset == store.dataset for name in names)}
    if own:
        others = {digest for row, digest in enumerate(table.digests) if row not in own}
        kept = others | {file.digest for file in files}
        forget(store.root, find_removed(store.root, "test", kept, store.dataset), takeover=takeover)
