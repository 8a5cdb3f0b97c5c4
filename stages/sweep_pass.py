"""One pass of a sweep: heads trained from one stream, then scored over one reading of the gallery."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from cache import CacheError
from diffps.errors import ConfigError
from diffps.heads.costs import costs
from diffps.model import PersonSearcher
from stages.devices import choose_device
from stages.evaluate import evaluate_searchers
from stages.heads import HeadRun, build_model, train_all
from stages.index import INDEX_FOLDER
from stages.job import Job, QuietJob, RuntimeConfig, StoppedError
from stages.results import write_result
from stages.sources import open_source, skipped_scenes
from stages.training_set import training_set
from stages.variants import Variant, pass_names

MEMORY_SHARE = 0.8  # of what is free; the rest is left to the readers and to estimates being estimates


def train_pass(variants: Sequence[Variant], job: Job, progress: Callable[[], None] = lambda: None) -> None:
    """Train and score every variant of a pass; ``progress`` is called when something can be told of one more.

    All share :func:`stages.variants.plan_passes`' conditions. A head that diverges is reported and left out.
    """
    first, names = variants[0].params, pass_names(variants)
    device = choose_device(job.runtime)
    searchers: dict[str, PersonSearcher] = {}

    def finish(name: str) -> None:
        searchers[name] = runs[name].finish()
        progress()

    with open_source(first, job, split="train", section="train", names=names) as source:
        data = training_set(first, INDEX_FOLDER, skipped_scenes(source, job))
        runs = {v.name: HeadRun(v.params, data, source, device, v.folder) for v in variants}
        for run in runs.values():
            job.say(run.resume())
        train_all(runs, source, job, finish)
    by_name = {variant.name: variant for variant in variants}
    for name, run in runs.items():
        if run.diverged is not None:
            write_result(by_name[name], {"status": "diverged", "error": str(run.diverged)})
    progress()
    if not searchers:
        return
    folders = {name: runs[name].folder / "evaluate" for name in searchers}
    timestep = first.train.timestep
    with open_source(first, job, split="test", section="evaluate", names=names, timestep=timestep) as source:
        scores = evaluate_searchers(first, job, searchers, source, folders)
    for name, found in scores.items():
        runs[name].add_scores(found)
        write_result(by_name[name], {"status": "done", "training": runs[name].metrics(), "scores": found})
    progress()


def check_features(variants: Sequence[Variant], job: Job) -> None:
    """Raises ConfigError, by name and with the command, where the store lacks what a pass reads."""
    first, names = variants[0].params, pass_names(variants)
    timestep = first.train.timestep
    try:
        with open_source(first, job, split="train", section="train", names=names):
            pass
        with open_source(first, job, split="test", section="evaluate", names=names, timestep=timestep):
            pass
    except CacheError as error:
        reads = f"timestep {timestep}, encoding {first.extract.encoding}"
        raise ConfigError(f"variants {', '.join(v.name for v in variants)} ({reads}): {error}") from error


def split_by_memory(variants: Sequence[Variant], job: Job, free: int | None = None) -> list[list[Variant]]:
    """Cut a pass into as few as fit into memory: every head keeps its weights and optimiser, one at a time its
    activations. ``free`` bytes; None asks the device."""
    device = choose_device(job.runtime)
    left = MEMORY_SHARE * (free_memory(device) if free is None else free)
    known: dict[str, tuple[int, int]] = {}
    parts: list[list[Variant]] = []
    held = peak = 0
    for variant in variants:
        key = repr((variant.params.train.model, variant.params.train.taps))
        if key not in known:
            known[key] = head_bytes(variant, job)
        own, activations = known[key]
        if not parts or held + own + max(peak, activations) > left:
            parts.append([])
            held = peak = 0
        parts[-1].append(variant)
        held, peak = held + own, max(peak, activations)
    return parts


def head_bytes(variant: Variant, job: Job) -> tuple[int, int]:
    """(weights with optimiser, activations of a step with its features) of one head in training."""
    from stages.forecast import BYTES_PER_PARAMETER, feature_shapes

    params = variant.params
    shapes = feature_shapes(params)
    identities = training_set(params, INDEX_FOLDER).identities
    parts = costs(build_model(params, shapes, identities), params.train.batch)
    features = sum(shape.height * shape.width * shape.channels for shape in shapes.values()) * 4 * params.train.batch
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


class _WorkerJob:
    """A job without a shell that is to stop once the file ``stop`` is there."""

    def __init__(self, runtime: RuntimeConfig, stop: Path) -> None:
        quiet = QuietJob(runtime)
        self.runtime, self.say, self.track, self._stop = runtime, quiet.say, quiet.track, stop

    @property
    def stopping(self) -> bool:
        return self._stop.exists()


def pass_on_worker(variants: Sequence[Variant], runtime: RuntimeConfig, folder: str, stop: str) -> int:
    """:func:`train_pass` in a worker process of a cluster that sees the same files; the number of heads. Raises
    StoppedError, everything saved, once the file ``stop`` is there."""
    from dataclasses import replace

    from distributed import get_worker

    from stages.worker import own_device

    os.chdir(folder)
    job = _WorkerJob(replace(runtime, device=own_device(runtime.device, get_worker().name)), Path(stop))
    if job.stopping:
        raise StoppedError
    train_pass(variants, job)
    return len(variants)
