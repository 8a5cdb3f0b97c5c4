"""What a sweep will read, how long it will take and what it will leave on the disk."""

from collections.abc import Sequence

from diffps.errors import ConfigError
from stages.devices import choose_device
from stages.forecasts.memory import head_bytes, split_by_memory
from stages.forecasts.size import feature_bytes, feature_shapes, sizes_of
from stages.forecasts.training import seconds_of_step
from stages.head.data import training_set
from stages.job import Runtime
from stages.places import SWEEP
from stages.sweeps.execute import words_of
from stages.sweeps.results import result_of
from stages.sweeps.rounds import plan_rounds
from stages.sweeps.variants import Variant
from stages.text import duration, size
from stages.together import index_folder

Measured = dict[str, tuple[int, float]]  # structure of a head -> bytes of its weights, seconds of a step


def forecast_sweep(file: str, variants: Sequence[Variant], runtime: Runtime) -> str:
    """The rounds with their readings, and times from a few measured steps of each structure; needs the index only."""
    todo = [variant for variant in variants if result_of(variant) is None]
    rounds = [part for group in plan_rounds(todo) for part in split_by_memory(group, runtime)]
    lines = [f"sweep {file}: {len(variants)} variants, {len(variants) - len(todo)} done already"]
    disk = seconds = 0.0
    measured: Measured = {}
    for number, group in enumerate(rounds, 1):
        cost = _Round(group, runtime, measured)
        disk += cost.disk
        seconds += cost.seconds
        lines += [
            f"  round {number}: {', '.join(variant.name for variant in group)}",
            f"    reads {size(cost.image)} an image, {size(cost.read)} once (alone: {size(cost.alone)}), "
            f"computes {duration(cost.seconds)}; the disk keeps pace from {size(cost.read / cost.seconds)}/s on",
        ]
    lines.append(f"  in all {duration(seconds)} and the evaluation; {size(disk)} in {SWEEP}")
    return "\n".join(lines)


class _Round:
    """Bytes and seconds of the training of one round."""

    def __init__(self, group: list[Variant], runtime: Runtime, measured: Measured) -> None:
        device = choose_device(runtime)
        first = group[0].params
        data = training_set(first.train, first.encode.frame, index_folder())
        sizes = sizes_of(first.encode, first.extract)
        batches = data.order.batches_per_epoch
        self.seconds = self.disk = self.alone = 0.0
        nbytes: dict[str, int] = {}
        epochs: dict[str, int] = {}
        for variant in group:
            train = variant.params.train
            key = repr((train.model, train.taps, train.precision, train.batch))
            if key not in measured:
                words = None if train.model.sfan is None else words_of(variant)
                shapes = feature_shapes(variant.reading, first.encode, sizes)
                step = seconds_of_step(train, data, shapes, words, device)
                if step is None:
                    raise ConfigError(f"sweep variant {variant.name}: a step does not fit in memory here")
                measured[key] = head_bytes(variant)[0], step
            weights, step = measured[key]
            steps = train.epochs * batches
            self.seconds += steps * step
            # Checkpoint (values and two moments) and head.
            self.disk += weights
            own = feature_bytes(variant.reading, first.encode, sizes)
            self.alone += steps * train.batch * sum(own.values())
            nbytes |= own
            for name in own:
                epochs[name] = max(epochs.get(name, 0), train.epochs)
        self.image = sum(nbytes.values())
        self.read = sum(nbytes[name] * epochs[name] for name in nbytes) * batches * first.train.batch
