"""A picture on the canvas costs the memory of what is read of it, and is what the plain stretch of the whole gives."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from diffps.datasets.files import measure_image
from diffps.errors import ImageError
from diffps.geometry import Canvas
from diffps.images import canvas_tensor, check_scene, decode, image_file, inspect, load_image, to_canvas_tensor
from tests.images import writers

SIDES = st.one_of(st.integers(1, 300), st.sampled_from([1309, 1468, 2049]))
CANVAS_SIDES = st.integers(1, 11).map(lambda n: 64 * n)


def plain(image: np.ndarray, canvas: Canvas) -> torch.Tensor:
    """RESIZE_RULE as PyTorch writes it, over the whole picture."""
    pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    size = (canvas.height, canvas.width)
    return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=False)[0]


@settings(max_examples=40)
@given(SIDES, SIDES, CANVAS_SIDES, CANVAS_SIDES)
def test_the_canvas_has_the_bits_of_the_plain_stretch(height: int, width: int, rows: int, columns: int) -> None:
    image, canvas = writers.noise(height, width), Canvas(rows, columns)
    assert torch.equal(to_canvas_tensor(image, canvas), plain(image, canvas))
    assert torch.equal(to_canvas_tensor(image, canvas, "hflip"), plain(image, canvas).flip(2))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_bits_are_those_of_the_plain_stretch_on_any_number_of_threads(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        image, canvas = writers.noise(1309, 1468), Canvas(320, 256)
        assert torch.equal(to_canvas_tensor(image, canvas), plain(image, canvas))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.tif"])
def test_a_file_on_the_canvas_is_its_picture_on_the_canvas(tmp_path: Path, name: str, orientation: int) -> None:
    path, canvas = tmp_path / name, Canvas(64, 128)
    Image.fromarray(writers.noise(300, 700)).save(path, exif=writers.orientation(orientation))
    assert torch.equal(canvas_tensor(path, canvas), plain(load_image(path), canvas))
    assert torch.equal(canvas_tensor(path, canvas, "hflip"), plain(load_image(path), canvas).flip(2))
    with pytest.raises(ImageError, match="changed since it was indexed"):
        canvas_tensor(path, canvas, digest="0" * 64)


def test_read_only_pixels_are_taken(tmp_path: Path) -> None:
    image = writers.noise(64, 64)
    image.flags.writeable = False
    assert to_canvas_tensor(image, Canvas(64, 64)).shape == (3, 64, 64)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey JPEG of 90 million pixels, as a camera held upright stores it: light grows from its left to its right."""
    path = tmp_path_factory.mktemp("large") / "x.jpg"
    row = np.linspace(0, 255, 9600).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row, (9400, 9600))).save(path, exif=writers.orientation(6))
    return path


def test_a_jpeg_above_the_border_is_decoded_smaller(large: Path) -> None:
    facts, canvas = measure_image(large), Canvas(128, 64)
    assert facts[:2] == (9400, 9600)  # boxes are in pixels of the displayed image, whatever is decoded
    assert facts.notes == ("turned", "reduced")
    assert facts.digest != hashlib.sha256(large.read_bytes()).hexdigest()
    tensor = canvas_tensor(large, canvas, digest=facts.digest)
    expected = torch.linspace(-1, 1, 128)[:, None].expand(128, 64)  # turned: from top to bottom
    assert float((tensor - expected).abs().max()) < 0.03
    check_scene(large, facts.digest)
    with pytest.raises(ImageError, match="changed since it was indexed"):
        check_scene(large, hashlib.sha256(large.read_bytes()).hexdigest())


@pytest.mark.parametrize(
    ("enough", "decoded"),
    [((64, 64), (1200, 1175)), ((1200, 1175), (1200, 1175)), ((1201, 64), (2400, 2350)), ((9600, 9400), (9600, 9400))],
)
def test_what_is_decoded_covers_what_is_needed(large: Path, enough: tuple[int, int], decoded: tuple[int, int]) -> None:
    with image_file(large) as file:
        picture = decode(*inspect(file), enough)
    assert (picture.height, picture.width) == decoded


PEAK = """
import sys
from pathlib import Path
from diffps.geometry import Canvas
from diffps.images import canvas_tensor
import torch
torch.nn.functional.interpolate(torch.zeros(1, 3, 64, 64), (64, 64), mode="bilinear")
def peak():
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith("VmHWM:"))
peaks = [peak()]
for path in sys.argv[1:]:
    canvas_tensor(path, Canvas(64, 64))
    peaks.append(peak())
print(*((peak - peaks[0]) * 1024 for peak in peaks[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_photograph_costs_few_bytes_a_pixel(tmp_path: Path, large: Path) -> None:
    ordinary = tmp_path / "x.png"
    Image.new("RGB", (4000, 4000), "grey").save(ordinary)
    command = [sys.executable, "-c", PEAK, large, ordinary]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    of_large, of_both = map(int, done.stdout.split())
    assert of_large / (9400 * 9600) < 0.5
    assert of_both / 4000**2 < 7
