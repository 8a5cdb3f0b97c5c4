"""What is forgotten is nowhere any more, and nothing else has changed."""

import contextlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cache import ArraySpec, CacheError, FeatureStore, GroupKey
from cache.errors import LockedError, NotCachedError
from cache.files import read_json, write_json
from cache.forget import forget
from cache.guard import SILENT_SECONDS
from cache.lock import lock_file
from cache.receipts import Name, ReceiptBook
from cache.traces import find_removed, find_traces
from cache.verify import verify, withdraw
from tests.cache.builders import (
    check,
    digest,
    expected,
    group,
    images,
    pretend,
    record_synced,
    spec,
    tree,
    write,
)

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = replace(spec("float32", key=GroupKey("train", "identity", "abc")), name="moments")
MIRRORED = spec(tap="tap", key=group(view="hflip"), recipe={"view": "hflip"})
TAPS = [spec("int8"), spec("bitround:6", tap="other"), spec("project:4")]
ARRAYS: list[list[ArraySpec]] = [[MOMENTS], TAPS, [MIRRORED]]
ROWS, TEST = images(10), images(4, start=50)
GONE = [ROWS[1], ROWS[2], ROWS[9]]
KEPT = [image for image in ROWS if image not in GONE]
NAMES = [scene for scene, _ in GONE]
RUN = """
import sys
from pathlib import Path
from cache.forget import forget
from cache.traces import find_traces
from tests.cache.test_forget import NAMES
root = Path(sys.argv[1])
print("started", flush=True)
forget(root, find_traces(root, "train", scene_ids=NAMES), manifests=[root.parent / "manifests"])
"""


def fill(root: Path) -> FeatureStore:
    """Ten images in latents, taps under three encodings and a mirrored view, one unreadable, with manifests."""
    store = FeatureStore(root)
    for arrays in ARRAYS:
        write(store, arrays, ROWS, unreadable=[ROWS[2][0]])
        for array in arrays:
            store.write_manifest(root / "manifests" / f"{array.name}.json", [array], {"train": ROWS})
    write(store, [spec(key=group(split="test"))], TEST)
    outside = root.parent / "manifests"
    store.write_manifest(outside / "inputs.json", [a for arrays in ARRAYS for a in arrays], {"train": ROWS}, outside)
    return store


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return fill(tmp_path / "features")


