"""What a sweep would read, how long it would take and what it would leave on the disk."""

from typing import TYPE_CHECKING

from diffps.errors import ConfigError
from stages.devices import choose_device
from stages.forecast import feature_shapes, image_bytes, seconds_of_step
from stages.index import INDEX_FOLDER
from stages.job import Job
from stages.results import result_of
from stages.storage import hours, size
from stages.sweep_pass import head_bytes, split_by_memory
from stages.training_set import training_set
from stages.variants import Variant, plan_passes, read_variants

if TYPE_CHECKING:
    from stages.params import Params


def forecast(params: "Params", job: Job) -> str:
    """The passes with their readings, and times from a few measured steps of each structure; needs the index only."""
    variants = read_variants(params)
    todo = [variant for variant in variants if result_of(variant) is None]
    passes = [part for group in plan_passes(todo) for part in split_by_memory(group, job)]
    lines = [f"sweep {params.sweep.file}: {len(variants)} variants, {len(variants) - len(todo)} done already"]
    disk = seconds = 0.0
    measured: dict[str, tuple[int, float]] = {}
    for number, group in enumerate(passes, 1):
        cost = _Pass(group, job, measured)
        disk += cost.disk
        seconds += cost.seconds
        lines += [
            f"  pass {number}: {', '.join(variant.name for variant in group)}",
            f"    reads {size(cost.read)} once (alone: {size(cost.alone)}), "
            f"computes {hours(cost.seconds)}; the disk keeps pace from {size(cost.read / cost.seconds)}/s on",
        ]
    lines.append(f"  in all {hours(seconds)} and the evaluation; {size(disk)} in results/sweep")
    return "\n".join(lines)


class _Pass:
    """Bytes and seconds of the training of one pass."""

    def __init__(self, group: list[Variant], job: Job, measured: dict[str, tuple[int, float]]) -> None:
        device = choose_device(job.runtime)
        data = training_set(group[0].params, INDEX_FOLDER)
        batches = data.order.batches_per_epoch
        self.seconds = self.disk = self.alone = 0.0
        sizes: dict[str, int] = {}
        epochs: dict[str, int] = {}
        for variant in group:
            train = variant.params.train
            key = repr((train.model, train.taps, train.precision, train.batch))
            shapes = feature_shapes(variant.params)
            if key not in measured:
                step = seconds_of_step(variant.params, data, shapes, device)
                if step is None:
                    raise ConfigError(f"sweep variant {variant.name}: a step does not fit in memory here")
                measured[key] = head_bytes(variant, job)[0], step
            weights, step = measured[key]
            steps = train.epochs * batches
            self.seconds += steps * step
            # Checkpoint (values and two moments) and head.
            self.disk += weights
            self.alone += steps * train.batch * image_bytes(variant.params, shapes)
            for name in train.taps.names:
                sizes[name] = image_bytes(variant.params, {name: shapes[name]})
                epochs[name] = max(epochs.get(name, 0), train.epochs)
        self.read = sum(sizes[name] * epochs[name] for name in sizes) * batches * group[0].params.train.batch
