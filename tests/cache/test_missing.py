"""Who has nothing to add needs no lock and no right to write."""

import errno
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cache import ArraySpec, FeatureStore, GroupKey
from cache.errors import FileError, NotCachedError, RecipeError
from cache.ring import read_ahead
from cache.traces import find_traces
from cache.verify import verify
from tests.cache.builders import check, digest, expected, group, images, spec, tree, write
from tests.faults import shim

SPECS = [spec("int8"), spec("project:4", tap="other")]
ROWS = images(10)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS)
    return store


STATES: list[tuple[list[ArraySpec], list[tuple[str, str]]]] = [
    (SPECS, ROWS),
    (SPECS[:1], ROWS[3:7]),
    (SPECS, images(15)),
    (SPECS, [(ROWS[5][0], digest("edited")), *ROWS[:5]]),
    ([*SPECS, spec("float16")], ROWS),
    ([spec(key=group(view="hflip"))], ROWS[:5]),
    (SPECS, [(f"moved/{scene}", content) for scene, content in ROWS]),
]


@pytest.mark.parametrize(("specs", "rows"), STATES)
def test_it_is_what_the_writer_then_finds(
    store: FeatureStore, specs: list[ArraySpec], rows: list[tuple[str, str]]
) -> None:
    before = tree(store.root)
    found = store.missing(specs, rows, shard=4)
    assert tree(store.root) == before
    with store.writer(specs, rows, shard=4) as writer:
        assert tuple(writer.pending()) == found.tasks
        assert found.images == sum(len(task.rows) for task in writer.pending())
    assert (found.nothing and not found.names) == (tree(store.root) == before and not found.tasks)
    write(store, specs, rows)
    done = store.missing(specs, rows)
    assert done.nothing
    assert not done.names


def test_of_a_store_that_is_not_there_everything_is_missing(tmp_path: Path) -> None:
    found = FeatureStore(tmp_path / "none").missing(SPECS, ROWS, shard=4)
    assert (found.images, len(found.tasks), found.metadata, found.names) == (10, 3, True, True)
    assert sum(count for _, count in found.arrays) == 20
    assert not (tmp_path / "none").exists()


def test_lost_metadata_and_groups_are_missing(store: FeatureStore) -> None:
    folder = store.root / "features.zarr" / SPECS[0].path
    for lost in (folder / "zarr.json", folder.parent / "zarr.json", folder.parent / "other@project:4.basis/c/0/0"):
        content = lost.read_bytes()
        lost.unlink()
        assert not store.missing(SPECS, ROWS).nothing
        write(store, SPECS, ROWS)
        assert lost.read_bytes() == content
        assert store.missing(SPECS, ROWS).nothing


def test_what_was_skipped_and_can_be_read_now_is_missing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, SPECS, ROWS, unreadable=[ROWS[5][0]])
    assert store.missing(SPECS, ROWS).nothing
    found = store.missing(SPECS, ROWS, readable=lambda scene: scene == ROWS[5][0])
    assert [task.shard for task in found.tasks] == [1]


def test_another_recipe_is_refused(store: FeatureStore) -> None:
    with pytest.raises(RecipeError, match="holds another recipe"):
        store.missing([spec(recipe={"unet": "other"}, key=group())], ROWS)


def use(store: FeatureStore) -> None:
    """All that can be done without adding anything."""
    assert store.missing(SPECS, ROWS).nothing
    check(store, SPECS, ROWS)
    assert store.status()[0].images == 10
    assert verify(store.root, store.arrays()) == []
    assert len(store.check(store.root / "manifests/x.json", store.root / "manifests")) == 2
    store.write_manifest(store.root / "manifests/x.json", SPECS, {"train": ROWS})  # which says this already
    assert find_traces(store.root, "train", scene_ids=[ROWS[0][0]]).nbytes > 0
    assert [found.images for found in store.datasets()] == [10]


READ_ONLY = """
import errno, sys
from pathlib import Path
from cache import FeatureStore
from tests.cache.test_missing import use
from tests.faults.shim import Faults
faults, store = Faults(), FeatureStore(Path(sys.argv[1]))
for call in ("create", "mkdir", "rename", "unlink", "touch", "flock", "fsync", "write"):
    faults.arm(call, errno.EROFS, f"{store.root}*", lasting=True)
    use(store)
    assert faults.disarm() == 0, call
"""


