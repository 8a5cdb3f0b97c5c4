"""What fits into memory: heads of one round side by side."""

import os
from collections.abc import Sequence
from math import prod
from pathlib import Path

import torch

from diffps.heads.costs import costs
from stages.devices import choose_device
from stages.features.words import read_words
from stages.forecasts.size import feature_shapes, sizes_of
from stages.head.data import training_set
from stages.head.model import new_model
from stages.job import Runtime
from stages.sweeps.variants import Variant
from stages.together import index_folder

MEMORY_SHARE = 0.8  # of what is free; the rest is left to the readers and to estimates being estimates
BYTES_PER_PARAMETER = 16  # value, gradient and Adam's two moments in float32


def split_by_memory(variants: Sequence[Variant], runtime: Runtime, free: int | None = None) -> list[list[Variant]]:
    """Cut a round into as few as fit into memory: every head keeps its weights and optimiser, one at a time its
    activations. ``free`` bytes; None asks the device."""
    device = choose_device(runtime)
    left = MEMORY_SHARE * (free_memory(device) if free is None else free)
    known: dict[str, tuple[int, int]] = {}
    parts: list[list[Variant]] = []
    held = peak = 0
    for variant in variants:
        key = repr((variant.params.train.model, variant.params.train.taps))
        if key not in known:
            known[key] = head_bytes(variant)
        own, activations = known[key]
        if not parts or held + own + max(peak, activations) > left:
            parts.append([])
            held = peak = 0
        parts[-1].append(variant)
        held, peak = held + own, max(peak, activations)
    return parts


def head_bytes(variant: Variant) -> tuple[int, int]:
    """(weights with optimiser, activations of a step with its features) of one head in training."""
    train, encode, extract = variant.params.train, variant.params.encode, variant.params.extract
    shapes = feature_shapes(variant.reading, encode, sizes_of(encode, extract))
    identities = training_set(train, encode.frame, index_folder()).identities
    words = None if train.model.sfan is None else read_words(encode.words)
    parts = costs(new_model(train, encode.frame, shapes, words, identities), train.batch)
    features = sum(prod(shape) for shape in shapes.values()) * 4 * train.batch
    parameters = sum(part.parameters for part in parts)
    return parameters * BYTES_PER_PARAMETER, sum(part.activation_bytes for part in parts) + features


def free_memory(device: torch.device) -> int:
    """Free bytes on the device, or of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
