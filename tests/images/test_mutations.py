"""Damaged images of every format end in a picture or in one line: never a traceback, a signal, a hang or a gigabyte."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.images import writers

ROOT = Path(__file__).parents[2]
LIMIT_MB = 1000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images of every format and mode, with orientation, profile and several frames where there are such."""
    folder = tmp_path_factory.mktemp("samples")
    pytest.importorskip("pillow_heif").register_heif_opener()
    for suffix, modes in writers.MODES.items():
        for mode in modes:
            image = writers.in_mode(writers.noise(24, 17), mode)
            options: dict[str, object] = {}
            if suffix in writers.ORIENTED:
                options["exif"] = writers.orientation(6).tobytes()
            if suffix in (".jpg", ".png", ".tif", ".webp", ".avif") and mode in ("RGB", "RGBA", "P"):
                options["icc_profile"] = writers.rgb_profile(writers.P3, 2.2)
            image.save(folder / f"{mode.replace(';', '')}{suffix}", "MPO" if suffix == ".mpo" else None, **options)
            if suffix in writers.ANIMATED:
                frames = {"save_all": True, "append_images": [ImageOps.flip(image)]}
                kind = "MPO" if suffix == ".mpo" else None
                image.save(folder / f"{mode.replace(';', '')}-frames{suffix}", kind, **frames, **options)
    rgb = Image.fromarray(writers.noise(24, 17))
    rgb.save(folder / "progressive.jpg", progressive=True)
    for compression in ("tiff_lzw", "tiff_deflate", "jpeg", "packbits"):
        rgb.save(folder / f"{compression}.tif", compression=compression)
    return folder


def damage(folder: Path, suffix: str, count: int, seed: int) -> None:
    script = Path(__file__).with_name("mutations.py")
    command = [sys.executable, "-W", "ignore", script, folder, suffix, str(count), str(seed)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env, timeout=900)
    assert done.returncode == 0, f"{suffix}, seed {seed}: {done.returncode} {done.stderr[-2000:]}"
    read, refused, peak = map(int, done.stdout.split())
    assert read + refused == 2 * count
    assert min(read, refused) > 0
    assert peak < LIMIT_MB


@pytest.mark.parametrize("suffix", sorted(writers.MODES))
def test_a_hundred_damaged_images(samples: Path, suffix: str) -> None:
    damage(samples, suffix, 100, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", sorted(writers.MODES))
def test_a_thousand_damaged_images(samples: Path, suffix: str) -> None:
    damage(samples, suffix, 1000, seed=1)
