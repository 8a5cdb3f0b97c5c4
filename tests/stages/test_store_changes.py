"""Images that come, go, move and change names, and a disk that fills up: what extraction then does, and what not."""

import contextlib
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from cache import FeatureStore, ShardTask
from cache.errors import NotCachedError, RecipeError, StoreFullError
from cache.verify import verify
from diffps.backbone.checkpoint import load_checkpoint
from diffps.datasets.tables import read_annotations, read_scenes
from diffps.errors import DatasetError
from diffps.records import Scene, SearchIndex
from stages import encode, extract
from stages.features.opening import open_store
from stages.features.shards import Computed, Place
from stages.head.identity import head_settings
from stages.places import INDEX
from stages.sweeps.variants import read_variants
from tests.stages.computers import Changed, extract_by
from tests.world import FLOAT16, KEPT, STORE, Listener, Project, files_below, rewrite_index


def index_of(scenes: Iterable[Scene], was: dict[str, str] | None = None) -> None:
    """Write an index of ``scenes`` alone; ``was``: new scene id -> the one that annotations know."""
    scenes, known = tuple(scenes), read_annotations(INDEX)
    names = was or {}
    annotations = {scene.scene_id: known[names.get(scene.scene_id, scene.scene_id)] for scene in scenes}
    report = {"dataset": "streets"}
    index = SearchIndex(scenes=scenes, annotations=annotations, queries=(), galleries=(), report=report)
    rewrite_index(index)


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


def shards(names: Iterable[str]) -> set[tuple[str, str]]:
    """(split, shard) of the shard files among ``names``."""
    return {(name.split("/")[0], name.split("/c/")[1].split("/")[0]) for name in names if "/c/" in name}


class Counting(Changed):
    """Counts the images that it computes, however often it is made."""

    images = 0

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        for row in super().rows(place, task):
            Counting.images += 1
            yield row


def test_five_images_added_and_one_replaced(small: Project) -> None:
    """Shards hold three images: of train only shard 0 is there at first, of test both."""
    scenes = read_scenes(INDEX)
    train, test = ([scene for scene in scenes if scene.split == split] for split in ("train", "test"))
    shutil.rmtree(STORE)
    photographs = Path(small.params().index.root)
    index_of([*train, *test])
    everything = Path("all")
    shutil.copytree("data/index", everything)
    index_of([*train[:3], *test])
    small.run(encode)
    small.run(extract, extract=FLOAT16)
    before = small.files()

    replaced = test[4]
    Image.new("RGB", (replaced.width, replaced.height), "teal").save(photographs / replaced.path)
    shutil.rmtree("data/index")
    shutil.copytree(everything, "data/index")
    after = replace(replaced, digest=hashlib.sha256((photographs / replaced.path).read_bytes()).hexdigest())
    index_of([*train, *(after if scene is replaced else scene for scene in test)])
    small.run(encode)
    Counting.images = 0
    extract_by(small, Counting.make, extract=FLOAT16)
    files = {name for name in changed(before, small.files()) if not name.endswith("zarr.json")}
    assert shards(files) == {("train", "1"), ("train", "2"), ("test", "1")}
    # Five of train in both views; the test shard is written whole.
    assert Counting.images == 2 * 5 + 3
    assert verify(STORE, open_store(str(STORE)).arrays()) == []


def test_moved_renamed_or_shuffled_images_are_known_again(small: Project) -> None:
    scenes = read_scenes(INDEX)
    before = small.files()
    Path("elsewhere").mkdir()
    shutil.move(small.params().index.root, "elsewhere/photographs")
    names = {f"new-{number}.jpg": scene.scene_id for number, scene in enumerate(scenes)}
    for name, scene in zip(names, scenes, strict=True):
        (Path("elsewhere/photographs") / scene.path).rename(Path("elsewhere/photographs") / name)
    renamed = [replace(scene, scene_id=name, path=name) for name, scene in zip(names, scenes, strict=True)]
    index_of(reversed(renamed), names)
    where = {"index": {"root": "elsewhere/photographs"}}
    job = Listener()
    small.run(encode, extract, job=job, extract=FLOAT16, **where)
    assert job.lines == ["encode: nothing is missing", "extract: nothing is missing"]
    assert small.files() == before
    reader = open_store(str(STORE))
    assert set(names) <= set(reader.rows("train").scenes) | set(reader.rows("test").scenes)


def opened(small: Project, **sections: Any) -> None:
    with small.source(extract=FLOAT16, **sections):
        pass


def features_of(small: Project, scene: Scene) -> Any:
    name = KEPT[1]
    with small.source(extract=FLOAT16) as source:
        (found,) = source.stream([[(scene.scene_id, "identity")]], [name])
    return found[name].values


def test_images_that_swapped_their_names_are_read_by_content(small: Project) -> None:
    """Else heads would learn one image's boxes on the other's pixels."""
    scenes = list(read_scenes(INDEX))
    assert scenes[0].split == scenes[1].split == "train"
    before = [features_of(small, scene) for scene in scenes[:2]]
    assert not np.array_equal(*before)
    scenes[:2] = [
        replace(scenes[0], digest=scenes[1].digest, path=scenes[1].path),
        replace(scenes[1], digest=scenes[0].digest, path=scenes[0].path),
    ]
    index_of(scenes)
    after = [features_of(small, scene) for scene in scenes[:2]]
    np.testing.assert_array_equal(after[0], before[1])
    np.testing.assert_array_equal(after[1], before[0])


