"""What runs in a worker process of a dask cluster."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from cache import FeatureStore, ShardTask
from diffps.errors import ConfigError
from stages.job import QuietJob, RuntimeConfig
from stages.shards import Computer, Place, write_shards
from stages.storage import store_root

if TYPE_CHECKING:
    from stages.params import Params


class ModelPlugin(WorkerPlugin):
    """One model per worker, made by its first shard. Workers see the repository and the store at the same paths."""

    def __init__(self, stage: str, token: str, params: "Params", runtime: RuntimeConfig) -> None:
        import torch

        self.name, self.token = plugin_name(stage), token
        self._stage, self._params, self._folder = stage, params, Path.cwd()
        # As many threads as this process would use: the number of threads shows in the last bits on a CPU.
        threads = runtime.threads or torch.get_num_threads()
        # A worker elsewhere does not have the environment that DVC gives its experiments.
        self._runtime = replace(runtime, threads=threads, store=str(store_root(QuietJob(runtime)).absolute()))
        self._computer: Computer | None = None
        self.alone: AbstractContextManager[Any] = nullcontext()

    def setup(self, worker: Any) -> None:
        """Called by dask on every worker, also on one that takes a killed one's place."""
        self.alone = Lock()  # the model runs one batch at a time, however many threads a worker has
        os.chdir(self._folder)
        self._runtime = replace(self._runtime, device=own_device(self._runtime.device, worker.name))

    @property
    def store(self) -> FeatureStore:
        return FeatureStore(store_root(QuietJob(self._runtime)))

    @property
    def computer(self) -> Computer:
        if self._computer is None:
            self._computer = _make_computer(self._stage, self._params, self._runtime, self.store)
        return self._computer


class _Count:
    """A tracker that adds up."""

    done = nbytes = 0

    def advance(self, done: int = 1, nbytes: int = 0) -> None:
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
    """Under which name a worker keeps the model of a stage."""
    return f"diffps-{stage}"


def own_device(device: str, worker: object) -> str:
    """On a machine with several GPUs the n-th local worker takes the n-th of them."""
    import torch

    if device != "auto" or not torch.cuda.is_available() or not isinstance(worker, int):
        return device
    return f"cuda:{worker % torch.cuda.device_count()}"


def _make_computer(stage: str, params: "Params", runtime: RuntimeConfig, store: FeatureStore) -> Computer:
    from stages.encode import LatentComputer
    from stages.extract import PassComputer
    from stages.passes import Pass

    if stage == "encode":
        return LatentComputer(params, runtime)
    return PassComputer(params, runtime, store, Pass(params, store.root))
