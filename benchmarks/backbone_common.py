"""What the backbone's benchmarks share: SD 2.1's topology, a plain extractor, fair rounds, results."""

import copy
import json
import os
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from diffps.backbone.capture import Request
from diffps.backbone.frozen import Extractor
from diffps.taps import STANDARD_UNET, FeatureName, TapSpec, tap_table

RESULTS = Path(__file__).parent / "results"
TOKENS, SPAN = 77, (1, 2)  # of the prompt, and where its word lies
# What DiffPS reads.
MAP = "up-level3-repeat0-vit-block0-cross-map"
TAPS = (
    MAP,
    "up-level3-repeat1-vit-block0-self-k",
    "up-level3-repeat0-vit-block0-self-v",
    "up-level3-repeat0-vit-block0-self-k",
    "up-level3-repeat0-vit-block0-self-q",
    "up-level2-repeat2-vit-block0-self-q",
    "up-level2-repeat1-vit-block0-self-v",
    "up-level1-repeat2-vit-block0-self-q",
)
REQUEST = Request(TAPS, {"person": SPAN})

Way = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Size:
    """Widths of UNet, its heads, text embedding and VAE, outermost level first."""

    name: str
    unet: tuple[int, int, int, int]
    heads: tuple[int, int, int, int]
    text: int
    vae: tuple[int, int, int, int]


TRUE = Size("SD 2.1", (320, 640, 1280, 1280), (5, 10, 20, 20), 1024, (128, 256, 512, 512))
NARROW = Size("SD 2.1 at 0.4 of its width", (128, 256, 512, 512), (2, 4, 8, 8), 256, (64, 128, 256, 256))
TINY = Size("tiny", (32, 64, 96, 96), (1, 2, 3, 3), 64, (32, 32, 64, 64))


