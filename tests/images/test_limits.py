"""Where a rule about an image begins and ends, on headers and values written for it."""

import hashlib
import struct
import zlib
from dataclasses import replace
from io import BufferedReader, BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffps.datasets.files import measure_image
from diffps.errors import ImageError, PixelLimitError
from diffps.images import decode, image_bytes, image_file, inspect, load_image, measured_by
from diffps.images.colour import colours, white_of
from diffps.images.contents import describe, signature
from diffps.images.display import VERSION
from diffps.images.opening import kind_of
from tests.images import writers


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *late: bytes, size: int = 0) -> BufferedReader:
    """A PNG whose header says so, with chunks behind its pixels, filled up to ``size`` bytes."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(height * (1 + width)) if width * height < 10_000 else b""))
    data = b"\x89PNG\r\n\x1a\n" + head + pixels + b"".join(late) + chunk(b"IEND", b"")
    return BufferedReader(BytesIO(data + bytes(max(0, size - len(data)))))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("width", "height", "size", "refused"),
    [
        (4096, 4096, 0, False),
        (673, 24_929, 1000, True),  # one more than 2 to the 24
        (4100, 4100, 1681, False),  # a byte for every 10,000 pixels
        (41, 410_001, 1681, True),
    ],
)
def test_what_packs_more_than_ten_thousand_pixels_into_a_byte_is_a_bomb(
    width: int, height: int, size: int, refused: bool
) -> None:
    file = png(width, height, size=size)
    if refused:
        with pytest.raises(
            PixelLimitError, match=rf"^claims {width * height:,} pixels in {size:,} bytes: a decompress"
        ):
            inspect(file)
    else:
        assert inspect(file)[0].size == (width, height)


def test_the_largest_allowed_image_is_allowed() -> None:
    assert inspect(png(20, 10), 200)[1].width == 20
    with pytest.raises(PixelLimitError, match=r"^has 200 pixels, more than the 199 allowed; make it smaller or raise"):
        inspect(png(20, 10), 199)


@pytest.mark.parametrize(("height", "reduced"), [(14351, False), (14352, True)])
def test_the_border_above_which_a_jpeg_is_decoded_smaller(height: int, reduced: bool) -> None:
    """89,478,485 pixels, as Pillow has it."""
    buffer = BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG")
    data = bytearray(buffer.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, 6235)
    with image_bytes(bytes(data) + bytes(10_000), "x.jpg") as file:
        display = inspect(file)[1]
    assert (display.width, display.height) == (6235, height)
    assert display.reduced is reduced
    assert display.rules == (("reduced decoding, 1",) if reduced else ())


EXIF = writers.orientation(6).tobytes().removeprefix(b"Exif\0\0")
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    ("late", "value"),
    [
        ([(b"tEXt", b"Comment\0" + bytes(99)), (b"zTXt", b"a"), (b"eXIf", EXIF)], 6),
        ([(b"IDAT", b""), (b"eXIf", EXIF), (b"tEXt", b"Comment\0later")], 6),
        ([(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)], 6),
        ([(b"tEXt", b"XML:com.adobe.xm\0")], 1),
        ([(b"IEND", b""), (b"eXIf", EXIF)], 1),
    ],
)
def test_an_orientation_in_any_chunk_behind_the_pixels_counts(
    tmp_path: Path, late: list[tuple[bytes, bytes]], value: int
) -> None:
    (tmp_path / "x.png").write_bytes(png(6, 4, *(chunk(*part) for part in late)).read())
    with image_file(tmp_path / "x.png") as file:
        display = inspect(file)[1]
    assert display.orientation == value
    assert (display.width, display.height) == ((4, 6) if value == 6 else (6, 4))
    assert load_image(tmp_path / "x.png").shape == (display.height, display.width, 3)


def test_pixels_are_not_decoded_for_what_lies_before_them() -> None:
    data = png(6, 4).read()
    at = data.index(b"IDAT") - 4
    early = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + chunk(b"tEXt", b"Comment\0early")
    cut = BufferedReader(BytesIO(data[:at] + early + data[at : at + 12]))  # type: ignore[arg-type]
    assert inspect(cut)[1].orientation == 6


def test_whatever_is_not_what_the_header_says_is_refused() -> None:
    image, display = inspect(png(6, 4))
    assert decode(image, display).width == 6
    for wrong, says in ((replace(display, width=7), "7 x 4"), (replace(display, height=3), "6 x 3")):
        with pytest.raises(ImageError) as caught:
            decode(image, wrong)
        assert str(caught.value) == f"its header says {says} pixels, and it decodes to 6 x 4; save it anew"


@pytest.mark.parametrize(
    ("values", "white", "dark"),
    [
        (np.uint16([[0, 16383]]), 65535, True),
        (np.uint16([[0, 16384]]), 65535, False),
        (np.int32([[0, 63]]), 255, True),
        (np.int32([[0, 64]]), 255, False),
        (np.int32([[0, 255]]), 255, False),
        (np.int32([[0, 256]]), 65535, True),
        (np.int32([[-1, 255]]), 255, True),
        (np.float32([[0, 0.249]]), 1, True),
        (np.float32([[0, 0.25]]), 1, False),
        (np.float32([[0, 1]]), 1, False),
        (np.float32([[0, 1.01]]), 255, True),
    ],
)
def test_white_and_what_is_dark(tmp_path: Path, values: np.ndarray, white: float, dark: bool) -> None:
    Image.fromarray(values).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert white_of(image, colours(image)) == (white, dark)
    assert measure_image(tmp_path / "x.tif").notes == (("levels", "levels_dark") if dark else ("levels",))


def test_floats_of_a_format_that_states_no_range_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "x.pfm").write_bytes(b"Pf\n2 1\n-1.0\n" + np.array([0, 200], "<f4").tobytes())
    assert load_image(tmp_path / "x.pfm")[0, :, 0].tolist() == [0, 200]
    with image_file(tmp_path / "x.pfm") as file:
        assert inspect(file)[1].rules == ("white 0, 1",)


def test_the_last_rows_of_a_large_image_count(tmp_path: Path) -> None:
    values = np.full((1030, 1024), 20_000, np.uint16)
    values[-1, -1] = 60_000
    Image.fromarray(values).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert white_of(image, colours(image)) == (65535, False)
    values = values.astype(np.int32) - 20_000
    values[-1, -1] = -5
    Image.fromarray(values).save(tmp_path / "x.tif")
    with Image.open(tmp_path / "x.tif") as image:
        assert white_of(image, colours(image)) == (255, True)


def bits(path: Path, count: int, photometric: int = 1) -> Path:
    values = np.array([[0, 255]], "<u2")
    return writers.tiff(path, values.tobytes(), values.shape, {258: count, 262: photometric})


@pytest.mark.parametrize(
    ("write", "rules"),
    [
        (lambda path: bits(path, 16), ()),
        (lambda path: bits(path, 16, 0), ("white 65535 inverted, 1",)),
        (lambda path: Image.fromarray(np.int32([[0, 9]])).save(path), ("white 0, 1",)),
        (lambda path: Image.fromarray(np.float32([[0, 9]])).save(path), ("white 0, 1",)),
        (
            lambda path: writers.tiff(path, writers.twelve_bits(np.uint16([[0, 4095]])), (1, 2), {258: 12}),
            ("white 4095, 1",),
        ),
        (
            lambda path: Image.new("RGB", (4, 4)).save(path, icc_profile=writers.rgb_profile(writers.P3)),
            ("profile to sRGB, 1",),
        ),
    ],
)
def test_what_is_displayed_is_named_by_its_rules(tmp_path: Path, write: object, rules: tuple[str, ...]) -> None:
    """The names of stored features hang on them: a change that is meant raises the rules' version."""
    path = tmp_path / "x.tif"
    write(path)  # type: ignore[operator]
    with image_file(path) as file:
        display = inspect(file)[1]
    assert display.rules == rules
    plain = hashlib.sha256(path.read_bytes()).hexdigest()
    named = hashlib.sha256("\n".join([plain, *rules]).encode()).hexdigest()
    assert measure_image(path).digest == (named if rules else plain)
    assert f", rules {VERSION}" in measured_by()
    assert VERSION == 1


