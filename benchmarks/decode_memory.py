"""Memory and time from an image file to its canvas: ours beside the plain way, a process for each.

Plain: Pillow decodes the whole, it becomes RGB, an array, float32, and is stretched by PyTorch. Wanted: the same bits
in less memory, never slower; of JPEGs above the border (:data:`diffps.images.display.REDUCED_ABOVE`), which are decoded
smaller, memory in proportion to the canvas.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

RESULTS = Path(__file__).parent / "results"
# Name -> megapixels, of 4:3; how it is saved.
CASES: dict[str, tuple[int, dict[str, Any]]] = {
    "12 MP JPEG": (12, {"format": "JPEG", "quality": 90}),
    "50 MP JPEG": (50, {"format": "JPEG", "quality": 90}),
    "108 MP JPEG": (108, {"format": "JPEG", "quality": 90}),
    "108 MP JPEG, progressive": (108, {"format": "JPEG", "quality": 90, "progressive": True}),
    "200 MP JPEG": (200, {"format": "JPEG", "quality": 90}),
    "50 MP PNG": (50, {"format": "PNG", "compress_level": 1}),
    "108 MP PNG": (108, {"format": "PNG", "compress_level": 1}),
    "108 MP TIFF, LZW": (108, {"format": "TIFF", "compression": "tiff_lzw"}),
}


def draw(path: Path, megapixels: int, options: dict[str, Any]) -> None:
    """Smooth colours with fine noise, so that files have the sizes of photographs."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = round(megapixels * 1e6 / height)
    rng = np.random.default_rng(megapixels)
    rough = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    picture = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC)).copy()
    for top in range(0, height, 512):
        part = picture[top : top + 512]
        part += rng.integers(0, 6, part.shape, np.uint8).clip(max=255 - part)
    Image.fromarray(picture).save(path, **options)


def child(side: str, path: Path, canvas: int) -> None:
    """Print peak bytes above those before, seconds and a digest of the canvas."""
    import torch
    from torch.nn import functional as F

    from diffps.geometry import Canvas
    from diffps.images import canvas_tensor, to_canvas_tensor

    torch.set_num_threads(1)
    Image.MAX_IMAGE_PIXELS = None
    to_canvas_tensor(np.zeros((64, 64, 3), np.uint8), Canvas(64, 64))
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).convert("L").tobytes()
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    before, began = _status("VmRSS"), time.perf_counter()
    if side == "ours":
        tensor = canvas_tensor(path, Canvas(canvas, canvas), max_pixels=10**9)
    else:
        with Image.open(path) as file:
            file.load()
            image = np.array(file.convert("RGB"))
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float() / 127.5 - 1
        tensor = F.interpolate(pixels, (canvas, canvas), mode="bilinear", align_corners=False, antialias=False)[0]
    seconds = time.perf_counter() - began
    digest = hashlib.sha256(tensor.numpy().tobytes()).hexdigest()
    print(json.dumps({"bytes": _status("VmHWM") - before, "seconds": seconds, "digest": digest}))


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(path: Path, canvas: int, repeats: int) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    with Image.open(path) as file:
        pixels = file.width * file.height
    for _ in range(repeats):
        for side in random.sample(sorted(found), 2):
            command = [sys.executable, __file__, "--child", side, str(path), "--canvas", str(canvas)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[side].append(json.loads(done.stdout))
    row: dict[str, Any] = {"canvas": canvas, "pixels": pixels, "file_bytes": path.stat().st_size}
    for side, runs in found.items():
        row[side] = {
            "bytes_per_pixel": [round(run["bytes"] / pixels, 2) for run in runs],
            "megabytes": round(statistics.median(run["bytes"] for run in runs) / 1e6),
            "seconds": sorted(round(run["seconds"], 3) for run in runs),
        }
    row["same_bits"] = len({run["digest"] for runs in found.values() for run in runs}) == 1
    ratios = [ours["seconds"] / plain["seconds"] for ours, plain in zip(found["ours"], found["plain"], strict=True)]
    row["time_ratio"] = sorted(round(ratio, 2) for ratio in ratios)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "FILE"))
    parser.add_argument("--canvas", type=int, nargs="+", default=[640, 1280])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="12 megapixels only; writes nothing")
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child[0], Path(arguments.child[1]), arguments.canvas[0])
        return
    Image.MAX_IMAGE_PIXELS = None
    rows: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (megapixels, options) in CASES.items():
            if arguments.quick and megapixels > 12:
                continue
            path = Path(folder) / "image"
            draw(path, megapixels, options)
            rows[name] = [measure(path, canvas, arguments.repeats) for canvas in arguments.canvas]
            print(name, *(json.dumps(row) for row in rows[name]), sep="\n  ", flush=True)
    if not arguments.quick:
        import PIL

        machine = {"cores": os.cpu_count(), "python": platform.python_version(), "pillow": PIL.__version__}
        RESULTS.mkdir(exist_ok=True)
        content = {"machine": {**machine, "load": os.getloadavg()[0]}, "cases": rows}
        (RESULTS / "decode_memory.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
