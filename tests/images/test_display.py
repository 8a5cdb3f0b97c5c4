"""What the header says of an image is what its decoding shows, in every format, orientation and mode."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from diffps.datasets.files import measure_image
from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.images import canvas_tensor, load_image, to_canvas_tensor
from tests.images import writers

pytest.importorskip("pillow_heif", reason="HEIC is among the formats").register_heif_opener()


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, int, tuple[int, int], dict[str, object]]:
    suffix = draw(st.sampled_from(sorted(writers.MODES)))
    mode = draw(st.sampled_from(writers.MODES[suffix]))
    oriented = suffix in writers.ORIENTED
    options: dict[str, object] = {"compression": "tiff_lzw"} if suffix == ".tif" and draw(st.booleans()) else {}
    if suffix in writers.ANIMATED and draw(st.booleans()):
        options["frames"] = True
    return (
        suffix,
        mode,
        draw(st.integers(1, 8) if options else st.integers(0, 9)) if oriented else 1,  # libtiff writes no others
        (draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        options,
    )


def save(path: Path, image: Image.Image, orientation: int, options: dict[str, object]) -> None:
    options = dict(options)
    if path.suffix in writers.ORIENTED:
        options["exif"] = writers.orientation(orientation).tobytes()
    if options.pop("frames", False):
        options |= {"save_all": True, "append_images": [ImageOps.flip(image)]}
    image.save(path, "MPO" if path.suffix == ".mpo" else None, **options)


@given(files())
def test_header_and_decoded_image_agree(
    tmp_path_factory: pytest.TempPathFactory, file: tuple[str, str, int, tuple[int, int], dict[str, object]]
) -> None:
    suffix, mode, orientation, size, options = file
    pixels = writers.noise(*size)
    path = tmp_path_factory.mktemp("x") / f"x{suffix}"
    save(path, writers.in_mode(pixels, mode), orientation, options)
    facts, shown = measure_image(path), load_image(path)
    assert shown.shape == (facts.height, facts.width, 3)
    assert (facts.height, facts.width) == writers.upright(np.empty(size), orientation).shape
    canvas = Canvas(64, 64)
    assert canvas_tensor(path, canvas, digest=facts.digest).equal(to_canvas_tensor(shown, canvas))
    if suffix in writers.EXACT and mode == "RGB":
        assert np.array_equal(shown, writers.upright(pixels, orientation))
    if suffix in writers.EXACT and mode in ("L", "I;16", "I", "F"):
        expected = writers.in_mode(pixels, "L") if mode == "L" else pixels[..., 0]
        assert np.array_equal(shown[..., 0], writers.upright(np.asarray(expected), orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_a_turned_tiff_is_measured_as_it_is_shown(tmp_path: Path, orientation: int, compression: str | None) -> None:
    path = tmp_path / "x.tif"
    image = Image.fromarray(writers.noise(4, 6))
    image.save(path, exif=writers.orientation(orientation), compression=compression)
    facts = measure_image(path)
    assert (facts.height, facts.width) == ((6, 4) if 5 <= orientation <= 8 else (4, 6))
    assert load_image(path).shape[:2] == (facts.height, facts.width)
    assert ("turned" in facts.notes) == (2 <= orientation <= 8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
def test_an_orientation_behind_the_pixels_of_a_png_counts(tmp_path: Path, orientation: int) -> None:
    pixels = writers.noise(4, 6)
    path = writers.png_with_late_orientation(tmp_path / "x.png", Image.fromarray(pixels), orientation)
    facts = measure_image(path)
    assert np.array_equal(load_image(path), writers.upright(pixels, orientation))
    assert (facts.height, facts.width) == writers.upright(pixels, orientation).shape[:2]


def test_an_orientation_in_xmp_counts(tmp_path: Path) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    Image.fromarray(writers.noise(4, 6)).save(tmp_path / "x.webp", lossless=True, xmp=xmp)
    assert measure_image(tmp_path / "x.webp")[:2] == (4, 6)
    assert load_image(tmp_path / "x.webp").shape == (6, 4, 3)


def test_a_png_is_measured_without_its_pixels(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(writers.noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    assert measure_image(path)[:2] == (64, 64)
    with pytest.raises(ImageError, match=r"x.png: not a readable image \(OSError: .*truncated"):
        load_image(path)


@pytest.mark.parametrize("suffix", writers.ANIMATED)
def test_of_several_frames_the_first_is_shown_and_it_is_said(tmp_path: Path, suffix: str) -> None:
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    save(tmp_path / f"x{suffix}", red, 1, {})
    assert "frames" not in measure_image(tmp_path / f"x{suffix}").notes
    path = tmp_path / f"y{suffix}"
    red.save(path, "MPO" if suffix == ".mpo" else None, save_all=True, append_images=[blue])
    assert "frames" in measure_image(path).notes
    assert load_image(path)[0, 0, 0] > 240
    assert load_image(path)[0, 0, 2] < 16


def test_exif_that_cannot_be_read_says_nothing_about_the_pixels(tmp_path: Path) -> None:
    pixels = writers.noise(4, 6)
    for number, exif in enumerate(
        [b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"]
    ):
        path = tmp_path / f"{number}.png"
        Image.fromarray(pixels).save(path, exif=exif)
        assert measure_image(path)[:2] == (6, 4)
        assert np.array_equal(load_image(path), pixels)
    assert "exif_broken" in measure_image(tmp_path / "0.png").notes


def test_the_preview_in_a_raw_file_is_not_taken_for_the_photograph(tmp_path: Path) -> None:
    path = writers.tiff(tmp_path / "x.nef", bytes(12), (3, 4), {254: 1, 258: 8})
    with pytest.raises(ImageError, match="x.nef: a camera's raw file"):
        measure_image(path)
