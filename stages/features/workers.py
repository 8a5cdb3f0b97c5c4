"""Shards on a dask cluster: one model a worker, one whole shard a task."""

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from distributed import Client, Future, as_completed, get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from cache import FeatureStore, ShardTask
from diffps.errors import ConfigError
from stages.cluster import for_workers, outcome, own_device
from stages.features.opening import open_store
from stages.features.shards import Computer, Place, write_shards
from stages.job import Job, Runtime, StoppedError, Tracker

TASKS_PER_WORKER = 2  # one to do, one waiting; few, so that a request to stop takes effect soon

# Whose workers have their model, under which token: registering again would load it again.
_prepared: "WeakKeyDictionary[Client, str]" = WeakKeyDictionary()


def write_on_cluster(
    client: Client,
    stage: str,
    make_computer: Callable[[Runtime], Computer],
    runtime: Runtime,
    job: Job,
    place: Place,
    tasks: Sequence[ShardTask],
    tracker: Tracker,
) -> None:
    """Have ``tasks`` done by the workers while this process keeps the lock. A killed worker's shards are done again.

    Raises what a task raised; WorkerError; StoppedError once the shards at hand are safe.
    """
    if client not in _prepared:
        _prepared[client] = uuid4().hex
        client.register_plugin(ModelPlugin(stage, _prepared[client], make_computer, runtime))
    token = _prepared[client]
    remaining = iter(tasks)

    def submit(count: int) -> "list[Future[tuple[int, int]]]":
        # Not pure: what counts is what is written, so no task may be answered from an earlier one's result.
        return [client.submit(write_shard, stage, token, place, task, pure=False) for task in islice(remaining, count)]

    under_way = as_completed(submit(TASKS_PER_WORKER * len(client.nthreads())))
    for future in under_way:
        tracker.advance(*outcome(future))
        if not job.stopping:
            under_way.update(submit(1))
    if next(remaining, None) is not None:
        raise StoppedError


class ModelPlugin(WorkerPlugin):
    """One model per worker, made by its first shard. Workers see the repository and the store at the same paths."""

    def __init__(self, stage: str, token: str, make: Callable[[Runtime], Computer], runtime: Runtime) -> None:
        self.name, self.token = plugin_name(stage), token
        self._make, self._folder = make, Path.cwd()
        self._runtime = for_workers(runtime)
        self._computer: Computer | None = None
        self.alone: AbstractContextManager[Any] = nullcontext()

    def setup(self, worker: Any) -> None:
        """Called by dask on every worker, also on one that takes a killed one's place."""
        self.alone = Lock()  # the model runs one batch at a time, however many threads a worker has
        os.chdir(self._folder)
        self._runtime = replace(self._runtime, device=own_device(self._runtime.device, worker.name))

    @property
    def store(self) -> FeatureStore:
        return open_store(self._runtime.store)

    @property
    def computer(self) -> Computer:
        if self._computer is None:
            self._computer = self._make(self._runtime)
        return self._computer


class _Count:
    """A tracker that adds up."""

    done = nbytes = 0

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        self.done += done
        self.nbytes += nbytes


def write_shard(stage: str, token: str, place: Place, task: ShardTask) -> tuple[int, int]:
    """Compute and write one shard; (images, bytes). Raises ConfigError when the model is no longer ``token``'s."""
    plugin = get_worker().plugins[plugin_name(stage)]
    assert isinstance(plugin, ModelPlugin)
    if plugin.token != token:
        raise ConfigError(
            f"runtime.scheduler: another `diffps {stage}` has given these workers its own model; wait for it, then "
            "run this command again"
        )
    count = _Count()
    with plugin.alone:
        write_shards(plugin.store.shard_sink, place, [task], plugin.computer, count, lambda: False)
    return count.done, count.nbytes


def plugin_name(stage: str) -> str:
    """The name under which a worker keeps the model of a stage."""
    return f"diffps-{stage}"