def make_unet(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    import diffusers

    diffusers.logging.set_verbosity_error()
    config = {
        **STANDARD_UNET,
        "block_out_channels": size.unet,
        "attention_head_dim": size.heads,
        "cross_attention_dim": size.text,
    }
    torch.manual_seed(0)
    with torch.device(device):
        unet = diffusers.UNet2DConditionModel(**config, use_linear_projection=True)
    return unet.to(dtype).eval().requires_grad_(False)


def make_vae(size: Size, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    import diffusers

    diffusers.logging.set_verbosity_error()
    torch.manual_seed(0)
    with torch.device(device):
        vae = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=size.vae,
            layers_per_block=2,
            latent_channels=4,
        )
    return vae.to(dtype).eval().requires_grad_(False)


def twin(unet: Any) -> Any:
    """The same UNet once more, on the same weights: what hooks or keys of one replace, the other does not see."""
    return copy.deepcopy(unet, {id(weight): weight for weight in unet.parameters()})


def table(unet: Any) -> dict[str, TapSpec]:
    return tap_table(unet.config)


def extractor(unet: Any, context: Tensor, compiled: bool = False) -> Extractor:
    """Ours, at the noise schedule of Stable Diffusion."""
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    return Extractor(unet, table(unet), alphas, REQUEST, context, compiled=compiled)


class Left(Exception):  # noqa: N818 - leaves a forward, no error
    pass


def plain_forward(unet: Any, latents: Tensor, context: Tensor, truncated: bool) -> None:
    """diffusers' forward, nothing kept; ``truncated`` leaves it after the module of the last tap."""

    def leave(*_: object) -> None:
        raise Left

    last = [spec.module for spec in table(unet).values() if spec.id in TAPS][-1]
    handle = unet.get_submodule(last).register_forward_hook(leave) if truncated else None
    try:
        with torch.inference_mode(), suppress(Left):
            step = torch.zeros(1, device=latents.device)
            unet(latents, step, encoder_hidden_states=context.expand(len(latents), -1, -1), return_dict=False)
    finally:
        if handle is not None:
            handle.remove()


class ExplicitAttention:
    """softmax(QK^T) V with the scores of all heads in memory; keeps what it is asked for on the way."""

    def __init__(self, prefix: str, wanted: Sequence[str], kept: dict[str, Tensor]) -> None:
        self._prefix, self._wanted, self._kept = prefix, wanted, kept

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        for part, value in (("q", q), ("k", k), ("v", v)):
            self._keep(part, value)
        heads = [x.reshape(*x.shape[:2], attn.heads, -1).transpose(1, 2) for x in (q, k, v)]
        scores = (heads[0] @ heads[1].transpose(2, 3)) * attn.scale
        probabilities = scores.softmax(-1)
        self._keep("map", probabilities)
        mixed = (probabilities @ heads[2]).transpose(1, 2).flatten(2)
        out: Tensor = attn.to_out[1](attn.to_out[0](mixed))
        return out

    def _keep(self, part: str, value: Tensor) -> None:
        name = f"{self._prefix}-{part}"
        if name in self._wanted:
            self._kept[name] = value.mean(1)[..., slice(*SPAN)] if part == "map" else value


class ExplicitExtractor:
    """The same taps by replacing the processor of every attention, as the reference extractor does."""

    def __init__(self, unet: Any) -> None:
        self._unet = twin(unet)
        self._kept: dict[str, Tensor] = {}
        prefixes = {spec.module: spec.id.removesuffix("-map") for spec in table(unet).values() if "map" in spec.kind}
        self._unet.set_attn_processor(
            {f"{module}.processor": ExplicitAttention(prefix, TAPS, self._kept) for module, prefix in prefixes.items()}
        )

    def __call__(self, latents: Tensor, context: Tensor, truncated: bool) -> dict[str, Tensor]:
        plain_forward(self._unet, latents, context, truncated)
        found = dict(self._kept)
        self._kept.clear()
        return found


def difference(ours: Mapping[str, Tensor], explicit: Mapping[str, Tensor]) -> float:
    """Largest relative distance of the two extractors' taps."""
    worst = 0.0
    for name, value in explicit.items():
        mine = ours[str(FeatureName(name, "person")) if name == MAP else name]
        worst = max(worst, float((mine.reshape(value.shape) - value).norm() / value.norm()))
    return worst


def synchronise(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def take_turns(ways: Mapping[str, Way], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each way, once a round, in an order drawn anew each round; one round to warm up is not counted."""
    rng = random.Random(0)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in rng.sample(list(ways), len(ways)):
            synchronise(device)
            start = time.perf_counter()
            ways[way]()
            synchronise(device)
            if number:
                seconds[way].append(time.perf_counter() - start)
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {"median": round(float(median), 4), "q25": round(float(low), 4), "q75": round(float(high), 4)}


def ratio(seconds: Mapping[str, Sequence[float]], way: str, reference: str) -> dict[str, float]:
    """Of the times in the same round."""
    return spread([mine / theirs for mine, theirs in zip(seconds[way], seconds[reference], strict=True)])


def count_flops(run: Callable[[], object]) -> int:
    """2 FLOP per multiply and add, of products, convolutions and attention; PyTorch's counter knows no formula for the
    operator that attention is on a CPU."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
        return int(sdpa_flop_count(query, key, value))

    on_cpu = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=on_cpu) as counter:
        run()
    return int(counter.get_total_flops())


def peak_bytes(run: Way, device: str = "cpu") -> int:
    """Most bytes torch's allocator holds during ``run`` above what it held before: weights and inputs are not in it."""
    if device != "cpu":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return int(torch.cuda.max_memory_allocated()) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def write(name: str, content: Mapping[str, Any], quick: bool) -> None:
    """``content`` beside the machine, to the screen and, unless ``quick``, to results/``name``.json."""
    machine = {
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "load_at_end": os.getloadavg()[0],
    }
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    text = json.dumps({"machine": machine, **content}, indent=1)
    print(text)
    if not quick:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(text + "\n")
