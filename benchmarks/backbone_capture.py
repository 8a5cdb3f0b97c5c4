"""Reading taps while the UNet runs: what it costs beside a forward that keeps nothing, and what stopping early saves.

    python benchmarks/backbone_capture.py           # 0.4 of SD 2.1's width at canvas 512, its true width at canvas 256
    python benchmarks/backbone_capture.py --quick   # tiny, seconds, writes nothing

Sides take turns in an order drawn anew each round, on the same weights and latents, batch 1, float32; ours and explicit
attention are compared before they are timed. Memory is what torch's allocator holds at most above weights and inputs.
"""

import argparse
from typing import Any

import torch
from backbone_common import (
    NARROW,
    REQUEST,
    TINY,
    TOKENS,
    TRUE,
    ExplicitExtractor,
    Size,
    count_flops,
    difference,
    extractor,
    make_unet,
    make_vae,
    peak_bytes,
    plain_forward,
    ratio,
    spread,
    table,
    take_turns,
    twin,
    write,
)

from diffps.backbone.capture import TapReader
from diffps.backbone.latents import LatentEncoder, NoiseKey

KEYS = [NoiseKey("0", "identity")]
FULL, TRUNCATED, OURS, HOOKS = "plain, whole", "plain, truncated", "ours", "ours, keys of the prompt not fixed"
EXPLICIT, EXPLICIT_TRUNCATED = "explicit attention, whole", "explicit attention, truncated"
ONCE, TWICE = "two timesteps, image encoded once", "two timesteps, two runs"


def measure_forwards(size: Size, canvas: int, rounds: int) -> dict[str, Any]:
    """Seconds, FLOPs and memory of every way through one UNet."""
    unet = make_unet(size)
    own = twin(unet)
    taps = table(unet)
    latents, context = torch.randn(1, 4, canvas // 8, canvas // 8), torch.randn(1, TOKENS, size.text)
    explicit = ExplicitExtractor(unet)

    def hooks() -> None:
        with torch.inference_mode(), TapReader(unet, taps, REQUEST) as reader:
            reader.run(latents, torch.zeros(1), context)

    with extractor(own, context) as ready:
        ways = {
            OURS: lambda: ready.features(latents, 0, "none", KEYS, 0),
            HOOKS: hooks,
            TRUNCATED: lambda: plain_forward(unet, latents, context, True),
            FULL: lambda: plain_forward(unet, latents, context, False),
            EXPLICIT_TRUNCATED: lambda: explicit(latents, context, True),
            EXPLICIT: lambda: explicit(latents, context, False),
        }
        distance = difference(ways[OURS](), ways[EXPLICIT]())
        if distance > 1e-3:
            raise SystemExit(f"ours and explicit attention differ by {distance:.1e}")
        memory = {way: peak_bytes(run) for way, run in ways.items()}
        flops = {way: count_flops(ways[way]) for way in (OURS, TRUNCATED, FULL)}
        seconds = take_turns(ways, rounds)
    return {
        "size": size.name,
        "canvas": canvas,
        "parameters": sum(weight.numel() for weight in unet.parameters()),
        "rounds": rounds,
        "largest_relative_difference_to_explicit": distance,
        "seconds": {way: spread(values) for way, values in seconds.items()},
        "peak_bytes": memory,
        "flops": flops,
        "ours_to_truncated_time": ratio(seconds, OURS, TRUNCATED),
        "hooks_alone_to_truncated_time": ratio(seconds, HOOKS, TRUNCATED),
        "wanted_to_truncated_time": 1.05,
        "truncated_to_full_time": ratio(seconds, TRUNCATED, FULL),
        "truncated_to_full_flops": flops[TRUNCATED] / flops[FULL],
        "ours_to_explicit_time": ratio(seconds, OURS, EXPLICIT),
        "ours_to_explicit_truncated_time": ratio(seconds, OURS, EXPLICIT_TRUNCATED),
        "ours_to_explicit_memory": memory[OURS] / memory[EXPLICIT],
    }


def measure_timesteps(size: Size, canvas: int, rounds: int) -> dict[str, Any]:
    """Two timesteps of one image, from one encoding and from two."""
    encoder = LatentEncoder(make_vae(size), "cpu")
    image, context = torch.rand(1, 3, canvas, canvas) * 2 - 1, torch.randn(1, TOKENS, size.text)

    def encode() -> torch.Tensor:
        return encoder.latents(encoder.moments(image), "mean", KEYS, 0)

    with extractor(make_unet(size), context) as ready:

        def once() -> None:
            latents = encode()
            for timestep in (0, 50):
                ready.features(latents, timestep, "seeded", KEYS, 0)

        def twice() -> None:
            for timestep in (0, 50):
                ready.features(encode(), timestep, "seeded", KEYS, 0)

        flops = {ONCE: count_flops(once), TWICE: count_flops(twice)}
        seconds = take_turns({ONCE: once, TWICE: twice}, rounds)
    return {
        "size": size.name,
        "canvas": canvas,
        "rounds": rounds,
        "seconds": {way: spread(values) for way, values in seconds.items()},
        "flops": flops,
        "once_to_twice_time": ratio(seconds, ONCE, TWICE),
        "once_to_twice_flops": flops[ONCE] / flops[TWICE],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = [(TINY, 128, 3)] if options.quick else [(NARROW, 512, 9), (TRUE, 256, 5)]
    forwards = [measure_forwards(*case) for case in cases]
    size, canvas, rounds = cases[0]
    content = {"forwards": forwards, "two_timesteps": measure_timesteps(size, canvas, min(rounds, 5))}
    write("backbone_capture", content, options.quick)


if __name__ == "__main__":
    main()
