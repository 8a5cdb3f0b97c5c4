"""What is wrong with a store's files, in exact words, and whose images it concerns."""

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore
from cache import verify as verifying
from cache.checksum import crc32c
from cache.receipts import ReceiptBook
from cache.shards import ABSENT, index_bytes
from cache.verify import Damage, verify, withdraw
from tests.cache.builders import group, images, spec, write

SPECS = [spec("int8"), spec("float16", tap="other")]
ROWS = images(6)
SCENES = tuple(scene for scene, _ in ROWS)
CHUNK = 20 * 18 * 12 * 2 + 4  # of other@float16, with its checksum


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "features")
    write(store, SPECS, ROWS, unreadable=[SCENES[1]])
    return store


def shard(store: FeatureStore, number: int = 0) -> Path:
    return store.root / "features.zarr" / SPECS[1].path / f"c/{number}/0/0/0"


def indexed(path: Path, slot: int, offset: int, size: int) -> None:
    """Another index, whole in itself."""
    data = path.read_bytes()
    table = np.frombuffer(data[-index_bytes(4) : -4], "<u8").reshape(4, 2).copy()
    table[slot] = offset, size
    path.write_bytes(data[: -index_bytes(4)] + table.tobytes() + crc32c(table).to_bytes(4, "little"))


def flipped(path: Path, at: int) -> str:
    data = bytearray(path.read_bytes())
    told = int.from_bytes(data[CHUNK - 4 : CHUNK], "little")
    data[at] ^= 1
    path.write_bytes(data)
    found, says = crc32c(bytes(data[: CHUNK - 4])), int.from_bytes(data[CHUNK - 4 : CHUNK], "little")
    return f"checksum {found:08x}, file says {says:08x}, receipt {told:08x}"


def one(store: FeatureStore) -> Damage:
    (damage,) = verify(store.root, store.arrays())
    assert damage.spec == SPECS[1]
    return damage


WRONG: list[tuple[Callable[[Path], object], str, tuple[str, ...]]] = [
    (Path.unlink, "missing", SCENES[:4]),
    (lambda path: os.truncate(path, 100), f"100 bytes instead of {3 * CHUNK + 68}", SCENES[:4]),
    (lambda path: indexed(path, 1, 0, CHUNK), "holds a skipped image", SCENES[1:2]),
    (lambda path: indexed(path, 2, ABSENT, ABSENT), "absent from the index", SCENES[2:3]),
    (lambda path: indexed(path, 3, 2 * CHUNK + 69, CHUNK), "absent from the index", SCENES[3:4]),
]


@pytest.mark.parametrize(("change", "what", "scenes"), WRONG)
def test_a_shard_s_damage_is_told_by_the_images_it_concerns(
    store: FeatureStore, change: Callable[[Path], object], what: str, scenes: tuple[str, ...]
) -> None:
    change(shard(store))
    assert one(store) == Damage(spec=SPECS[1], shard=0, file=shard(store), scene_ids=scenes, what=what)


@pytest.mark.parametrize("at", [0, CHUNK - 5, CHUNK - 4, CHUNK - 1])
def test_what_differs_is_said_in_numbers(store: FeatureStore, at: int) -> None:
    what = flipped(shard(store), at)
    assert one(store) == Damage(spec=SPECS[1], shard=0, file=shard(store), scene_ids=SCENES[:1], what=what)


def test_a_chunk_may_end_where_its_file_does(store: FeatureStore) -> None:
    """It is not said to be absent then: it is another."""
    indexed(shard(store), 3, 2 * CHUNK + 68, CHUNK)
    assert one(store).what.startswith("checksum ")
    data = bytearray(shard(store, 1).read_bytes())
    data[-20] ^= 1
    shard(store, 1).write_bytes(data)
    assert [(damage.shard, damage.what) for damage in verify(store.root, SPECS)][-1] == (
        1, "the index does not match its checksum",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("call", "what"), [("open", "cannot be opened (broken)"), ("fstat", "cannot be read (broken)")]
)
def test_what_the_system_refuses_is_damage(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, call: str, what: str
) -> None:
    real, status = getattr(os, call), shard(store).stat()

    def refuse(target: object, *rest: object) -> object:
        if target == shard(store) or (call == "fstat" and real(target).st_ino == status.st_ino):
            raise OSError(errno.EIO, "broken")
        return real(target, *rest)

    monkeypatch.setattr(os, call, refuse)
    assert one(store) == Damage(spec=SPECS[1], shard=0, file=shard(store), scene_ids=SCENES[:4], what=what)


