"""What every reader asks of files: images measured, noted and compared."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffps.datasets.files import (
    NOTES,
    ImageFacts,
    clip_boxes,
    corner_boxes,
    measure_image,
    measure_images,
    note_images,
    require,
    same_pixels,
    summarise,
)
from diffps.datasets.findings import Findings, lines
from diffps.errors import DatasetError, ImageError, PixelLimitError
from diffps.images.display import NOTES as DISPLAY_NOTES


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 4), "blue").save(tmp_path / "b.png", exif=exif)
    Image.new("RGB", (8, 4), "red").save(tmp_path / "c.png", icc_profile=b"no profile")
    (tmp_path / "d.png").write_bytes(b"")
    return [tmp_path / name for name in ("a.png", "b.png", "c.png", "d.png")]


def test_images_are_measured_in_order_on_any_number_of_threads(paths: list[Path]) -> None:
    one = measure_images(paths[:3])
    assert [fact[:2] for fact in one] == [(8, 4), (4, 8), (8, 4)]
    assert measure_images(paths[:3], threads=3) == one


def test_progress_tells_the_bytes_of_every_file(paths: list[Path]) -> None:
    seen: list[int] = []
    measure_images(paths[:3], progress=seen.append)
    assert seen == [path.stat().st_size for path in paths[:3]]


def test_an_unreadable_image_stops_or_is_kept_without_a_size(paths: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"d.png: not a readable image \(the file is empty\)"):
        measure_images(paths)
    kept = measure_images(paths, keep_unreadable=True)
    assert kept[3][:2] == (0, 0)
    assert kept[3].notes == ("unreadable",)
    with pytest.raises(ImageError, match="no readable file"):  # not there at all
        measure_images([paths[0].parent / "none.png"], keep_unreadable=True)


def test_the_pixel_limit_reaches_every_file(paths: list[Path]) -> None:
    with pytest.raises(PixelLimitError, match="a.png: has 32 pixels, more than the 31 allowed"):
        measure_images(paths[:1], max_pixels=31)
    assert measure_images(paths[:1], keep_unreadable=True, max_pixels=31)[0].notes == ("unreadable",)


def test_notes_become_findings_with_the_first_example(paths: list[Path]) -> None:
    findings = Findings()
    names = [path.name for path in paths]
    note_images(findings, names, measure_images(paths, keep_unreadable=True))
    assert lines(findings.records()) == [
        "fine      1 of 4 images (25.0 %) are turned upright by their EXIF; first: b.png",
        "doubtful  1 of 4 images (25.0 %) have a colour profile that does not fit or cannot be read, and are taken for "
        "sRGB; first: c.png",
        "refused   1 of 4 images (25.0 %) cannot be read and are skipped; first: d.png",
    ]


def test_every_note_has_its_words() -> None:
    assert set(NOTES) == {*DISPLAY_NOTES, "unreadable"}


def test_the_same_file_under_several_names_is_found() -> None:
    facts = [ImageFacts(1, 1, digest) for digest in ("x", "y", "x", "z", "x")]
    assert same_pixels("abcde", facts) == [["a", "c", "e"]]


def test_what_is_missing_is_told_with_what_lies_there(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"f{number}").touch()
    there = tmp_path / "f0"
    assert require(there, "X", "list") == there
    eight = ", ".join(f"f{number}" for number in range(8))
    with pytest.raises(DatasetError) as caught:
        require(tmp_path / "a" / "b.csv", "X", "list")
    assert str(caught.value) == f"X: list missing: expected {tmp_path}/a/b.csv; {tmp_path} holds {eight}"
    (tmp_path / "a").mkdir()
    with pytest.raises(DatasetError, match=rf"{tmp_path}/a holds nothing$"):
        require(tmp_path / "a" / "b.csv", "X", "list")
    with pytest.raises(DatasetError, match=r"holds a/, f0, f1, f2, f3, f4, f5, f6 and 1 more$"):
        require(tmp_path / "b.csv", "X", "list")
    with pytest.raises(DatasetError, match=r"f0/b.csv; .*/f0 holds nothing$"):  # below a file
        require(there / "b.csv", "X", "list")


def test_the_first_few_of_some_names() -> None:
    assert summarise("abcde") == "a, b, c, d, e"
    assert summarise("abcdef") == "a, b, c, d, e and 1 more"
    assert summarise(iter("abcd"), 2) == "a, b and 2 more"
    assert summarise([]) == ""


def test_corners_and_cutting_of_what_a_float_cannot_hold() -> None:
    boxes = corner_boxes([[1, 2, 3, 4], [1e300, 0, 1, 1], [0, 0, float("nan"), 1]])  # type: ignore[arg-type]
    assert boxes[0].tolist() == [1, 2, 4, 6]
    assert not np.isfinite(boxes[1:]).all(1).any()
    box = np.float32([[-5, -6, 70, 90]])
    assert clip_boxes(box, (80, 60)).tolist() == [[0, 0, 60, 80]]
    assert clip_boxes(box, (0, 0)).tolist() == [[0, 0, 70, 90]]


def test_dark_levels_are_noted_behind_what_the_header_says(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 4), 200, np.uint16)).save(tmp_path / "x.png")
    assert measure_image(tmp_path / "x.png").notes == ("levels", "levels_dark")
    assert measure_image(tmp_path / "x.png")[:2] == (4, 3)


class Opened(type(Path())):  # type: ignore[misc]
    """A path that counts how often it is opened."""

    times = 0

    def __fspath__(self) -> str:
        Opened.times += 1
        return str(self)


def test_whoever_stops_the_measuring_does_not_wait_for_the_rest(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "a.png")
    path = Opened(tmp_path / "a.png")
    measure_image(path)
    once, Opened.times = Opened.times, 0
    assert once > 0

    def stop(nbytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_images([path] * 2000, progress=stop)
    assert Opened.times < 2000 * once