def chunks(store: FeatureStore, rows: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """(array, scene) -> values and scales as they lie in the store."""
    found = {}
    for arrays in ARRAYS:
        reader = store.reader(arrays)
        for array in arrays:
            for scene, _ in rows:
                if reader.has(scene, array.name):
                    values, scales = reader.read(scene, array.name)
                    found[array.path, scene] = values.tobytes() + (b"" if scales is None else scales.tobytes())
    return found


def remembers(root: Path, traces: dict[str, bytes]) -> list[str]:
    """What of some names, digests and chunks is found in any file, or name of a file, below ``root``."""
    found = []
    for path in root.rglob("*"):
        content = str(path).encode() + (path.read_bytes() if path.is_file() else b"")
        found += [f"{path}: {what}" for what, trace in traces.items() if trace in content]
    return found


def test_no_file_knows_them_any_more_and_the_others_are_what_they_were(store: FeatureStore) -> None:
    before, kept = chunks(store, GONE), chunks(store, KEPT)
    root = store.root.parent
    traces = {f"{array}: {scene}": data[:200] for (array, scene), data in before.items() if "bitround" not in array}
    traces |= {scene: scene.encode() for scene in NAMES} | {content: content.encode() for _, content in GONE}
    traces["reason"] = b"truncated JPEG"
    assert {what.partition(": ")[2] for what in remembers(root, traces)} == traces.keys()
    size = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    found = find_traces(store.root, "train", scene_ids=NAMES)
    assert found.arrays.keys() == {array.path for arrays in ARRAYS for array in arrays}
    assert found.fitted == (TAPS[2].path,)
    forget(store.root, found, manifests=[root / "manifests"])
    assert remembers(root, traces) == []
    table = store.rows("train")
    assert [table.digests[row] for row in (1, 2, 9)] == [""] * 3
    assert len(table.digests) == 10
    assert not set(NAMES) & set(table.scenes)
    assert chunks(store, KEPT) == kept
    assert verify(store.root, store.arrays()) == []
    after = sum(path.stat().st_size for path in store.root.rglob("*") if path.is_file())
    assert size - after > 0.9 * found.nbytes
    for manifest in (root / "manifests/inputs.json", *(store.root / "manifests").glob("*.json")):
        store.check(manifest, root / "manifests" if manifest.parent == root / "manifests" else None)
    for arrays in ARRAYS:
        assert write(store, arrays, KEPT) == []
        with pytest.raises(NotCachedError, match="not in"):
            store.reader(arrays).read(NAMES[0], arrays[0].name)


def test_others_see_no_chunk_of_them(store: FeatureStore) -> None:
    import zarr

    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    array = zarr.open_array(str(store.root / "features.zarr" / MOMENTS.path), mode="r")
    assert np.isnan(array[[1, 2, 9]]).all()
    np.testing.assert_array_equal(array[0], expected(ROWS[0][1], MOMENTS))


def test_the_dry_run_says_what_would_go_and_changes_nothing(store: FeatureStore) -> None:
    before = tree(store.root)
    found = find_traces(store.root, "train", scene_ids=NAMES, digests=[digest("unknown")])
    assert found.rows == {1, 2, 9}
    assert {name.scene_id for name in found.names} == set(NAMES)
    assert found.arrays[MOMENTS.path] == 2 * MOMENTS.image_bytes  # one of the three was skipped
    assert found.arrays[spec("int8").path] == 2 * spec("int8").image_bytes
    assert tree(store.root) == before
    nobody = find_traces(store.root, "train", scene_ids=["no such image"], digests=[digest("unknown")])
    assert nobody.nothing
    stamp = (store.root / "rows/train.parquet").stat().st_mtime_ns
    forget(store.root, nobody)
    assert (store.root / "rows/train.parquet").stat().st_mtime_ns == stamp


def test_they_come_back_under_new_rows_as_the_same_bytes(store: FeatureStore) -> None:
    before = chunks(store, GONE)
    forget(store.root, find_traces(store.root, "train", digests=[content for _, content in GONE]))
    for arrays in ARRAYS:
        assert write(store, arrays, ROWS, unreadable=[ROWS[2][0]]) == [2, 3]
    assert [store.rows("train").row(scene) for scene in NAMES] == [10, 11, 12]
    assert chunks(store, GONE) == before
    assert verify(store.root, store.arrays()) == []


def test_a_whole_shard_and_every_image_can_go(store: FeatureStore) -> None:
    forget(store.root, find_traces(store.root, "train", scene_ids=[scene for scene, _ in ROWS]))
    assert not list((store.root / "receipts/train").rglob("*.json"))
    assert not list((store.root / "features.zarr/train").glob("**/c/*/0/0/*"))
    assert [array.path for array in store.arrays()]
    check(store, [spec(key=group(split="test"))], TEST)


def test_content_that_an_edit_left_behind_goes_too(store: FeatureStore) -> None:
    """An image was edited, and only some arrays were written since: the others still hold what it was."""
    edited = [*ROWS[:1], (ROWS[1][0], digest("edited")), *ROWS[2:]]
    old = chunks(store, [ROWS[1]])[MIRRORED.path, ROWS[1][0]]
    write(store, TAPS, edited, unreadable=[ROWS[2][0]])
    assert remembers(store.root, {"old": old[:200]})
    forget(store.root, find_traces(store.root, "train", digests=[ROWS[1][1]]))
    assert not remembers(store.root, {"old": old[:200], "digest": ROWS[1][1].encode()})
    check(store, TAPS, [image for image in edited if image != edited[2]])
    assert write(store, [MIRRORED], edited, unreadable=[ROWS[2][0]]) == [0]


def test_files_without_a_receipt_go_too(store: FeatureStore) -> None:
    """As a killed run leaves them, or a repair: nobody reads them, but they can be decoded."""
    old = chunks(store, [ROWS[1]])
    (damage,) = [replace(d, shard=0) for d in _pretended(store, MOMENTS)]
    withdraw(store.root, [damage])
    left = store.root / "tmp" / "train~identity~abc" / "latents" / "0-moments.left"
    left.parent.mkdir(parents=True)
    left.write_bytes(old[MOMENTS.path, ROWS[1][0]])
    assert len(remembers(store.root, {"old": old[MOMENTS.path, ROWS[1][0]][:200]})) == 2
    forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[1][0]]))
    assert not remembers(store.root, {"old": old[MOMENTS.path, ROWS[1][0]][:200]})
    check(store, TAPS, KEPT)


def _pretended(store: FeatureStore, array: ArraySpec):  # type: ignore[no-untyped-def]
    file = store.root / "features.zarr" / array.path / "c/0/0/0/0"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    damages = verify(store.root, [array])
    file.write_bytes(whole)
    return damages


def test_a_damaged_neighbour_counts_as_missing(store: FeatureStore) -> None:
    file = store.root / "features.zarr" / MOMENTS.path / "c/0/0/0/0"
    data = bytearray(file.read_bytes())
    data[5] ^= 1  # of image 0
    file.write_bytes(data)
    forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[1][0]]))
    assert ReceiptBook.of(store.root, MOMENTS.group).find(0, "moments") is None
    assert not file.exists()
    check(store, TAPS, KEPT)
    assert write(store, [MOMENTS], KEPT) == [0]
    check(store, [MOMENTS], KEPT)


