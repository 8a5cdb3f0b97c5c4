"""A gallery on disk against a dictionary: whatever happens to the pictures, whenever the process dies."""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.checksum import crc32c
from cache.errors import CacheError, DamagedError, LockedError, StoreFullError
from cache.files import temporary_name, write_bytes
from diffps.errors import ConfigError, DatasetError, DiffPSError
from diffps.records import Detections
from diffps.search.answer import find
from stages.finding.folders import folder_name, forget_content, gallery_place
from stages.finding.gallery_files import LARGE, MOST_SMALL, GalleryWriter, LoadedGallery, forget_images, load_gallery
from stages.finding.segments import NamedFile

HEAD, SIZE = "ab" * 32, 8
ROOT = Path(__file__).resolve().parents[2]
Pictures = Mapping[str, int]  # name -> content


def digest(content: int) -> str:
    return hashlib.sha256(str(content).encode()).hexdigest()


def file(name: str, content: int) -> NamedFile:
    return NamedFile(name, digest(content), 1000 + content, 7)


def found_in(content: int) -> tuple[tuple[int, int], Detections]:
    """What a head finds: nobody in every fifth picture, up to four people in the others."""
    rng = np.random.default_rng(content)
    n = content % 5
    corners = rng.integers(0, 50, (n, 2)).astype(np.float32)
    embeddings = rng.standard_normal((n, SIZE)).astype(np.float32)
    return (60 + content, 80), Detections(
        np.concatenate([corners, corners + 10], axis=1), rng.random(n).astype(np.float32), embeddings
    )


def half(content: int) -> np.ndarray:
    embeddings = found_in(content)[1].embeddings.astype(np.float64)
    return (embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)).astype(np.float16)


def search(folder: Path, pictures: Pictures, batch: int = 3, write: Callable[[Path, bytes], None] = write_bytes) -> int:
    """What a search does before it searches: compute what is lacking, batch by batch; gives how much that was."""
    files = [file(name, content) for name, content in pictures.items()]
    contents = {digest(content): content for content in pictures.values()}
    with GalleryWriter(folder, HEAD, SIZE, write=write) as writer:
        lacking = writer.lacking(files)
        for start in range(0, len(lacking), batch):
            writer.append([(each, *found_in(contents[each.digest])) for each in lacking[start : start + batch]])
        writer.keep(files)
    return len(lacking)


def check(folder: Path, pictures: Pictures) -> LoadedGallery:
    """The gallery holds exactly what was found in these pictures, each content once, and nothing lies beside it."""
    loaded = load_gallery(folder, HEAD)
    names: dict[int, list[str]] = {}
    for name, content in pictures.items():
        names.setdefault(content, []).append(name)
    gallery = loaded.searched
    assert sorted(gallery.names) == sorted(min(same) for same in names.values())
    rows = np.concatenate([np.empty((0, SIZE), np.float16), *gallery.embeddings])
    for content, same in names.items():
        at = gallery.names.index(min(same))
        mine = gallery.rows_of(min(same))
        size, found = found_in(content)
        assert tuple(loaded.sizes[at]) == size
        assert loaded.named(digest(content)) == min(same)
        np.testing.assert_array_equal(gallery.boxes[mine], found.boxes)
        np.testing.assert_array_equal(gallery.scores[mine], found.scores)
        np.testing.assert_allclose(rows[mine].astype(float), half(content).astype(float), atol=1e-3)
    assert loaded.named(digest(999)) is None
    assert len(gallery) == sum(content % 5 for content in names)
    left = {path.name for path in folder.iterdir()} - {"gallery.json", ".lock"}
    assert all(name.startswith("segment-") for name in left)
    assert len(left) == len(gallery.embeddings)
    return loaded


@settings(max_examples=40)
@given(
    st.lists(
        st.dictionaries(st.sampled_from(["a", "b", "c/d", "c/é", "e\n<i>", "f", "g"]), st.integers(0, 12), max_size=7),
        min_size=1,
        max_size=5,
    ),
    st.integers(1, 4),
)
def test_the_gallery_is_what_is_found_in_the_pictures_that_are_there(
    tmp_path_factory: pytest.TempPathFactory, states: list[dict[str, int]], batch: int
) -> None:
    """Pictures are added, changed, removed, renamed and copied from one search to the next; only new content costs."""
    folder = tmp_path_factory.mktemp("gallery")
    before: set[int] = set()
    for pictures in states:
        assert search(folder, pictures, batch) == len(set(pictures.values()) - before)
        check(folder, pictures)
        before = set(pictures.values())