def test_looking_and_reading_writes_and_locks_nothing(store: FeatureStore) -> None:
    store.write_manifest(store.root / "manifests/x.json", SPECS, {"train": ROWS}, store.root / "manifests")
    done = shim.run(READ_ONLY, str(store.root))
    assert done.returncode == 0, done.stderr


@pytest.fixture
def read_only(store: FeatureStore, tmp_path: Path) -> Iterator[FeatureStore]:
    """The same store on a file system mounted for reading; needs root."""
    store.write_manifest(store.root / "manifests/x.json", SPECS, {"train": ROWS}, store.root / "manifests")
    mount = tmp_path / "colleague"
    mount.mkdir()
    for command in (["--bind", str(store.root), str(mount)], ["-o", "remount,ro,bind", str(mount)]):
        done = subprocess.run(["mount", *command], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield FeatureStore(mount)
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_colleague_s_store_that_can_only_be_read_serves(read_only: FeatureStore) -> None:
    use(read_only)
    assert not read_only.missing(SPECS, images(11)).nothing
    with pytest.raises(FileError, match=r"colleague/locks/.* read-only; mount it for .*runtime\.store") as refused:
        write(read_only, SPECS, images(11))
    assert refused.value.errno == errno.EROFS


def test_a_colleague_s_store_serves_under_other_names_too(read_only: FeatureStore, tmp_path: Path) -> None:
    """Of another data set, and renamed: content decides."""
    mine = FeatureStore(read_only.root, "mine")
    rows = [(f"mine/{scene}", content) for scene, content in ROWS[2:7]]
    found = mine.missing(SPECS, rows)
    assert (found.nothing, found.names) == (True, True)
    assert not mine.record_names("train", rows)
    reader = pickle.loads(pickle.dumps(mine.reader(SPECS, images=rows)))
    for scene, content in rows:
        np.testing.assert_array_equal(reader.read_float(scene, SPECS[0].name), expected(content, SPECS[0]))
    mine.write_manifest(tmp_path / "mine.json", SPECS, {"train": rows})
    assert len(mine.check(tmp_path / "mine.json")) == 2
    with pytest.raises(NotCachedError, match="not in"):
        reader.read(ROWS[0][0], SPECS[0].name)  # a name that other images have here
    nobody = mine.reader(SPECS, images=[(ROWS[0][0], digest("unknown"))])
    with pytest.raises(NotCachedError, match="not in"):
        nobody.read(ROWS[0][0], SPECS[0].name)


def test_names_are_recorded_where_the_store_can_be_written(store: FeatureStore) -> None:
    mine = FeatureStore(store.root, "mine")
    rows = [(f"mine/{scene}", content) for scene, content in ROWS]
    assert mine.record_names("train", rows)
    assert not mine.missing(SPECS, rows).names
    check(mine, SPECS, rows)
    check(store, SPECS, ROWS)


def test_a_store_path_that_is_a_file_is_named(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "file")
    store.root.touch()
    with pytest.raises(FileError, match=r"/file: cannot be made: there is a file where a folder is to be; move it"):
        write(store, SPECS, ROWS)
    for look in (lambda: store.missing(SPECS, ROWS), store.status):
        with pytest.raises(FileError, match=r"/file.*: part of the path is a file, not a folder; move that file away"):
            look()


def test_many_arrays_need_few_open_files(tmp_path: Path) -> None:
    """Sixty files are written at once where a process may have 64 open."""
    script = (
        "import resource, sys\nresource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from tests.cache.test_missing import fill_many\nfill_many(sys.argv[1])"
    )
    done = shim.run(script, str(tmp_path))
    assert done.returncode == 0, done.stderr


def fill_many(root: str) -> None:
    key = GroupKey("train", "identity", "abc", 0)
    arrays = [spec("int8", tap=f"tap{number}", shape=(4, 4, 3), key=key) for number in range(30)]
    store = FeatureStore(Path(root))
    write(store, arrays, images(5), shard=2)
    check(store, arrays, images(5))
    assert verify(store.root, store.arrays(), threads=8) == []
    batches = [[scene for scene, _ in images(5)]]
    assert len(list(read_ahead(store.reader(arrays), batches, [array.name for array in arrays], threads=8))) == 1