def test_heic_is_named_with_the_plugin_that_decodes_it(tmp_path: Path) -> None:
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    Image.fromarray(writers.noise(16, 16)).save(tmp_path / "x.heic")
    with image_file(tmp_path / "x.heic") as file:
        assert inspect(file)[1].rules == (f"pillow-heif {plugin.__version__}",)
    assert measured_by().endswith(f", pillow-heif {plugin.__version__}")


@pytest.mark.parametrize(("subfile", "raw"), [(0, False), (1, True), (2, False), (3, True)])
def test_a_page_of_a_tiff_is_no_preview(tmp_path: Path, subfile: int, raw: bool) -> None:
    path = writers.tiff(tmp_path / "x.tif", bytes(12), (3, 4), {254: subfile, 258: 8})
    if raw:
        with pytest.raises(ImageError, match=r"x.tif: a camera's raw file, whose first page is a preview"):
            measure_image(path)
    else:
        assert measure_image(path)[:2] == (4, 3)


@pytest.mark.parametrize(("red", "same"), [(0.4361, True), (0.4369, True), (0.4371, False)])
def test_a_profile_within_two_levels_is_srgb(tmp_path: Path, red: float, same: bool) -> None:
    primaries = ((red, *writers.SRGB[0][1:]), *writers.SRGB[1:])
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", icc_profile=writers.rgb_profile(primaries))
    assert measure_image(tmp_path / "x.png").notes == (() if same else ("profile",))


