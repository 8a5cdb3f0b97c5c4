"""Images per second of `diffps extract`, reading moments and writing the store included, against the bare forward.

    python benchmarks/backbone_extract.py           # 0.4 of SD 2.1's width at canvas 384, 24 images, a few minutes
    python benchmarks/backbone_extract.py --quick   # tiny, seconds, writes nothing

Every round extracts into a fresh store that holds the moments only, and runs the bare truncated forward of the same
UNet on as many latents in the same batches; the two take turns in an order drawn anew. The clock of `extract` starts
when its first batch reaches the UNet and stops when it returns, all manifests written; what comes before, loading the
checkpoint and encoding the prompt, happens once per run whatever the number of images and is told apart.
"""

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from backbone_common import TOKENS, plain_forward, ratio, spread, take_turns, write
from training_common import make_project

from diffps.backbone.builtin.topology import Widths, make_random
from diffps.backbone.checkpoint import load_checkpoint
from stages import encode, extract
from stages.features.backbone import PassRunner, unet_batch
from stages.job import QuietJob
from stages.params import Params, override

NARROW = Widths(unet=(128, 256, 512, 512), heads=(2, 4, 8, 8), text=256)
EXTRACT, BARE = "extract", "bare forward"
SHARD = 8


class Timed:
    """Extraction into fresh stores; ``seconds`` per run from the first batch on, ``starts`` what came before it."""

    def __init__(self, params: Params, moments: Path) -> None:
        self._params, self._moments = params, moments
        self.seconds: list[float] = []
        self.starts: list[float] = []
        self.nbytes = 0

    def prepare(self) -> Params:
        store = Path("store")
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self._moments, store)
        return override(self._params, {"runtime.store": str(store)}, "benchmark")

    def run(self) -> None:
        params = self.prepare()
        features, firsts = PassRunner.features, []

        def noted(runner: PassRunner, *args: Any) -> Iterator[Any]:
            firsts.append(time.perf_counter())
            return features(runner, *args)

        called = time.perf_counter()
        with patch.object(PassRunner, "features", noted):
            extract.run(params, QuietJob(params.runtime))
        self.seconds.append(time.perf_counter() - firsts[0])
        self.starts.append(firsts[0] - called)
        self.nbytes = sum(path.stat().st_size for path in Path("store/features.zarr").rglob("*") if path.is_file())


def measure(canvas: int, widths: Widths, images: int, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_random(Path(temporary) / "checkpoint", widths)
        changes = {
            "encode.canvas": [canvas, canvas],
            "encode.checkpoint": str(folder),
            "index.streets.train_scenes": images - SHARD,
            "index.streets.test_scenes": SHARD,
            "runtime.shard": SHARD,
        }
        params = make_project(Path(temporary) / "project", changes)
        moments = Path("moments")
        alone = override(params, {"runtime.store": str(moments)}, "benchmark")
        encode.run(alone, QuietJob(alone.runtime))

        unet = load_checkpoint(str(folder)).load_unet(torch.float32)
        batch = unet_batch(params.runtime, "cpu")
        latents = torch.randn(batch, 4, canvas // 8, canvas // 8)
        context = torch.randn(1, TOKENS, widths.text)
        timed = Timed(params, moments)

        def bare() -> None:
            for _ in range(images // batch):
                plain_forward(unet, latents, context, True)

        whole = take_turns({EXTRACT: timed.run, BARE: bare}, rounds)
        seconds = {EXTRACT: timed.seconds[1:], BARE: whole[BARE]}
        return {
            "canvas": canvas,
            "parameters": sum(weight.numel() for weight in unet.parameters()),
            "images": images,
            "batch": batch,
            "rounds": rounds,
            "encoding": params.extract.encoding,
            "bytes_per_image": timed.nbytes // images,
            "images_per_second": {way: spread([images / value for value in values]) for way, values in seconds.items()},
            "seconds_before_the_first_batch": spread(timed.starts[1:]),
            # How many times the bare forward's images per second extraction reaches.
            "share_of_bare_forward": ratio(seconds, BARE, EXTRACT),
            "share_with_the_start": ratio(whole, BARE, EXTRACT),
            "wanted_share": 0.9,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    found = measure(128, Widths(), 16, 2) if options.quick else measure(384, NARROW, 24, 5)
    write("backbone_extract", found, options.quick)


if __name__ == "__main__":
    main()
