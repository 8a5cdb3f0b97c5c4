"""SD 2.1's VAE encoder and truncated UNet on a GPU: ms per image, share of the matrix-product peak, memory, batch size.

    python benchmarks/backbone_gpu.py           # true widths, random weights, canvas 1280, bfloat16; needs a CUDA GPU
    python benchmarks/backbone_gpu.py --quick   # every step at tiny size, not compiled, on the CPU too; writes nothing

Eager and compiled, in batches doubled until memory is full and then bisected. The peak is that of large bfloat16 matrix
products in the same run. Last, the attention of the VAE's middle block, one head of its full width: which kernel it
gets, what each of torch's backends does with it, and what exact attention in blocks of queries would take.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from backbone_common import (
    TINY,
    TOKENS,
    TRUE,
    Size,
    Way,
    count_flops,
    extractor,
    make_unet,
    make_vae,
    peak_bytes,
    spread,
    take_turns,
    twin,
    write,
)
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from diffps.backbone.frozen import Extractor
from diffps.backbone.latents import LatentEncoder, NoiseKey

BACKENDS = (
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.MATH,
)
QUERY_BLOCK = 1024
Batched = Callable[[int], Way]  # the work of one batch


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured where."""

    size: Size
    canvas: int
    device: str
    product: int  # rows and columns of the matrices whose product is the peak
    rounds: int
    largest: int  # batch that is tried at most
    dtype: torch.dtype = torch.bfloat16

    @property
    def cells(self) -> int:
        return self.canvas // 8


def peak_flops(setting: Setting) -> float:
    """FLOP per second of one large matrix product, the best of the rounds."""
    a, b = (torch.randn(setting.product, setting.product, device=setting.device, dtype=setting.dtype) for _ in "ab")
    seconds = take_turns({"product": lambda: a @ b}, 4 * setting.rounds, setting.device)["product"]
    return 2 * setting.product**3 / min(seconds)


def row(run: Way, batch: int, flops: int, peak: float, setting: Setting) -> dict[str, Any]:
    """``flops`` per image."""
    run()  # what compiles or allocates for the first time
    held = peak_bytes(run, setting.device)
    seconds = take_turns({"": run}, setting.rounds, setting.device)[""]
    milliseconds = spread([1000 * value / batch for value in seconds])
    share = flops / (milliseconds["median"] / 1000) / peak
    return {"batch": batch, "ms_per_image": milliseconds, "share_of_peak": round(share, 4), "peak_bytes": held}


def fits(make: Batched, batch: int) -> bool:
    """Whether a batch of that size goes through."""
    try:
        make(batch)()
    except torch.OutOfMemoryError:
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True