BOX = b"\0\0\0\x18ftyp"


@pytest.mark.parametrize(
    ("head", "promised", "what"),
    [
        (b"\xff\xd8\xff\xe0", "JPEG", "it begins as JPEG, but its header is damaged or of a kind Pillow does not read"),
        (b"MM\0*", "TIFF", "it begins as TIFF, but"),
        (b"II+\0", "BigTIFF", "it begins as BigTIFF, but"),
        (b"GIF89a", "GIF", "it begins as GIF, but"),
        (b"\xffO\xff\x51", "JPEG 2000", "it begins as JPEG 2000, but"),
        (b"RIFF\1\2\3\4WEBPVP8 ", "WebP", "it begins as WebP, but"),
        (b"RIFF\1\2\3\4WAVE", None, "none of the image formats; it begins with b'RIFF\\x01\\x02\\x03\\x04'"),
        (b"riff\1\2\3\4WEBP", None, "none of the image formats; it begins with b'riff\\x01\\x02\\x03\\x04'"),
        (BOX + b"heic", "HEIC", "a HEIC image, which needs a plugin: pip install pillow-heif"),
        (BOX + b"avis", "AVIF", "an AVIF image, which this Pillow was built without"),
        (BOX + b"crx ", None, "a camera's raw file; export it as JPEG or TIFF"),
        (BOX + b"mp42", None, "a video or another ISO media file"),
        (b"\xef\xbb\xbf \n<HTML>", None, "an HTML page, as a failed download leaves"),
        (b"<?xml version='1.0'?><svg/>", None, "an SVG drawing; export it as PNG"),
        (b"<?xml version='1.0'?><a/>", None, "an XML document"),
        (
            b"a\tb\r\n" + b"x" * 59,
            None,
            f"text; it begins with {('a' + chr(9) + 'b' + chr(13) + chr(10) + 'x' * 19)!r}",
        ),
        (b"x" * 64 + b"\0\xff", None, f"text; it begins with {'x' * 24!r}"),
        (b"x" * 63 + b"\x08", None, "none of the image formats; it begins with b'xxxxxxxx'"),
        (b"x" * 63 + b"\x7f", None, "none of the image formats"),
        (b"x" * 63 + b"\xff", None, "none of the image formats"),
        (b"\0" * 9, None, "zero bytes only, as an interrupted download leaves"),
        (b"\0" * 9 + b"\1", None, "none of the image formats"),
    ],
)
def test_beginnings_of_files(head: bytes, promised: str | None, what: str) -> None:
    assert signature(head) == promised
    assert describe(head).startswith(what)


def test_what_can_be_decoded_is_not_blamed_on_a_plugin() -> None:
    assert describe(BOX + b"heic", decodes=frozenset({"AVIF"})).startswith("a HEIC image")
    assert describe(BOX + b"heic", decodes=frozenset({"HEIC"})).startswith("it begins as HEIC, but")
    assert describe(BOX + b"avif", decodes=frozenset({"HEIC"})).startswith("an AVIF image")


def test_kinds_of_files_by_their_mode(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    assert kind_of((tmp_path / "link").lstat().st_mode) == "a link"
    assert kind_of(tmp_path.stat().st_mode) == "a folder"
    assert kind_of(Path("/dev/null").stat().st_mode) == "a device"
    (tmp_path / "file").touch()
    assert kind_of((tmp_path / "file").stat().st_mode) is None
