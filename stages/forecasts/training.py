"""What a training will cost, before it starts: parameters and FLOPs per part, memory, reading and time."""

import statistics
import time
from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor

from diffps.features import Feature, FeatureShape
from diffps.heads.costs import PartCost, costs
from diffps.heads.sampling import Target
from diffps.model import PersonSearcher, build_searcher
from diffps.training import HeadTrainer
from stages.config_data import EncodeConfig, ExtractConfig
from stages.config_heads import TrainConfig
from stages.devices import choose_device
from stages.features.reading import Reading
from stages.features.words import read_words
from stages.forecasts.memory import BYTES_PER_PARAMETER
from stages.forecasts.size import feature_bytes, feature_shapes, sizes_of
from stages.head.data import TrainingSet, training_set
from stages.head.model import new_model
from stages.job import Runtime
from stages.places import TRAIN
from stages.text import duration, size
from stages.together import index_folder

MEASURED_STEPS = 4  # the first is not counted: it allocates
MEASURING_SECONDS = 30.0


def forecast_training(train: TrainConfig, encode: EncodeConfig, extract: ExtractConfig, runtime: Runtime) -> str:
    """The cost of section ``train``, its time from a few steps on random features; needs the index, no store."""
    data, device = training_set(train, encode.frame, index_folder()), choose_device(runtime)
    reading, sizes = Reading.of(train, extract), sizes_of(encode, extract)
    shapes, batch = feature_shapes(reading, encode, sizes), train.batch
    words = None if train.model.sfan is None else read_words(encode.words)
    with torch.device("meta"):  # counted before anything has to fit into memory
        counted = build_searcher(train.model, train.taps, shapes, encode.frame, words, data.identities)
    parts = costs(counted, batch)
    whole = PartCost(
        "all",
        sum(part.parameters for part in parts),
        sum(part.forward_flops for part in parts),
        sum(part.activation_bytes for part in parts),
    )
    steps = train.epochs * data.order.batches_per_epoch
    seconds = seconds_of_step(train, data, shapes, words, device)
    takes = "not measured, a step does not fit in memory here"
    if seconds is not None:
        takes = f"{steps} steps of {seconds:.3g} s: {duration(steps * seconds)} (measured on {device})"
    image = sum(feature_bytes(reading, encode, sizes).values())
    own = whole.parameters * BYTES_PER_PARAMETER
    shared = 4 * batch * sum(prod(shape) for shape in shapes.values())
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
    if train.source == "live":
        lines.append(f"  time: {takes}; head only; the backbone comes on top")
    else:
        pace = "" if seconds is None else f"; the disk keeps pace from {size(image * batch / seconds)}/s on"
        reads = f"reads {size(image)} an image, {size(image * batch)} a step, {size(steps * batch * image)} in all"
        lines += [f"  time: {takes}", f"  {reads}{pace}"]
    lines.append(f"  writes {TRAIN}: checkpoint {size(own * 3 / 4)}, head {size(own / 4)}")
    return "\n".join(lines)


def seconds_of_step(
    train: TrainConfig,
    data: TrainingSet,
    shapes: Mapping[str, FeatureShape],
    words: Tensor | None,
    device: torch.device,
) -> float | None:
    """Seconds of a step on random features; None where it does not fit into memory."""
    try:
        return measure_step(train, data, shapes, words, device)[1]
    except RuntimeError as error:  # the CPU's allocator has no type of its own
        if isinstance(error, torch.OutOfMemoryError) or "tried to allocate" in str(error):
            return None
        raise


def measure_step(
    train: TrainConfig,
    data: TrainingSet,
    shapes: Mapping[str, FeatureShape],
    words: Tensor | None,
    device: torch.device,
) -> tuple[HeadTrainer, float]:
    """A new head after a few steps on random features, and the median seconds of a step."""
    generator = torch.Generator().manual_seed(0)
    batch = data.order.epoch(0)[0]
    features = {
        name: Feature(torch.randn(len(batch), *shapes[name], generator=generator).abs()).to(device)
        for name in train.taps.names
    }
    targets = [Target(*(tensor.to(device) for tensor in data.target(sample))) for sample in batch]

    def build() -> PersonSearcher:
        return new_model(train, data.canvas, shapes, words, data.identities)

    trainer = HeadTrainer(build, train.taps.names, train, data.order.batches_per_epoch, device)
    seconds: list[float] = []
    while len(seconds) < MEASURED_STEPS and sum(seconds) < MEASURING_SECONDS:
        began = time.perf_counter()
        trainer.step(features, targets, [sample.scene_id for sample in batch])
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return trainer, statistics.median(seconds[1:] or seconds)