def largest_batch(make: Batched, limit: int) -> int:
    """The largest batch up to ``limit`` that goes through: doubled, then bisected. 0 where not even one does."""
    good, bad = 0, 1
    while bad <= limit and fits(make, bad):
        good, bad = bad, 2 * bad
    bad = min(bad, limit + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(make, middle) else (good, middle)
    return good


def measure(make: Batched, compiled: Batched, peak: float, setting: Setting) -> dict[str, Any]:
    """Eager at every power of two that fits, compiled at one image and at the fastest eager batch."""
    flops = count_flops(make(1))
    largest = largest_batch(make, setting.largest)
    batches = [2**n for n in range(10) if 2**n <= largest]
    eager = [row(make(batch), batch, flops, peak, setting) for batch in batches]
    fastest = min(eager, key=lambda entry: entry["ms_per_image"]["median"])["batch"]
    rows = []
    for batch in sorted({1, fastest}):
        torch.compiler.reset()  # a second shape would be compiled for any shape, as no real run is
        rows.append(row(compiled(batch), batch, flops, peak, setting))
    return {
        "flops_per_image": flops,
        "largest_batch": largest,
        "largest_batch_tried": setting.largest,
        "eager": eager,
        "compiled": rows,
    }


def measure_vae(peak: float, setting: Setting) -> dict[str, Any]:
    """As `encode` runs it, then with channels last in memory, each eager and compiled."""
    found = {}
    for name, layout in (("as it is", torch.contiguous_format), ("channels last", torch.channels_last)):
        vae = make_vae(setting.size, setting.device, setting.dtype).to(memory_format=layout)
        encoder = LatentEncoder(vae, setting.device)
        plain, fast = vae.encoder.forward, torch.compile(vae.encoder.forward)

        def work(forward: Callable[..., Tensor], batch: int, vae: Any = vae, encoder: LatentEncoder = encoder) -> Way:
            pixels = torch.randn(batch, 3, setting.canvas, setting.canvas, device=setting.device, dtype=setting.dtype)

            def run() -> None:
                vae.encoder.forward = forward
                encoder.moments(pixels)

            return run

        found[name] = measure(partial(work, plain), partial(work, fast), peak, setting)
    return found


def measure_unet(peak: float, setting: Setting) -> dict[str, Any]:
    """Up to the last of the DiffPS taps, which are kept; eager left by an exception, compiled pruned."""
    unet = make_unet(setting.size, setting.device, setting.dtype)
    if setting.device != "cpu":
        unet = unet.to(memory_format=torch.channels_last)
    context = torch.randn(1, TOKENS, setting.size.text)

    def work(ready: Extractor, batch: int) -> Way:
        latents = torch.randn(batch, 4, setting.cells, setting.cells, device=setting.device)
        keys = [NoiseKey(str(i), "identity") for i in range(batch)]
        return lambda: ready.features(latents, 0, "none", keys, 0)

    other = twin(unet)
    with extractor(unet, context) as eager, extractor(other, context, compiled=True) as compiled:
        return measure(partial(work, eager), partial(work, compiled), peak, setting)


def blocks_of_queries(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Exact attention that never holds more than a block's scores."""
    scale = q.shape[-1] ** -0.5
    parts = [(part @ k.transpose(2, 3) * scale).softmax(-1) @ v for part in q.split(QUERY_BLOCK, dim=2)]
    return torch.cat(parts, dim=2)


def kernels(run: Way, device: str) -> list[str]:
    """Names of what ``run`` launches: kernels on a GPU, attention operators on the CPU."""
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device != "cpu" else [])
    with profile(activities=activities) as profiler:
        run()
    if device == "cpu":
        return sorted({event.key for event in profiler.key_averages() if "attention" in event.key})
    return sorted({event.name for event in profiler.events() if event.device_type == DeviceType.CUDA})


def measure_attention(peak: float, setting: Setting) -> dict[str, Any]:
    """The VAE's one head: torch's own choice, each backend, and blocks of queries."""
    positions, width = setting.cells**2, setting.size.vae[-1]
    q, k, v = (torch.randn(1, 1, positions, width, device=setting.device, dtype=setting.dtype) for _ in "qkv")

    def by(backend: SDPBackend) -> Way:
        def run() -> None:
            with sdpa_kernel([backend]):
                F.scaled_dot_product_attention(q, k, v)

        return run

    ways: dict[str, Way] = {
        "torch's choice": lambda: F.scaled_dot_product_attention(q, k, v),
        f"blocks of {QUERY_BLOCK} queries": lambda: blocks_of_queries(q, k, v),
    }
    refused = {}
    for backend in BACKENDS:
        try:
            by(backend)()
            ways[backend.name] = by(backend)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            refused[backend.name] = str(error).splitlines()[0]
    seconds = take_turns(ways, setting.rounds, setting.device)
    flops = 4 * positions**2 * width
    rows = {
        way: {
            "ms": spread([1000 * value for value in values]),
            "share_of_peak": round(flops / spread(values)["median"] / peak, 4) if spread(values)["median"] else None,
            "peak_bytes": peak_bytes(ways[way], setting.device),
        }
        for way, values in seconds.items()
    }
    return {
        "positions": positions,
        "width": width,
        "flops": flops,
        "kernels": kernels(ways["torch's choice"], setting.device),
        "ways": rows,
        "refused": refused,
        "fastest": min(rows, key=lambda way: rows[way]["ms"]["median"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        torch.compiler.set_stance("force_eager")
        setting = Setting(TINY, 128, "cuda" if torch.cuda.is_available() else "cpu", 256, 2, 2)
    elif torch.cuda.is_available():
        setting = Setting(TRUE, 1280, "cuda", 8192, 10, 64)
    else:
        raise SystemExit("backbone_gpu: no CUDA GPU here; --quick runs every step at tiny size on the CPU")
    torch.manual_seed(0)
    peak = peak_flops(setting)
    content = {
        "size": setting.size.name,
        "canvas": setting.canvas,
        "dtype": str(setting.dtype),
        "rounds": setting.rounds,
        "peak_tflops": round(peak / 1e12, 3),
        "wanted_share_of_peak": 0.4,
        "vae": measure_vae(peak, setting),
        "unet": measure_unet(peak, setting),
        "vae_attention": measure_attention(peak, setting),
    }
    write("backbone_gpu", content, options.quick)


if __name__ == "__main__":
    main()
