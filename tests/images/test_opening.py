"""What is taken for an image, and the one line about what is not."""

import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

from diffps.datasets.files import measure_image
from diffps.errors import ImageError, PixelLimitError
from diffps.images import check_scene, image_file, load_image
from diffps.images.contents import describe
from tests.images import writers

FOUND = {
    "the file is empty": b"",
    "zero bytes only": bytes(4096),
    "an HTML page, as a failed download leaves": b"\n<!DOCTYPE html>\n<html><body>404</body></html>",
    "an SVG drawing": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "an XML document": b'<?xml version="1.0"?>\n<annotation/>',
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
    "a git-annex pointer": b"/annex/objects/MD5E-s5--0.jpg\n",
    "a PDF document": b"%PDF-1.4\n",
    "a PostScript document": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "a Photoshop document": b"8BPS\0\1" + bytes(20),
    "a ZIP archive": b"PK\x03\x04" + bytes(20),
    "gzip-compressed": b"\x1f\x8b\x08\0" + bytes(20),
    "a JPEG XL image": b"\xff\x0a\xfa\x1f" + bytes(20),
    "a video or another ISO media file": b"\0\0\0\x18ftypmp42" + bytes(20),
    "a camera's raw file": b"\0\0\0\x18ftypcrx " + bytes(20),
    "a NumPy array": b"\x93NUMPY\1\0" + bytes(20),
    "text; it begins with 'split,image,x,y,w,h": b"split,image,x,y,w,h,person\n",
    "none of the image formats; it begins with b": b"\x01\x02\x03\x04\x05\x06\x07\x08\x09",
    "it begins as JPEG, but": b"\xff\xd8\xff",
    "it begins as PNG, but": b"\x89PNG\r\n\x1a\n" + bytes(20),
    "it begins as TIFF, but": b"II*\0\x08\0\0\0\0\0",
    "it begins as WebP, but": b"RIFF\x10\0\0\0WEBP" + bytes(8),
}


@pytest.mark.parametrize(("what", "data"), FOUND.items(), ids=FOUND)
def test_what_lies_there_is_named(tmp_path: Path, what: str, data: bytes) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(data)
    for read in (load_image, measure_image):
        with pytest.raises(ImageError) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(f"{path}: ")
        assert what in str(caught.value) or "Error" in str(caught.value)
    assert what in describe(data[:512], decodes=frozenset({"HEIC", "AVIF"}))


@pytest.mark.parametrize(("brand", "advice"), [(b"heic", "pip install pillow-heif"), (b"avif", "Pillow 11.3")])
def test_a_format_whose_plugin_is_missing_is_named_with_the_plugin(brand: bytes, advice: str) -> None:
    head = b"\0\0\0\x18ftyp" + brand + bytes(20)
    assert advice in describe(head)
    assert advice not in describe(head, decodes=frozenset({"HEIC", "AVIF"}))