def test_while_somebody_writes_nothing_is_touched(store: FeatureStore) -> None:
    before = tree(store.root)
    with store.writer(TAPS, ROWS), pytest.raises(LockedError, match="still writing"):
        forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    assert tree(store.root) == before
    assert not list((store.root / "locks").glob("*.json"))


def test_an_array_of_another_layout_is_named_before_anything_is_touched(store: FeatureStore) -> None:
    path = store.root / "features.zarr" / MOMENTS.path / "zarr.json"
    path.write_text(path.read_text().replace('"separator": "/"', '"separator": "."'))
    before = tree(store.root)
    with pytest.raises(CacheError, match="moments: was laid out by another program"):
        forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    assert tree(store.root) == before


def test_what_left_the_data_set_goes_and_what_another_has_stays(tmp_path: Path) -> None:
    mine, theirs = FeatureStore(tmp_path, "mine"), FeatureStore(tmp_path, "theirs")
    write(mine, TAPS, ROWS[:6])
    write(theirs, TAPS, [("their name.jpg", ROWS[1][1]), *images(2, start=20)])
    kept = {content for _, content in ROWS[2:6]}
    found = find_removed(tmp_path, "train", kept, "mine")
    assert found.rows == {0}
    assert found.names == {Name("mine", ROWS[0][0]), Name("mine", ROWS[1][0])}
    forget(tmp_path, found)
    assert not set(mine.rows("train").scenes) & {ROWS[0][0], ROWS[1][0]}
    check(mine, TAPS, ROWS[2:6])
    check(theirs, TAPS, [("their name.jpg", ROWS[1][1]), *images(2, start=20)])
    forget(tmp_path, find_removed(tmp_path, "train", set(), "mine"))
    assert [found.dataset for found in mine.datasets()] == ["theirs"]
    check(theirs, TAPS, [("their name.jpg", ROWS[1][1]), *images(2, start=20)])
    assert find_removed(tmp_path, "train", set(), "mine").rows == frozenset()


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_killed_at_any_step_it_can_be_run_again(
    store: FeatureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Dies before the ``step``-th rename or removal, the moments at which states change."""
    whole = fill(tmp_path / "whole" / "features")
    forget(whole.root, find_traces(whole.root, "train", scene_ids=NAMES), manifests=[tmp_path / "whole/manifests"])
    kept, remaining = chunks(store, KEPT), step

    class KilledError(BaseException):
        pass

    def until_the_kill(real):  # type: ignore[no-untyped-def]
        def call(*arguments, **options):  # type: ignore[no-untyped-def]
            nonlocal remaining
            if remaining == 0:
                raise KilledError
            remaining -= 1
            return real(*arguments, **options)

        return call

    def again() -> None:
        forget(store.root, find_traces(store.root, "train", scene_ids=NAMES), manifests=[tmp_path / "manifests"])

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", until_the_kill(Path.replace))
        patched.setattr(Path, "unlink", until_the_kill(Path.unlink))
        with contextlib.suppress(KilledError):
            again()
    # Their owner is this very process, which by the story is dead.
    for left in [*(store.root / "locks").glob("*.json"), *tmp_path.rglob(".diffps-*.tmp")]:
        left.unlink()
    assert chunks(store, KEPT) == kept  # the others can be read at any moment
    again()
    assert tree(store.root) == tree(whole.root)
    assert (tmp_path / "manifests/inputs.json").read_bytes() == (tmp_path / "whole/manifests/inputs.json").read_bytes()
    assert verify(store.root, store.arrays()) == []


@pytest.mark.slow
def test_killed_for_real_it_can_be_run_again(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole/features")
    began = time.monotonic()
    _start(whole.root).wait()
    duration, moments, early = time.monotonic() - began, random.Random(0), 0
    reference = tree(whole.root)
    for number in range(12):
        store = fill(tmp_path / str(number) / "features")
        process = _start(store.root)
        time.sleep(moments.uniform(0, duration))
        process.send_signal(signal.SIGKILL)
        early += process.wait() == -signal.SIGKILL
        assert _start(store.root).wait() == 0
        assert tree(store.root) == reference
        assert verify(store.root, store.arrays()) == []
    assert early >= 3


def _start(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    process.stdout.close()
    return process


def test_a_group_in_which_nothing_was_written_yet_does_not_hinder(store: FeatureStore) -> None:
    folder = store.root / "features.zarr/train/identity/begun"
    folder.mkdir()
    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    assert find_traces(store.root, "train", scene_ids=NAMES).nothing
    assert folder.is_dir()


def test_progress_is_told_a_shard_at_a_time_and_only_theirs_are_written_again(store: FeatureStore) -> None:
    told, zarr = list[int](), store.root / "features.zarr"
    before = {path: path.stat().st_ino for path in zarr.rglob("c/*/0/**/0") if path.is_file()}
    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES), progress=told.append)
    assert told == [1] * 2 * 3  # shards 0 and 2 of three groups
    changed = {path for path, inode in before.items() if not path.exists() or path.stat().st_ino != inode}
    numbers = {path.relative_to(zarr).as_posix().partition("/c/")[2][0] for path in changed}
    assert numbers == {"0", "2"}
    assert not [path for path in changed if path.is_relative_to(zarr / "test")]
    assert len(changed) == 2 * (1 + 2 + 1 + 2 + 2)  # moments, int8, bitround, project and the mirrored int8


def test_receipts_speak_of_the_others_alone(store: FeatureStore) -> None:
    before = ReceiptBook.of(store.root, MOMENTS.group).find(0, "moments")
    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    after = ReceiptBook.of(store.root, MOMENTS.group).find(0, "moments")
    assert before is not None
    assert after is not None
    assert (before.rows, after.rows) == ((0, 1, 2, 3), (0, 3))
    assert after.digests == (ROWS[0][1], ROWS[3][1])
    assert after.names == (Name("", ROWS[0][0]), Name("", ROWS[3][0]))
    assert (before.skipped, after.skipped) == ({2: "truncated JPEG"}, {})
    assert after.info == before.info
    (old,), (new,) = (receipt.arrays["moments"][1].values() for receipt in (before, after))
    assert new.crc32c == (old.crc32c[0], old.crc32c[3])
    assert new.nbytes == old.nbytes - MOMENTS.image_bytes


def test_another_machine_s_writer_is_taken_over_only_when_asked(store: FeatureStore) -> None:
    left = lock_file(store.root, MOMENTS.group)
    pretend(left, host="elsewhere", silent=SILENT_SECONDS + 5)
    found = find_traces(store.root, "train", scene_ids=NAMES)
    with pytest.raises(LockedError, match=r"runtime\.takeover=true"):
        forget(store.root, found)
    forget(store.root, found, takeover=True)
    assert not left.exists()
    assert find_traces(store.root, "train", scene_ids=NAMES).nothing


def test_manifests_of_others_and_files_that_are_none_stay(store: FeatureStore) -> None:
    folder = store.root / "manifests"
    store.write_manifest(folder / "test.json", [spec(key=group(split="test"))], {"test": TEST})
    for name, content in (("notes.txt", "{"), ("list.json", "[]"), ("other.json", '{"a": 1}')):
        (folder / name).write_text(content)
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.name in
            ("test.json", "notes.txt", "list.json", "other.json")}  # fmt: skip
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    (store.root / "inputs").mkdir()
    (folder / "moments.json").rename(store.root / "inputs/moments.json")
    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    assert {path: path.read_bytes() for path in kept} == kept
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    (entry,) = read_json(store.root / "inputs/moments.json")["arrays"]
    assert (entry["rows"], entry["images"], entry["skipped"]) == ([[0, 0], [3, 8]], 7, [])


def test_a_manifest_of_an_array_that_is_not_there_is_left_with_a_warning(
    store: FeatureStore, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.root / "manifests/moments.json"
    content = read_json(path)
    content["arrays"][0]["path"] = "train/identity/abc/gone"
    write_json(path, content)
    forget(store.root, find_traces(store.root, "train", scene_ids=NAMES))
    assert read_json(path) == content
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"{path}: left as it is, which its stage must mend anyway: {store.root}/features.zarr/")


def test_a_neighbour_that_cannot_be_kept_is_named(store: FeatureStore, caplog: pytest.LogCaptureFixture) -> None:
    file = store.root / "features.zarr" / MOMENTS.path / "c/0/0/0/0"
    data = bytearray(file.read_bytes())
    data[5] ^= 1  # of image 0
    file.write_bytes(data)
    forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[1][0]]))
    (line,) = [record.getMessage() for record in caplog.records if "counts as missing" in record.getMessage()]
    assert line.startswith(f"shard 0 of moments counts as missing: {file}: image 0 of the shard does not match")
    assert not file.parents[2].exists()
    assert (file.parents[3] / "1").exists()


def test_a_folder_that_went_is_gone_on_the_disk_too(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = record_synced(monkeypatch)
    forget(store.root, find_traces(store.root, "train", scene_ids=[scene for scene, _ in ROWS]))
    for array in (each for arrays in ARRAYS for each in arrays):
        assert store.root / "features.zarr" / array.path / "c" in synced
