"""What every reader asks of files: images measured, noted and compared."""

from pathlib import Path

import pytest
from PIL import Image

from diffps.datasets.files import NOTES, ImageFacts, measure_images, note_images, same_pixels
from diffps.datasets.findings import Findings, lines
from diffps.errors import ImageError, PixelLimitError
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