def test_heic_without_the_plugin_is_one_line_about_it(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / "x.heic"
    Image.fromarray(writers.noise(64, 64)).save(path)
    script = "import sys\nsys.modules['pillow_heif'] = None\n"  # as if it were not installed
    script += f"from diffps.images import load_image\nload_image({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "a HEIC image, which needs a plugin: pip install pillow-heif" in done.stderr.splitlines()[-1]


def test_no_program_and_no_guesswork_is_among_the_formats(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="a PostScript document"):
        load_image(tmp_path / "x.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "x.tga")  # without a signature: any bytes might be one
    with pytest.raises(ImageError, match="none of the image formats"):
        load_image(tmp_path / "x.tga")


@pytest.mark.parametrize("suffix", sorted(writers.MODES))
def test_the_name_does_not_decide_what_an_image_is(tmp_path: Path, suffix: str) -> None:
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    path = tmp_path / f"x{suffix}"
    Image.fromarray(writers.noise(20, 30)).save(path, "MPO" if suffix == ".mpo" else None)
    assert load_image(path.rename(tmp_path / "x.dat")).shape == (20, 30, 3)


def special(path: Path, kind: str) -> None:
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        case "a folder":
            path.mkdir()
        case "a device":
            path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a folder", "a device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    special(Path("x.jpg"), kind)
    for read in (load_image, measure_image):
        with pytest.raises(ImageError, match=rf"x.jpg: no regular file \({kind}\)"):
            read(Path("x.jpg"))


class Changing:
    """A path at which another file lies each time that somebody looks."""

    def __init__(self, *paths: Path) -> None:
        self._paths = iter(paths)

    def __fspath__(self) -> str:
        return str(next(self._paths))


def test_what_is_no_regular_file_any_more_when_it_is_opened_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    os.mkfifo(tmp_path / "fifo")
    path = Changing(tmp_path / "x.png", tmp_path / "fifo")
    with pytest.raises(ImageError, match=r": no regular file \(a FIFO\)$"), image_file(path):  # type: ignore[arg-type]
        pass


QUIET = """
import logging, warnings
import diffps.images.opening
logging.getLogger("PIL.TiffImagePlugin").warning("said by a logger")
for module in ("TiffImagePlugin", "JpegImagePlugin", "PngImagePlugin"):
    warnings.warn_explicit("said by Pillow", UserWarning, "x.py", 1, module=f"PIL.{module}")
from PIL import Image
warnings.warn_explicit("a bomb", Image.DecompressionBombWarning, "x.py", 1, module="PIL.Image")
warnings.warn_explicit("said by others", UserWarning, "x.py", 1, module="others")
"""


def test_what_pillow_says_beside_its_errors_is_not_told() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["x.py:1: UserWarning: said by others"]


def test_what_is_not_there_or_has_an_impossible_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    for name in ("none.jpg", "link.jpg", "nul\0.jpg", "x" * 300):
        with pytest.raises(ImageError, match="no readable file"):
            load_image(tmp_path / name)


def png_of(path: Path, width: int, height: int) -> Path:
    """A PNG of one grey, a thousandth of its pixels in size, written without holding them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    row = bytes(1 + width)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b""))
    return path


def test_too_many_pixels_are_refused_by_name_number_and_key(tmp_path: Path) -> None:
    path = png_of(tmp_path / "x.png", 200, 100)
    with pytest.raises(PixelLimitError) as caught:
        load_image(path, max_pixels=19_999)
    assert str(caught.value) == (
        f"{path}: has 20,000 pixels, more than the 19,999 allowed; make it smaller or raise index.max_pixels"
    )
    assert load_image(path, max_pixels=20_000).shape == (100, 200, 3)
    with pytest.raises(PixelLimitError, match="20,000 pixels"):
        check_scene(path, measure_image(path).digest, max_pixels=1)


@pytest.mark.parametrize(("width", "height"), [(20_000, 10_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_a_decompression_bomb_is_refused_from_its_header(tmp_path: Path, width: int, height: int) -> None:
    small = png_of(tmp_path / "x.png", 8, 8).read_bytes()
    head = struct.pack(">II", width, height) + small[24:29]
    (tmp_path / "x.png").write_bytes(small[:16] + head + struct.pack(">I", zlib.crc32(b"IHDR" + head)) + small[33:])
    with pytest.raises(PixelLimitError, match=f"has {width * height:,} pixels, more than the 178,956,970 allowed"):
        measure_image(tmp_path / "x.png")


def test_a_bomb_below_the_limit_is_refused_by_its_size(tmp_path: Path) -> None:
    Image.new("RGB", (12_000, 12_000), "white").save(tmp_path / "x.webp", lossless=True, method=0)
    with pytest.raises(PixelLimitError, match=r"claims 144,000,000 pixels in [\d,]+ bytes: a decompression bomb"):
        load_image(tmp_path / "x.webp")


def test_an_empty_page_is_no_bomb(tmp_path: Path) -> None:
    assert measure_image(png_of(tmp_path / "x.png", 8_000, 4_000))[:2] == (8_000, 4_000)


def test_more_pixels_than_pillow_takes_by_itself_can_be_allowed(tmp_path: Path) -> None:
    path = png_of(tmp_path / "x.png", 20_000, 10_000)
    script = "from diffps.datasets.files import measure_image\nfrom pathlib import Path\n"
    script += f"print(measure_image(Path({str(path)!r}), max_pixels=2 * 10**8)[:2])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(20000, 10000)"
    assert done.stderr == ""


def test_an_image_without_pixels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bmp").write_bytes(
        b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 0, 0, 1, 24, 0, 0, 0, 0, 0, 0)
    )
    with pytest.raises(ImageError, match="x.bmp: "):
        load_image(tmp_path / "x.bmp")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif", ".gif", ".bmp", ".jp2", ".ppm"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_file_is_one_line(tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"x{suffix}"
    Image.fromarray(writers.noise(64, 64)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ImageError, match=rf"x{suffix}: not a readable image \(.*\); replace it or drop it") as caught:
        load_image(path)
    assert "\n" not in str(caught.value)