def test_features_of_changed_images_are_refused_until_they_are_extracted(small: Project) -> None:
    """Heads would learn today's boxes on yesterday's pictures."""
    opened(small)
    scenes = list(read_scenes(INDEX))
    photograph = Path(small.params().index.root) / scenes[0].path
    Image.new("RGB", (scenes[0].width, scenes[0].height), "teal").save(photograph)
    scenes[0] = replace(scenes[0], digest=hashlib.sha256(photograph.read_bytes()).hexdigest())
    index_of(scenes)
    with pytest.raises(NotCachedError, match=f"{scenes[0].scene_id}.*added or changed since"):
        opened(small)
    small.run(encode)
    small.run(extract, extract=FLOAT16)
    opened(small)


def test_features_of_other_weights_are_refused(small: Project) -> None:
    with pytest.raises(RecipeError, match=r"encode.checkpoint: .*builtin:streets.* != .*builtin:random"):
        opened(small, encode={"checkpoint": "builtin:streets"})
    with pytest.raises(RecipeError, match="run `diffps extract`, which computes nothing"):
        opened(small, encode={"checkpoint": "not here"})


def test_the_same_weights_under_another_name_are_the_same_to_stores_heads_and_sweeps(small: Project) -> None:
    shutil.copytree(load_checkpoint("builtin:random").folder, "same weights")
    elsewhere = {"encode": {"checkpoint": "same weights"}}
    opened(small, **elsewhere)

    def identities(**sections: Any) -> tuple[Any, list[Path]]:
        params = small.params(extract=FLOAT16, **sections)
        settings = head_settings(params.train, params.encode, params.extract)
        return settings, [variant.folder for variant in read_variants(params)]

    before, heads = small.files(), identities()
    assert identities(**elsewhere) == heads
    small.run(encode, **elsewhere)
    small.run(extract, extract=FLOAT16, **elsewhere)
    assert small.files() == before
    assert identities(**elsewhere) == heads
    # Other weights under the same name are noticed by who reads, and are others once extract has seen them.
    path = Path("same weights/unet/diffusion_pytorch_model.safetensors")
    tensors = load_file(path)
    save_file({**tensors, "conv_in.bias": tensors["conv_in.bias"] + 1}, path)
    with pytest.raises(
        RecipeError, match=r"made by other weights than lie at same weights now \(unet: .*diffps extract"
    ):
        opened(small, **elsewhere)
    small.run(extract, extract=FLOAT16, **elsewhere)
    assert small.files() != before
    assert identities(**elsewhere) != heads


def test_without_a_training_split_bases_are_fitted_on_what_there_is(small: Project) -> None:
    shutil.rmtree(STORE)
    index_of([scene for scene in read_scenes(INDEX) if scene.split == "test"])
    small.run(encode)
    small.run(extract, extract={"encoding": "project:4"})
    assert {array.group.split for array in open_store(str(STORE)).arrays()} == {"test"}
    with pytest.raises(DatasetError, match="no image of the train split, which is to be read"):
        opened(small)
    assert verify(STORE, open_store(str(STORE)).arrays()) == []


@pytest.fixture
def small_disk(small: Project) -> Iterator[Path]:
    """The store's folder as a disk of its own of four megabytes, without features."""
    shutil.rmtree(STORE)
    STORE.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(STORE.resolve())]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield STORE
    finally:
        subprocess.run(["umount", str(STORE.resolve())], check=True)


def fill(disk: Path) -> None:
    """Take what is free, once the first shard is there: it is written beside the computation."""
    for _ in range(1000):
        if any((disk / "receipts").rglob("t0/*.json")):
            break
        time.sleep(0.01)
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as taken:
        while taken.write(bytes(4096)):
            pass


class Filling(Changed):
    """From the second shard on somebody else takes what is free, also what the writer gives back."""

    done = 0

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        for row in super().rows(place, task):
            self.done += 1
            if self.done > 3:
                fill(STORE)
            yield row


def test_a_disk_that_fills_up_during_extraction(small: Project, extracted: Path, small_disk: Path) -> None:
    small.run(encode)
    with pytest.raises(StoreFullError, match="disk full.*same command again"):
        extract_by(small, Filling.make, extract=FLOAT16)
    kept = list((small_disk / "receipts").rglob("t0/*.json"))
    assert kept
    (small_disk / "filler").unlink()
    small.run(extract, extract=FLOAT16)
    assert all(path.is_file() for path in kept)
    assert small.files() == files_below(extracted / STORE / "features.zarr")
    assert verify(small_disk, FeatureStore(small_disk).arrays()) == []


def test_files_that_may_not_grow_stop_extraction_by_name(small: Project, extracted: Path) -> None:
    """The nearest to a full disk that needs no privileges."""
    resource = pytest.importorskip("resource")
    shutil.rmtree(STORE)
    small.run(encode)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, before[1]))  # metadata and receipts pass, shards of a tap do not
    try:
        with pytest.raises(StoreFullError, match="disk full.*same command again"):
            small.run(extract, extract=FLOAT16)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    small.run(extract, extract=FLOAT16)
    assert small.files() == files_below(extracted / STORE / "features.zarr")