def test_ten_new_pictures_cost_ten_and_a_renamed_folder_none(tmp_path: Path) -> None:
    pictures = {f"old/{number}": number for number in range(40)}
    assert search(tmp_path, pictures) == 40
    assert search(tmp_path, pictures | {f"new/{number}": 100 + number for number in range(10)}) == 10
    assert search(tmp_path, {f"moved/{number}": number for number in range(40)}) == 0


def test_nothing_is_written_where_nothing_changed(tmp_path: Path) -> None:
    pictures = {str(number): number for number in range(9)}
    search(tmp_path, pictures)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    search(tmp_path, pictures)
    segments = {path.name: path.read_bytes() for path in tmp_path.glob("segment-*")}
    assert segments == {name: content for name, content in before.items() if name.startswith("segment-")}


def test_content_that_is_there_is_not_added_again(tmp_path: Path) -> None:
    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        writer.append([(file("a", 4), *found_in(4))])
        writer.append([(file("other name", 4), *found_in(4)), (file("b", 9), *found_in(9))])
    check(tmp_path, {"a": 4, "b": 9})


def test_a_removed_picture_leaves_nothing_behind(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4, "b": 9, "c": 14})
    kept = half(4).tobytes(), digest(4).encode()
    gone = half(9).tobytes()
    assert any(gone in path.read_bytes() for path in tmp_path.iterdir())
    search(tmp_path, {"a": 4, "c": 14})
    content = [path.read_bytes() for path in tmp_path.iterdir()]
    assert not any(gone in each or bytes.fromhex(digest(9)) in each for each in content)
    assert any(kept[0] in each for each in content)


def test_forgetting_takes_the_copies_along(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4, "copy of a": 4, "b": 9})
    assert forget_images(tmp_path, {"a", "never there"}) == ["a", "copy of a"]
    check(tmp_path, {"b": 9})
    assert forget_images(tmp_path, {"a"}) == []


def test_many_small_batches_are_joined(tmp_path: Path) -> None:
    pictures = {str(number): number for number in range(3 * MOST_SMALL)}
    search(tmp_path, pictures, batch=1)
    loaded = check(tmp_path, pictures)
    assert len(loaded.searched.embeddings) <= MOST_SMALL + 1


def test_as_many_small_segments_as_are_allowed_stay_apart(tmp_path: Path) -> None:
    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        for number in range(MOST_SMALL):
            writer.append([(file(str(number), number), *found_in(number))])
        assert len(list(tmp_path.glob("segment-*"))) == MOST_SMALL == 32
        assert (tmp_path / "segment-000001.safetensors").exists()
        manifest = json.loads((tmp_path / "gallery.json").read_text())
        assert (manifest["format"], manifest["head"], manifest["size"]) == (1, HEAD, SIZE)
        assert [(part["images"], part["boxes"]) for part in manifest["segments"]] == [
            (1, number % 5) for number in range(MOST_SMALL)
        ]
        writer.append([(file("one more", 100), *found_in(100))])
        assert len(list(tmp_path.glob("segment-*"))) == 1
    names = [*map(str, range(MOST_SMALL)), "one more"]
    assert load_gallery(tmp_path).searched.names == names


def test_content_that_is_lacking_is_asked_for_once_by_its_first_name(tmp_path: Path) -> None:
    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        writer.append([(file("here", 1), *found_in(1))])
        files = [file("b", 3), file("a", 2), file("again", 3), file("other name", 1), file("a too", 2)]
        assert writer.lacking(files) == [file("b", 3), file("a", 2)]


def test_a_gallery_of_another_version_is_not_read(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4})
    path = tmp_path / "gallery.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    manifest["format"] = 2
    checksum = f"{crc32c(json.dumps(manifest, sort_keys=True).encode()):08x}"
    path.write_text(json.dumps(manifest | {"checksum": checksum}))
    with pytest.raises(ConfigError, match="format 2, this version reads 1; search into a new folder$"):
        load_gallery(tmp_path)
    path.write_text("[]")
    with pytest.raises(DamagedError, match="is no gallery's description; delete the gallery"):
        load_gallery(tmp_path)


