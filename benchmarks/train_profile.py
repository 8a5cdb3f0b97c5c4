"""Where a training step from the cache spends its time: int8 features in, weights changed.

    OMP_NUM_THREADS=1 python benchmarks/train_profile.py               # canvas 640 and 1280, C = 256: minutes
    OMP_NUM_THREADS=1 python benchmarks/train_profile.py --compiled    # and torch.compile of the heads: minutes more

A step is what training does with a batch of one image: int8 features expanded to float32 (`expand_once`), losses,
gradients, the optimiser. Beside it the same step in bfloat16 (`train.precision`); the expansion alone, and how it was
done before (scales written out for every position); suppression of 12,000 proposals, and torchvision's; in turns.
``--compiled``: the same step with each part of the head through torch.compile, and what its first step takes.
Then the ten operators with the largest time of their own, from torch.profiler over one step. Writes
results/train_profile.json.
"""

import argparse
import random
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from heads_parts import IDENTITIES, QUEUE, TAPS, guidance_map, person_boxes, shapes
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torchvision.ops import nms
from training_common import write

from diffps.features import SCALE_BLOCK, Feature, expand_once
from diffps.geometry import Canvas
from diffps.heads.config import ModelConfig, OIMConfig
from diffps.heads.config_rois import BoxConfig, ReIDConfig
from diffps.model import PersonSearcher, Target, build_searcher
from diffps.schedule import TrainingConfig
from diffps.suppression import suppress
from diffps.training import HeadTrainer


def int8_features(canvas: int) -> dict[str, Feature]:
    """One image as the store holds it."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, (height, width, channels) in shapes(canvas).items():
        values = torch.randint(-127, 128, (1, height, width, channels), generator=generator, dtype=torch.int8)
        blocks = -(-height * width // SCALE_BLOCK)
        scales = 0.02 * torch.rand(1, blocks, channels, generator=generator)
        found[name] = Feature(values, scales.half())
    side = shapes(canvas)[TAPS.guidance].height
    return found | {TAPS.guidance: Feature(guidance_map(side, canvas))}


def expand(features: dict[str, Feature]) -> dict[str, Feature]:
    return {name: expand_once(feature, None, torch.device("cpu")) for name, feature in features.items()}


def expand_as_before(features: dict[str, Feature]) -> dict[str, Feature]:
    """Three passes over memory: values, scales of every position, their product."""
    found = {}
    for name, feature in features.items():
        values = feature.values.float()
        if feature.scales is not None:
            positions = values.shape[1] * values.shape[2]
            scales = feature.scales.float().repeat_interleave(SCALE_BLOCK, dim=1)[:, :positions]
            values = values * scales.reshape(values.shape)
        found[name] = Feature(values)
    return found


def proposals(canvas: int) -> tuple[Tensor, Tensor]:
    """12,000 boxes of persons' shapes anywhere on the canvas, and their scores."""
    generator = torch.Generator().manual_seed(1)
    corner = torch.rand(12_000, 2, generator=generator) * 0.8 * canvas
    height = canvas * (0.1 + 0.25 * torch.rand(12_000, 1, generator=generator))
    return torch.cat([corner, corner + torch.cat([0.4 * height, height], dim=1)], dim=1), torch.rand(
        12_000, generator=generator
    )


def trainer(canvas: int, channels: int, precision: str) -> HeadTrainer:
    config = ModelConfig(
        channels=channels,
        head_channels=2 * channels,
        head_weights="random",
        box=BoxConfig(samples=128),
        reid=ReIDConfig(samples=128),
        oim=OIMConfig(queue=QUEUE),
    )

    def build() -> PersonSearcher:
        words = torch.randn(4, 1024, generator=torch.Generator().manual_seed(3))
        return build_searcher(config, TAPS, shapes(canvas), Canvas(canvas, canvas), words, IDENTITIES)

    settings = replace(TrainingConfig(), precision=precision)  # type: ignore[arg-type]
    return HeadTrainer(build, TAPS.names, settings, 1000)


def measure(canvas: int, channels: int, rounds: int, compiled: bool) -> dict[str, Any]:
    features = int8_features(canvas)
    assert all(
        torch.equal(a.values, b.values)
        for a, b in zip(expand(features).values(), expand_as_before(features).values(), strict=True)
    )
    target = Target(person_boxes(canvas), torch.arange(len(person_boxes(canvas))))
    plain, half = trainer(canvas, channels, "float32"), trainer(canvas, channels, "bfloat16")
    ways: dict[str, Callable[[], object]] = {
        "step": lambda: plain.step(expand(features), [target], ["scene"]),
        "step, expanded as before": lambda: plain.step(expand_as_before(features), [target], ["scene"]),
        "step in bfloat16": lambda: half.step(expand(features), [target], ["scene"]),
        "expansion": lambda: expand(features),
        "expansion as before": lambda: expand_as_before(features),
    }
    boxes, scores = proposals(canvas)
    assert torch.equal(suppress(boxes, scores, 0.7, 2000), nms(boxes, scores, 0.7)[:2000])
    ways |= {
        "suppression": lambda: suppress(boxes, scores, 0.7, 2000),
        "suppression as before": lambda: nms(boxes, scores, 0.7)[:2000],
    }
    if compiled:
        parts = trainer(canvas, channels, "float32")
        for part in parts.model.children():
            part.compile(dynamic=False)
        ways["step, compiled"] = lambda: parts.step(expand(features), [target], ["scene"])
    first = {}
    for name, work in ways.items():
        began = time.process_time()
        work()
        first[name] = round(time.process_time() - began, 4)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    rng = random.Random(0)
    for _ in range(rounds):
        for way in rng.sample(list(ways), len(ways)):
            began = time.process_time()
            ways[way]()
            seconds[way].append(time.process_time() - began)
    with profile(activities=[ProfilerActivity.CPU]) as found:
        ways["step"]()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    total = sum(row.self_cpu_time_total for row in rows)
    largest = [
        {"operator": row.key, "calls": row.count, "share": round(row.self_cpu_time_total / total, 4)}
        for row in rows[:10]
    ]
    table = {way: [round(float(q), 4) for q in np.quantile(times, [0.25, 0.5, 0.75])] for way, times in seconds.items()}
    for way, quartiles in table.items():
        print(f"{canvas} {way:26} {quartiles[1]:.4f} s ({quartiles[0]:.4f} to {quartiles[2]:.4f})")
    for row in largest:
        print(f"  {row['share']:6.1%} {row['calls']:5} {row['operator']}", flush=True)
    return {"processor_seconds": table, "first": first, "largest": largest}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--quick", action="store_true", help="canvas 256, C = 32, nothing is written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.quick:
        measure(256, 32, 1, options.compiled)
        return
    result = {
        str(canvas): measure(canvas, options.channels, options.rounds, options.compiled) for canvas in (640, 1280)
    }
    facts = {"channels": options.channels, "rois": 128, "threads": 1, "torch": torch.__version__}
    write("train_profile", facts | {"canvas": result})


if __name__ == "__main__":
    main()
