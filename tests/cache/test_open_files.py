"""Whatever is done with a store, and however it ends, no file stays open."""

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from cache import CacheError, FeatureStore
from cache.budget import measure_disk
from cache.files import write_folder
from cache.forget import forget
from cache.garbage import find_garbage, remove
from cache.traces import find_traces
from cache.verify import verify
from tests.cache.builders import images, spec, write

SPECS = [spec("int8"), spec("bitround:6", tap="other"), spec("project:4"), spec("float32", tap="map")]
ROWS = images(6)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS, unreadable=[ROWS[4][0]])
    store.write_manifest(tmp_path / "x.json", SPECS, {"train": ROWS})
    return store


def read(store: FeatureStore, room: int) -> None:
    reader = store.reader(SPECS, room=room)
    for scene, _ in ROWS:
        for array in SPECS:
            with suppress(CacheError):
                reader.read(scene, array.name)


def no_flock(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOSYS, "no flock")


ACTIONS: dict[str, Callable[[FeatureStore], object]] = {
    "write": lambda store: write(store, SPECS, images(8, start=1)),
    "read": lambda store: read(store, 1 << 40),
    "read directly": lambda store: read(store, 0),
    "verify": lambda store: verify(store.root, store.arrays()),
    "look": lambda store: (store.status(), store.missing(SPECS, ROWS), store.check(store.root.parent / "x.json")),
    "trace": lambda store: find_traces(store.root, "train", scene_ids=[ROWS[1][0]]),
    "forget": lambda store: forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[1][0]])),
    "collect": lambda store: remove(store.root, find_garbage(store.root, {(SPECS[0].path, SPECS[0].id)})),
    "measure": lambda store: measure_disk(store.root, 1 << 20),
    "replace": lambda store: write_folder(store.root / "manifests", lambda path: (path / "x").touch()),
}


def opened() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def whole(store: FeatureStore) -> None: ...


def flipped(store: FeatureStore) -> None:
    for path in (path for path in (store.root / "features.zarr").rglob("0") if path.is_file()):
        data = bytearray(path.read_bytes())
        data[3] ^= 1
        path.write_bytes(data)


def without_index(store: FeatureStore) -> None:
    for path in (path for path in (store.root / "features.zarr").rglob("0") if path.is_file()):
        os.truncate(path, path.stat().st_size - 9)


@pytest.mark.parametrize("damage", [whole, flipped, without_index])
@pytest.mark.parametrize("flock", [fcntl.flock, no_flock])
def test_no_file_stays_open(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[FeatureStore], None],
    flock: Any,
) -> None:  # fmt: skip
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not list a process's files")
    monkeypatch.setattr(fcntl, "flock", flock)
    damage(store)
    for name, action in ACTIONS.items():
        case = FeatureStore(Path(shutil.copytree(store.root, tmp_path / name / "features")))
        shutil.copy(tmp_path / "x.json", tmp_path / name)
        before = opened()
        with suppress(*([] if damage is whole else [CacheError])):
            action(case)
        assert opened() == before, name
