"""Small stores for tests: features are a function of an image's content, so whoever writes them writes the same."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cache import ArraySpec, FeatureStore, GroupKey, fingerprint, fit_basis, parse_encoding, tap_name
from cache.encodings import Project
from cache.lock import StoreLock

PASS = {"unet": "1234", "prompt": "person"}
SHAPE = (20, 18, 12)  # 360 positions: a whole block of scales and a part of one
ENCODINGS = ("float16", "int8", "bitround:6", "project:4", "float32")


def group(view: str = "identity", recipe: dict[str, Any] | None = None, split: str = "train") -> GroupKey:
    return GroupKey(split, view, fingerprint(recipe or PASS), 0)


def spec(
    encoding: str = "int8",
    tap: str = "tap",
    shape: tuple[int, int, int] = SHAPE,
    recipe: dict[str, Any] | None = None,
    key: GroupKey | None = None,
) -> ArraySpec:
    parsed = parse_encoding(encoding)
    if isinstance(parsed, Project):
        samples = np.random.default_rng(0).normal(size=(64, shape[2]))
        parsed = Project(parsed.k, fit_basis(samples, parsed.k))
    own = {"pass": recipe or PASS, "tap": tap}
    return ArraySpec(key or group(recipe=recipe), tap_name(tap, parsed), shape, parsed, own)


def digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()


def images(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [(f"folder/{i:03}.jpg", digest(f"content {i}")) for i in range(start, start + count)]


def feature(of: str, array: ArraySpec) -> NDArray[np.float32]:
    """The feature of the image with this digest."""
    seed = np.frombuffer(hashlib.sha256((of + array.name.partition("@")[0]).encode()).digest(), np.uint32)
    return np.random.default_rng(seed).normal(size=array.shape).astype(np.float32)


def write(
    store: FeatureStore,
    specs: Sequence[ArraySpec],
    rows: Sequence[tuple[str, str]],
    shard: int = 4,
    unreadable: Iterable[str] = (),
) -> list[int]:
    """What a stage does; returns the shards that had to be computed."""
    skipped = set(unreadable)
    with store.writer(specs, rows, shard=shard) as writer:
        tasks = writer.pending()
        for task in tasks:
            with writer.shard(task) as sink:
                for scene, content in zip(task.scene_ids, task.digests, strict=True):
                    if scene in skipped:
                        sink.skip("truncated JPEG")
                    else:
                        sink.append({array.name: feature(content, array) for array in task.specs})
        return [task.shard for task in tasks]


def expected(of: str, array: ArraySpec) -> NDArray[np.float32]:
    """What reading gives back."""
    return array.encoding.decode(array.encoding.encode(feature(of, array)[None]))[0]


def check(store: FeatureStore, specs: Sequence[ArraySpec], rows: Sequence[tuple[str, str]]) -> None:
    """Every image of every array reads as what was written."""
    reader = store.reader(specs)
    for scene, content in rows:
        for array in specs:
            np.testing.assert_array_equal(reader.read_float(scene, array.name), expected(content, array))


def tree(root: Path) -> dict[str, bytes]:
    """Content of every file of the store but receipts (they hold times), locks and its own id."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in ("receipts", "locks", "tmp", "store.json")
    }


def as_first_version(store: FeatureStore) -> None:
    """Turn a store into what the first version wrote: no id, no digests in its own files, no names in receipts."""
    import json

    import pyarrow.parquet as pq

    (store.root / "store.json").unlink()
    for path in (store.root / "rows").glob("*.parquet"):
        pq.write_table(pq.read_table(path), path)
    for path in (store.root / "receipts").rglob("*.json"):
        receipt = json.loads(path.read_text())
        del receipt["seal"], receipt["names"]
        path.write_text(json.dumps(receipt, indent=1, sort_keys=True) + "\n")


def pretend(path: Path, silent: float = 0.0, **changes: object) -> None:
    """A lock file somebody else left."""
    with StoreLock(path):
        owner = json.loads(path.read_text())
    path.write_text(json.dumps(owner | changes))
    os.utime(path, (time.time() - silent,) * 2)


def record_synced(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Files and folders from now on, in the order in which they are synced."""
    synced, real = list[Path](), os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("this system does not say what a descriptor is of")
    monkeypatch.setattr(os, "fsync", fsync)
    return synced