@pytest.mark.parametrize("piece", [7, 1000, CHUNK - 5, CHUNK - 4, CHUNK])
def test_chunks_are_summed_up_in_pieces(store: FeatureStore, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    monkeypatch.setattr(verifying, "PIECE", piece)
    assert verify(store.root, SPECS[1:]) == []
    flipped(shard(store), CHUNK - 5)
    assert one(store).scene_ids == SCENES[:1]


def test_a_file_that_ends_while_it_is_read_is_damaged(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda *arguments: 0)
    found = verify(store.root, SPECS[1:])
    assert [damage.scene_ids for damage in found] == [(scene,) for scene in SCENES if scene != SCENES[1]]


def test_progress_is_told_in_bytes_of_every_file(store: FeatureStore) -> None:
    told = list[int]()
    assert verify(store.root, SPECS, progress=told.append, threads=1) == []
    files = [path for path in (store.root / "features.zarr").rglob("0") if path.is_file()]
    assert sorted(told) == sorted(path.stat().st_size for path in files)
    for number in (0, 1):
        shard(store, number).unlink()
    assert [damage.file for damage in verify(store.root, SPECS)] == [shard(store), shard(store, 1)]


def test_metadata_is_held_to_what_the_store_writes(store: FeatureStore) -> None:
    for suffix, array in (("", SPECS[1]), (".scales", SPECS[0])):
        path = store.root / "features.zarr" / (array.path + suffix) / "zarr.json"
        whole = path.read_text()
        for content, what in (
            (None, "missing"),
            ("{}", "is no array's metadata"),
            (json.dumps(json.loads(whole) | {"fill_value": 7}), "is not the metadata this store writes"),
        ):
            path.unlink() if content is None else path.write_text(content)
            assert verify(store.root, SPECS) == [Damage(spec=array, shard=None, file=path, scene_ids=(), what=what)]
        path.write_text(whole)
    assert verify(store.root, SPECS) == []


def test_a_receipt_of_another_recipe_is_told(store: FeatureStore) -> None:
    other = replace(SPECS[1], recipe={"another": 1})
    found = [damage for damage in verify(store.root, [other]) if damage.shard == 0]
    what = f"receipt of another recipe ({SPECS[1].id}, not {other.id})"
    assert found == [Damage(spec=other, shard=0, file=shard(store), scene_ids=SCENES[:4], what=what)]


def test_an_image_without_a_name_is_told_by_its_row(store: FeatureStore) -> None:
    store.rows("train").assign([(SCENES[0], "edited"), (SCENES[2], "edited too")])
    store.rows("train").forget([0])
    flipped(shard(store), 0)
    assert one(store).scene_ids == ("row 0",)


def test_receipts_are_taken_back_shard_by_shard_and_array_by_array(store: FeatureStore) -> None:
    mirrored = spec(key=group(view="hflip"), recipe={"view": "hflip"})
    write(store, [mirrored], ROWS)
    sound = Damage(spec=SPECS[0], shard=0, file=Path("x"), scene_ids=(), what="")
    damages = [sound, replace(sound, spec=SPECS[1]), replace(sound, spec=SPECS[1], shard=1)]
    assert withdraw(store.root, []) == 0
    assert withdraw(store.root, [replace(sound, shard=None)]) == 0
    assert withdraw(store.root, [*damages, replace(sound, spec=mirrored, shard=1)]) == 3
    book, other = ReceiptBook.of(store.root, SPECS[0].group), ReceiptBook.of(store.root, mirrored.group)
    kept = [[book.find(number, array.name) is not None for array in SPECS] for number in (0, 1)]
    assert kept == [[False, False], [True, False]]
    assert other.shards == [0]
