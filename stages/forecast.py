"""What a training would cost, before it starts: parameters and FLOPs per part, memory, reading and time."""

import statistics
import time
from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np
import torch

from cache import parse_encoding
from diffps.features import Feature, FeatureShape
from diffps.heads.costs import PartCost, costs
from diffps.model import PersonSearcher, Target, build_searcher
from diffps.training import HeadTrainer
from stages.heads import build_model, read_words
from stages.index import INDEX_FOLDER
from stages.job import Job
from stages.storage import hours, size
from stages.training_set import TrainingSet, training_set

if TYPE_CHECKING:
    from stages.params import Params

MEASURED_STEPS = 4  # the first is not counted: it allocates
MEASURING_SECONDS = 30.0
BYTES_PER_PARAMETER = 16  # value, gradient and Adam's two moments in float32


def forecast(params: "Params", job: Job) -> str:
    """The cost of section ``train``, its time from a few steps on random features; needs the index, no store."""
    from stages.devices import choose_device

    data = training_set(params, INDEX_FOLDER)
    device = choose_device(job.runtime)
    shapes = feature_shapes(params)
    config, batch, names = params.train, params.train.batch, params.train.taps.names
    words = None if config.model.sfan is None else read_words()
    with torch.device("meta"):  # counted before anything has to fit into memory
        counted = build_searcher(config.model, config.taps, shapes, params.encode.frame, words, data.identities)
    parts = costs(counted, batch)
    whole = PartCost(
        "all",
        sum(part.parameters for part in parts),
        sum(part.forward_flops for part in parts),
        sum(part.activation_bytes for part in parts),
    )
    steps = config.epochs * data.order.batches_per_epoch
    seconds = seconds_of_step(params, data, shapes, device)
    duration = "not measured, a step does not fit in memory here"
    if seconds is not None:
        duration = f"{steps} steps of {seconds:.3g} s: {hours(steps * seconds)} (measured on {device})"
    read = image_bytes(params, shapes) * batch
    own = whole.parameters * BYTES_PER_PARAMETER
    shared = 4 * batch * sum(prod(shapes[name]) for name in names)
    lines = [
        f"train: {len(data.order.scene_ids)} scenes ({len(data.held_out)} more held out), {data.identities} identities",
        f"  {'part':<12} {'parameters':>12} {'GFLOP forward/image':>20} {'activations MB/image':>21}",
    ]
    for name, parameters, flops, activations in [*parts, whole]:
        lines.append(f"  {name:<12} {parameters:>12,} {flops / batch / 1e9:>20.3f} {activations / batch / 1e6:>21.1f}")
    lines += [
        f"  memory: {size(own)} model and optimiser, {size(whole.activation_bytes)} activations, "
        f"{size(shared)} features of a batch of {batch}",
    ]
    if config.source == "live":
        lines.append(f"  time: {duration}; head only; the backbone comes on top")
    else:
        pace = "" if seconds is None else f"; the disk keeps pace from {size(read / seconds)}/s on"
        lines += [f"  time: {duration}", f"  reads {size(read)} a step, {size(steps * read)} in all{pace}"]
    lines.append(f"  writes results/train: checkpoint {size(own * 3 / 4)}, head {size(own / 4)}")
    return "\n".join(lines)


def seconds_of_step(
    params: "Params", data: TrainingSet, shapes: Mapping[str, FeatureShape], device: torch.device
) -> float | None:
    """None where a step does not fit into memory."""
    try:
        return measure_step(params, data, shapes, device)[1]
    except RuntimeError as error:  # the CPU's allocator has no type of its own
        if isinstance(error, torch.OutOfMemoryError) or "tried to allocate" in str(error):
            return None
        raise


def feature_shapes(params: "Params") -> dict[str, FeatureShape]:
    """Grid and channels of every name in ``train.taps``, from the checkpoint's config and the canvas alone."""
    from diffps.backbone.checkpoint import load_checkpoint

    table = load_checkpoint(params.encode.checkpoint, params.encode.revision, params.extract.unet).taps
    height, width = params.encode.canvas
    shapes = {}
    for name in params.train.taps.names:
        spec = table[name if name in table else name.rpartition(".")[0]]
        channels = spec.channels if name in table else 1
        shapes[name] = FeatureShape(height // spec.stride, width // spec.stride, channels)
    return shapes


def image_bytes(params: "Params", shapes: Mapping[str, FeatureShape]) -> int:
    """Bytes read from the store for one image, of the features that ``shapes`` names."""
    encoding = parse_encoding(params.extract.encoding)
    total = 0
    for name in shapes:
        height, width, channels = shapes[name]
        if name in params.extract.taps:
            stored = encoding.stored_channels(channels)
            scales = 2 * encoding.blocks(height * width) * stored if encoding.scaled else 0
            total += height * width * stored * np.dtype(encoding.dtype).itemsize + scales
        else:
            total += height * width * 4
    return total


def measure_step(
    params: "Params", data: TrainingSet, shapes: Mapping[str, FeatureShape], device: torch.device
) -> tuple[HeadTrainer, float]:
    """A new head after a few steps on random features, and the median seconds of a step."""
    generator = torch.Generator().manual_seed(0)
    batch = data.order.epoch(0)[0]
    features = {
        name: Feature(torch.randn(len(batch), *shapes[name], generator=generator).abs()).to(device)
        for name in params.train.taps.names
    }
    targets = [Target(*(tensor.to(device) for tensor in data.target(sample))) for sample in batch]

    def build() -> PersonSearcher:
        return build_model(params, shapes, data.identities)

    trainer = HeadTrainer(build, params.train.taps.names, params.train, data.order.batches_per_epoch, device)
    seconds: list[float] = []
    while len(seconds) < MEASURED_STEPS and sum(seconds) < MEASURING_SECONDS:
        began = time.perf_counter()
        trainer.step(features, targets, [sample.scene_id for sample in batch])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return trainer, statistics.median(seconds[1:] or seconds)
