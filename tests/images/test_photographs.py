"""Real photographs, where they lie beside the repository."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from diffps.datasets.discovery import find_images
from diffps.datasets.files import measure_images
from diffps.geometry import Canvas
from diffps.images import canvas_tensor, load_scene

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("folder", ["photos", "cuhk-sysu/images"])
def test_photographs_are_ordinary_images(folder: str) -> None:
    """Decoded as Pillow alone does it, and stretched as PyTorch alone does it: no rule of ours applies to them."""
    if not (DATA / folder).is_dir():
        pytest.skip("no photographs beside the repository")
    paths = [DATA / folder / name for name in find_images(DATA / folder).images]
    assert paths
    canvas = Canvas(256, 320)
    for path, facts in zip(paths, measure_images(paths, threads=2), strict=True):
        assert facts.digest == hashlib.sha256(path.read_bytes()).hexdigest()
        assert not set(facts.notes) - {"turned"}
        pixels = load_scene(path, facts.digest)
        with Image.open(path) as file:
            plain = np.asarray(ImageOps.exif_transpose(file).convert("RGB"))
        assert np.array_equal(pixels, plain)
        assert pixels.shape == (facts.height, facts.width, 3)
        whole = torch.tensor(plain).permute(2, 0, 1)[None].float() / 127.5 - 1
        size = (canvas.height, canvas.width)
        stretched = F.interpolate(whole, size, mode="bilinear", align_corners=False, antialias=False)[0]
        assert torch.equal(canvas_tensor(path, canvas, digest=facts.digest), stretched)
