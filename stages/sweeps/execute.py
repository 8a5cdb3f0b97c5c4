"""One round of a sweep: heads trained from one stream, then scored over one reading of the gallery."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cache import CacheError
from diffps.errors import ConfigError
from diffps.features import FeatureSource
from diffps.heads.backbone_head import read_head_weights
from diffps.model import PersonSearcher
from diffps.records import Split
from stages.cluster import own_device
from stages.devices import choose_device
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.features.source import open_source, skipped_scenes
from stages.features.words import embed_words, read_words
from stages.head.data import training_set
from stages.head.identity import HeadIdentity
from stages.head.loop import train_all
from stages.head.run import HeadRun
from stages.head.watching import tracked
from stages.images import ImageFolder
from stages.job import Job, QuietJob, Runtime, StoppedError, TrackerName
from stages.search.evaluation import evaluate_heads, finish_evaluation
from stages.search.gallery import open_task, read_search_set
from stages.sweeps.results import write_result
from stages.sweeps.rounds import shared_reading
from stages.sweeps.variants import FILE, Variant
from stages.together import index_folder

# Opens the features of one split that a round reads.
OpenFeatures = Callable[[Split], AbstractContextManager[FeatureSource]]


def train_round(
    variants: Sequence[Variant],
    open_features: OpenFeatures,
    device: torch.device,
    job: Job,
    progress: Callable[[], None] = lambda: None,
    tracker: TrackerName = "",
) -> None:
    """Train and score every variant of a round; ``progress`` is called when something can be told of one more.

    All share :func:`stages.sweeps.rounds.plan_rounds`' conditions, and the features that ``open_features`` opens. A
    head that diverges is reported and left out.
    """
    first = variants[0].params
    searchers: dict[str, PersonSearcher] = {}

    def finish(name: str) -> None:
        searchers[name] = runs[name].finish()
        progress()

    with open_features("train") as source:
        data = training_set(first.train, first.encode.frame, index_folder(), skipped_scenes(source, job))
        runs = {}
        for variant in variants:
            own = variant.params
            identity = HeadIdentity.of(own.index.dataset, own.train, own.encode, own.extract)
            words = None if own.train.model.sfan is None else words_of(variant)
            runs[variant.name] = HeadRun(own.train, data, source, words, identity, variant.folder, device)
        for run in runs.values():
            job.say(run.resume())
        with tracked(tracker, {name: run.folder for name, run in runs.items()}) as watch:
            train_all(runs, source, job, finish, watch=watch)
    by_name = {variant.name: variant for variant in variants}
    for name, run in runs.items():
        if run.diverged is not None:
            write_result(by_name[name], {"status": "diverged", "error": str(run.diverged)})
    progress()
    if not searchers:
        return
    folders = {name: runs[name].folder / "evaluate" for name in searchers}
    test, config = read_search_set(index_folder()), first.evaluate
    task = open_task(config.gallery, config.convention, test, index_folder())
    with open_features("test") as source:
        scores = evaluate_heads(config, searchers, source, test, task, folders, device, job)
    for name, found in scores.items():
        runs[name].add_scores(found.metrics)
        finish_evaluation(folders[name], runs[name].folder / "head")
        result = {"status": "done", "training": runs[name].metrics(), "scores": found.metrics}
        write_result(by_name[name], result)
    progress()


def words_of(variant: Variant) -> Tensor:
    """T_c of a head: encode's file, or what the prior of its own pass says."""
    return embed_words(variant.params.encode) if FILE in variant.changes else read_words(variant.params.encode.words)


def open_round(variants: Sequence[Variant], runtime: Runtime) -> OpenFeatures:
    """The features of a round as its variants' parameters say."""
    first, reading = variants[0].params, shared_reading(variants)

    def opened(split: Split) -> CachedSource | LiveSource:
        return open_source(
            reading,
            split,
            first.train.source if split == "train" else first.evaluate.source,
            encode=first.encode,
            extract=first.extract,
            images=ImageFolder.of(first.index),
            runtime=runtime,
        )

    return opened


def check_features(variants: Sequence[Variant], open_features: OpenFeatures) -> None:
    """Raises ConfigError, by name and with the command, where the store lacks what a round reads; CheckpointError for
    first weights of the backbone heads that cannot be had."""
    first = variants[0].params
    for model in dict.fromkeys(variant.params.train.model for variant in variants):
        read_head_weights(model)
    try:
        for split in ("train", "test"):
            with open_features(split):
                pass
    except CacheError as error:
        reads = f"timestep {first.train.timestep}, encoding {first.extract.encoding}"
        raise ConfigError(f"variants {', '.join(v.name for v in variants)} ({reads}): {error}") from error


def round_on_worker(variants: Sequence[Variant], runtime: Runtime, folder: str, stop: str) -> int:
    """:func:`train_round` in a worker process of a cluster that sees the same files; the number of heads. Raises
    StoppedError, everything saved, once the file ``stop`` is there."""
    # Only workers have distributed loaded anyway.
    from distributed import get_worker

    os.chdir(folder)
    job = _WorkerJob(Path(stop))
    if job.stopping:
        raise StoppedError
    device = choose_device(replace(runtime, device=own_device(runtime.device, get_worker().name)))
    train_round(variants, open_round(variants, runtime), device, job, tracker=runtime.tracker)
    return len(variants)


class _WorkerJob:
    """A job without a shell that is to stop once the file ``stop`` is there."""

    def __init__(self, stop: Path) -> None:
        quiet = QuietJob()
        self.say, self.track, self._stop = quiet.say, quiet.track, stop

    @property
    def stopping(self) -> bool:
        return self._stop.exists()