def test_a_folder_s_gallery_is_named_by_the_folder_and_the_head(tmp_path: Path) -> None:
    """Two folders of one name have two."""
    (tmp_path / "one" / "photos").mkdir(parents=True)
    here, there = tmp_path / "one" / "photos", tmp_path / "other" / "photos"
    place = gallery_place(Path("kept"), here, HEAD)
    assert place == Path("kept") / f"{folder_name(here)}-abababab"
    assert folder_name(here).startswith("photos-")
    assert len(folder_name(here)) == len("photos-") + 8
    assert folder_name(here) == folder_name(here / ".." / "photos") != folder_name(there)
    assert folder_name(Path("/")).startswith("root-")


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    names = ["segment-mine.safetensors", "my segment-000001.safetensors", "notes.txt"]
    for name in names:
        (tmp_path / name).touch()
    search(tmp_path, {"a": 4})
    search(tmp_path, {"b": 9})
    assert all((tmp_path / name).exists() for name in names)


def test_what_a_dead_process_left_is_gone_even_where_nothing_is_added(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4})
    segment = next(tmp_path.glob("segment-*"))
    shutil.copy(segment, segment.with_name("segment-000099.safetensors"))
    (tmp_path / temporary_name()).touch()
    with GalleryWriter(tmp_path, HEAD, SIZE):
        pass
    check(tmp_path, {"a": 4})


def test_small_segments_are_joined_until_they_are_a_large_one(tmp_path: Path) -> None:
    def crowd(n: int) -> Detections:
        boxes = np.tile(np.float32([0, 0, 1, 1]), (n, 1))
        return Detections(boxes, np.ones(n, np.float32), np.ones((n, SIZE), np.float32))

    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        for number in range(MOST_SMALL + 1):
            boxes = {0: LARGE - 4, 1: 4}.get(number, 1)
            writer.append([(file(str(number), number), (9, 9), crowd(boxes))])
    parts = json.loads((tmp_path / "gallery.json").read_text())["segments"]
    assert [(part["images"], part["boxes"]) for part in parts] == [(2, LARGE), (MOST_SMALL - 1, MOST_SMALL - 1)]


def test_large_segments_are_left_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    n = LARGE
    large = Detections(
        np.tile(np.float32([0, 0, 1, 1]), (n, 1)), np.ones(n, np.float32), rng.standard_normal((n, SIZE), np.float32)
    )
    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        writer.append([(file("crowd", 1000), (9, 9), large)])
        first = next(tmp_path.glob("segment-*")).name
        for number in range(MOST_SMALL + 2):
            writer.append([(file(str(number), number), *found_in(number))])
    assert (tmp_path / first).exists()
    assert len(load_gallery(tmp_path).searched) == n + sum(number % 5 for number in range(MOST_SMALL + 2))


def test_a_search_goes_on_while_the_gallery_changes(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4, "b": 9})
    before = load_gallery(tmp_path).searched
    search(tmp_path, {"b": 9})
    answer = find(half(4)[:1].astype(np.float32), before, top=1)
    assert answer.hits[0].image == "a"


class Died(BaseException):
    """Stands for a process that ends here."""


