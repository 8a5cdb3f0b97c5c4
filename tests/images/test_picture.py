"""Every kind of picture becomes the RGB a viewer shows, or one clear error."""

import hashlib
import importlib.util
import io
import json
import struct
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageOps

from diffps.datasets.files import measure_image
from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.images import load_image, load_scene, measured_by, to_canvas_tensor
from tests.images.writers import orientation as orientation_of

RED, WHITE = (255, 0, 0), (255, 255, 255)


def save(folder: Path, image: Image.Image, name: str = "x.png", **options: object) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_an_rgb_image_comes_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(load_image(save(tmp_path, Image.fromarray(pixels))), pixels)


@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))]
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = load_image(save(tmp_path, Image.fromarray(pixels), exif=exif))
    assert image.shape == ((6, 4, 3) if orientation in (6, 8) else (4, 6, 3))
    assert tuple(image[corner]) == RED


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif", "x.webp"])
def test_an_image_is_turned_as_pillow_turns_it(tmp_path: Path, name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(orientation).integers(0, 256, (4, 6, 3), np.uint8)
    path = save(tmp_path, Image.fromarray(pixels), name, exif=exif)
    with Image.open(path) as file:
        assert np.array_equal(load_image(path), np.array(ImageOps.exif_transpose(file)))


ASCII, RATIONAL = 2, 5


@pytest.mark.parametrize(
    ("tag", "kind", "value"),
    [
        pytest.param(0x010E, RATIONAL, struct.pack("<II", 3, 2), id="ImageDescription-rational"),
        pytest.param(0x011A, ASCII, b"seventy\0", id="XResolution-ascii"),
        pytest.param(0x0128, ASCII, b"centimetre\0", id="ResolutionUnit-ascii"),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_an_odd_field_of_the_exif_does_no_harm(
    tmp_path: Path, tag: int, kind: int, value: bytes, orientation: int
) -> None:
    fields = [(0x0112, 3, 1, struct.pack("<HH", orientation, 0))]
    at = 8 + 2 + 2 * 12 + 4  # where values longer than four bytes lie
    fields.append((tag, kind, len(value) // (8 if kind == RATIONAL else 1), struct.pack("<I", at)))
    rows = b"".join(struct.pack("<HHI", *field[:3]) + field[3] for field in sorted(fields))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + rows + bytes(4) + value
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8] = RED
    image = load_image(save(tmp_path, Image.fromarray(pixels), "x.jpg", exif=exif))
    assert image.shape == ((24, 16, 3) if orientation == 6 else (16, 24, 3))
    assert image[4, -4 if orientation == 6 else 4, 0] > 200


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    if mode.startswith("I"):
        values = np.full((3, 3), 0x8080, np.uint16 if mode == "I;16" else np.int32)
        image, expected = Image.fromarray(values), (128, 128, 128)
    else:
        image, expected = Image.new("RGB", (3, 3), WHITE).convert(mode), WHITE
    name = "x.tif" if mode in ("CMYK", "YCbCr", "F", "I") else "x.png"
    assert tuple(load_image(save(tmp_path, image, name))[1, 1]) == expected


def test_a_dark_16_bit_image_stays_dark(tmp_path: Path) -> None:
    image = load_image(save(tmp_path, Image.fromarray(np.full((2, 2), 200, np.uint16))))
    assert int(image.max()) <= 1


def test_transparency_shows_white_not_whatever_lies_beneath(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 255))
    found = load_image(save(tmp_path, image))
    assert tuple(found[0, 0]) == WHITE
    assert tuple(found[0, 1]) == RED
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([0, 0, 0])
    assert tuple(load_image(save(tmp_path, palette, transparency=0))[0, 0]) == WHITE


def test_what_is_no_image_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match="the file is empty"):
        load_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"text.jpg: not a readable image \(text; it begins with 'hello'\)"):
        load_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="no readable file"):
        load_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("kind", ["jpeg", "png"])
def test_a_truncated_image_is_not_taken_for_a_whole_one(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, kind)
    (tmp_path / "cut").write_bytes(buffer.getvalue()[: buffer.tell() // 2])
    with pytest.raises(ImageError, match="not a readable image"):
        load_image(tmp_path / "cut")


def test_a_file_that_changed_since_it_was_indexed_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path, Image.new("RGB", (2, 2), RED))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_scene(path, digest).shape == (2, 2, 3)
    save(tmp_path, Image.new("RGB", (2, 2), WHITE))
    with pytest.raises(ImageError, match="changed since it was indexed"):
        load_scene(path, digest)


@pytest.mark.parametrize("case", json.loads((Path(__file__).parent / "pixels.json").read_text()).items(), ids=" ".join)
def test_pixels_of_ordinary_images_are_those_recorded(tmp_path: Path, case: tuple[str, str]) -> None:
    """As decoded before there were rules for profiles and levels: stored features of such images stay as they are."""
    (suffix, mode, orientation), digest = case[0].split(), case[1]
    rgb = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 70, 3), np.uint8))
    if mode == "I;16":
        image = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (45, 70)).astype(np.uint16))
    else:
        image = rgb.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.fromarray(np.random.default_rng(2).integers(0, 256, (45, 70, 3), np.uint8)[..., 0]))
    options = {"exif": orientation_of(int(orientation))} if suffix in ("png", "tif", "webp") else {}
    if suffix == "webp":
        options |= {"lossless": True, "exact": True}
    path = save(tmp_path, image, f"x.{suffix}", **options)
    assert hashlib.sha256(load_image(path).tobytes()).hexdigest() == digest
    assert measure_image(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_measured_is_named_with_all_that_decides_it() -> None:
    names = measured_by()
    assert names.startswith(f"pillow {PIL.__version__}, rules ")
    assert ("pillow-heif" in names) == (importlib.util.find_spec("pillow_heif") is not None)


def test_the_canvas_is_filled_between_minus_one_and_one() -> None:
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 10:] = 255
    tensor = to_canvas_tensor(image, Canvas(64, 128))
    assert tensor.shape == (3, 64, 128)
    assert tensor.dtype == torch.float32
    assert float(tensor[:, :, :48].max()) == -1
    assert float(tensor[:, :, 80:].min()) == 1


def test_shrinking_takes_the_four_nearest_pixels_only() -> None:
    # Without antialias a line between the sampled pixels disappears.
    image = np.zeros((256, 256, 3), np.uint8)
    image[:, 0] = 255
    assert float(to_canvas_tensor(image, Canvas(64, 64)).max()) == -1


def test_the_mirrored_view_is_the_mirrored_canvas() -> None:
    image = np.random.default_rng(1).integers(0, 256, (33, 47, 3), np.uint8)
    plain, mirrored = (to_canvas_tensor(image, Canvas(64, 64), view) for view in ("identity", "hflip"))
    assert torch.equal(mirrored, plain.flip(2))
