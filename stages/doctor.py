"""What this machine and the checkpoint are, and what does not go together, before hours are spent."""

import os
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from diffps.errors import CheckpointError
from stages.job import Job

if TYPE_CHECKING:
    from stages.params import Params

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "zarr", "dvc")
PROBE_BYTES = 64_000_000


def run(params: "Params", job: Job) -> None:
    """Say what is there, line by line. Raises CheckpointError last, so that everything else has been said."""
    for line in (*_software(), *_devices(params, job), *_disk(job)):
        job.say(line)
    for line in _checkpoint(params):
        job.say(line)


def _software() -> Iterator[str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "MISSING"
    yield "software: " + ", ".join(f"{name} {number}" for name, number in found.items())
    try:
        from torchvision.ops import nms  # noqa: F401 - a mismatched build fails here, and takes diffusers down with it
    except (ImportError, RuntimeError) as error:
        yield f"PROBLEM: torchvision {found['torchvision']} does not go with torch {found['torch']} ({error}); "
        yield "  install both in one command, from the same index"


def _devices(params: "Params", job: Job) -> Iterator[str]:
    import torch

    from stages.devices import choose_device

    device = choose_device(job.runtime)
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPU threads"
    yield f"device: {device}, {threads} (runtime.device, runtime.threads)"
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield f"  cuda:{number}: {properties.name}, {properties.total_memory / 1e9:.0f} GB"
    for section in ("encode", "extract"):
        dtype = getattr(params, section).dtype
        if device.type == "cpu" and dtype != "float32":
            yield f"PROBLEM: {section}.dtype {dtype} is slow on a CPU; set {section}.dtype=float32"


def _disk(job: Job) -> Iterator[str]:
    import shutil
    import tempfile

    from stages.storage import size, store_root

    root = store_root(job)
    place = next(folder for folder in (root, *root.resolve().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free
    with tempfile.TemporaryFile(dir=place) as file:
        block = os.urandom(1_000_000)
        started = time.monotonic()
        for _ in range(PROBE_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        rate = PROBE_BYTES / (time.monotonic() - started)
    yield f"disk: {size(free)} free at {place}, written at {size(rate)}/s; `diffps cache plan` says what is needed"


def _checkpoint(params: "Params") -> Iterator[str]:
    from diffps.backbone.checkpoint import load_checkpoint
    from diffps.backbone.prompts import PromptEncoder

    name = params.encode.checkpoint
    if not name.startswith("builtin:") and not Path(name).is_dir() and name.startswith(("models/", "./", "/")):
        raise CheckpointError(
            f"checkpoint {name}: no such folder; download one there, or set encode.checkpoint to a hub id"
        )
    checkpoint = load_checkpoint(name, params.encode.revision, params.extract.unet)
    channels = "-".join(map(str, checkpoint.unet_config["block_out_channels"]))
    yield f"checkpoint: {name} at {checkpoint.folder}, UNet of {channels} channels"
    yield "  digests: " + ", ".join(f"{part} {checkpoint.digest(part)}" for part in ("unet", "vae", "text_encoder"))
    encoder = PromptEncoder(checkpoint)
    word, number = encoder.pad_token
    yield f"  pad token {word!r} ({number}); {len(checkpoint.taps)} taps"
    prompt = encoder.encode(params.extract.prompt, params.extract.words)
    yield f"  prompt {params.extract.prompt!r}: words at token positions {dict(prompt.spans)}"
    missing = [tap for tap in params.extract.taps if tap not in checkpoint.taps]
    yield f"PROBLEM: this UNet lacks {', '.join(missing)}" if missing else "  every tap of extract.taps is there"