@pytest.mark.parametrize("torn", [False, True])
def test_a_process_that_dies_at_any_write_loses_at_most_that_write(tmp_path: Path, torn: bool) -> None:
    """``torn``: the temporary file stays, half written."""
    states: list[Pictures] = [
        {"a": 1, "b": 2, "c": 3, "d": 4},
        {"a": 1, "renamed": 2, "d": 9, "e": 13},
    ]

    def dying(after: int) -> Callable[[Path, bytes], None]:
        left = [after]

        def write(path: Path, content: bytes) -> None:
            if left[0] == 0:
                if torn:
                    path.with_name(temporary_name()).write_bytes(content[: len(content) // 2])
                raise Died
            left[0] -= 1
            write_bytes(path, content)

        return write

    died = 0
    for after in range(30):
        folder = tmp_path / str(after)
        search(folder, states[0], batch=2)
        try:
            search(folder, states[1], batch=1, write=dying(after))
        except Died:
            died += 1
            assert set(load_gallery(folder, HEAD).searched.names) <= {*states[0], *states[1]}
        search(folder, states[1], batch=1)
        check(folder, states[1])
    assert 3 <= died < 30


KILLED = """
import sys
from pathlib import Path
from tests.finding.test_gallery_files import search
print("started", flush=True)
for turn in range(1000):
    search(Path(sys.argv[1]), {str(n): n for n in range(turn % 7, 60 + turn % 5)}, batch=4)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_gallery_that_goes_on(tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(5):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", KILLED, str(tmp_path / "gallery")]
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            time.sleep(moments.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
        pictures = {str(n): n for n in range(moments.randrange(20), 50)}
        search(tmp_path / "gallery", pictures)
        check(tmp_path / "gallery", pictures)


@settings(max_examples=60)
@given(st.data())
def test_no_changed_byte_passes(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("gallery")
    search(folder, {"a": 4, "b": 9}, batch=1)
    path = data.draw(st.sampled_from(sorted(path for path in folder.iterdir() if path.name != ".lock")))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.sampled_from(["flip", "cut"]))
    if change == "flip":
        content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content) if change == "flip" else bytes(content[:at]))
    with contextlib.suppress(CacheError, DiffPSError):
        load_gallery(folder)
        assert path.name == "gallery.json"  # in which white space means nothing
        check(folder, {"a": 4, "b": 9})


def test_a_missing_segment_is_named(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4})
    gone = next(tmp_path.glob("segment-*"))
    gone.unlink()
    with pytest.raises(DamagedError, match=f"{gone.name}: is missing; delete the gallery"):
        load_gallery(tmp_path)


def test_segments_that_a_writer_replaces_meanwhile_are_looked_for_again(tmp_path: Path) -> None:
    """Between the description that was read and the segments that it names, another process searches: twice."""

    class Overtaken(type(tmp_path)):  # type: ignore[misc]
        left = 2

        def __truediv__(self, name: str) -> Path:
            if name.startswith("segment-") and Overtaken.left:
                Overtaken.left -= 1
                search(tmp_path, {str(Overtaken.left): 20 + Overtaken.left})
            return tmp_path / name

    search(tmp_path, {"a": 4})
    assert load_gallery(Overtaken(tmp_path)).searched.names == ["0"]
    Overtaken.left = 3
    with pytest.raises(DamagedError, match="is missing; delete the gallery"):
        load_gallery(Overtaken(tmp_path))


def test_a_gallery_of_another_head_is_refused(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4})
    with pytest.raises(ConfigError, match=r"made with another head \(abababababab, not cdcdcdcdcdcd\)"):
        load_gallery(tmp_path, "cd" * 32)
    with (
        pytest.raises(ConfigError, match="another head"),
        GalleryWriter(tmp_path, "cd" * 32, SIZE),
    ):
        pass
    check(tmp_path, {"a": 4})


def test_where_no_gallery_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no gallery is there \(gallery.json is missing\)"):
        load_gallery(tmp_path)
    with pytest.raises(ConfigError, match="no gallery is there"):
        forget_images(tmp_path / "nowhere", {"a"})
    assert not (tmp_path / "nowhere").exists()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        GalleryWriter(tmp_path, HEAD, SIZE),
        pytest.raises(LockedError, match="another process is changing this gallery"),
        GalleryWriter(tmp_path, HEAD, SIZE),
    ):
        pass
    search(tmp_path, {"a": 4})


def test_an_embedding_that_is_not_finite_stops_before_anything_is_written(tmp_path: Path) -> None:
    size, found = found_in(4)
    found.embeddings[1, 2] = np.nan
    with GalleryWriter(tmp_path, HEAD, SIZE) as writer:
        with pytest.raises(DatasetError, match="a and what follows: embeddings: row 1 has a NaN"):
            writer.append([(file("a", 4), size, found)])
        assert writer.lacking([file("a", 4)])
    check(tmp_path, {})


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    search(tmp_path, {"a": 4})

    def full(path: Path, content: bytes) -> None:
        raise StoreFullError(f"{path}: disk full")

    with pytest.raises(StoreFullError):
        search(tmp_path, {"a": 4, "b": 9}, write=full)
    check(tmp_path, {"a": 4})


def test_a_copied_gallery_is_the_gallery(tmp_path: Path) -> None:
    search(tmp_path / "here", {"a": 4, "b": 9})
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    check(tmp_path / "there", {"a": 4, "b": 9})


def test_content_is_forgotten_in_every_gallery(tmp_path: Path) -> None:
    search(tmp_path / "one", {"a": 3, "copy": 3, "b": 4})
    search(tmp_path / "other", {"c": 3})
    search(tmp_path / "third", {"d": 5})
    gone = forget_content(tmp_path, {digest(3)})
    assert gone == {tmp_path / "one": ["a", "copy"], tmp_path / "other": ["c"]}
    check(tmp_path / "one", {"b": 4})
    check(tmp_path / "other", {})
    check(tmp_path / "third", {"d": 5})
