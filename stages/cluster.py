"""Several processes or machines through dask.distributed: connecting, outcomes, and what workers are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from diffps.errors import ConfigError, WorkerError
from stages.job import Runtime
from stages.places import store_root

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 10

T = TypeVar("T")


@contextmanager
def cluster(runtime: Runtime, connect_seconds: float = CONNECT_SECONDS) -> "Iterator[Client | None]":
    """Client of ``runtime.scheduler``: None when it is empty, a cluster of N processes here for ``local:N``, else the
    scheduler at that address, which has ``connect_seconds`` to answer. Raises ConfigError."""
    if not runtime.scheduler:
        yield None
        return
    from distributed import Client, LocalCluster

    kind, _, number = runtime.scheduler.partition(":")
    if kind == "local":
        if not (number.isascii() and number.isdigit() and int(number)):
            raise ConfigError(f"runtime.scheduler {runtime.scheduler!r}: expected local:N or an address")
        workers = LocalCluster(
            n_workers=int(number),
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # its own port is taken where another cluster runs here
        )
        with workers, Client(workers) as client:
            yield client
        return
    try:
        client = Client(runtime.scheduler, timeout=connect_seconds)
    except (OSError, ValueError) as error:
        raise ConfigError(f"runtime.scheduler {runtime.scheduler!r}: no scheduler answers there ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=connect_seconds)
        except TimeoutError as error:
            raise ConfigError(
                f"runtime.scheduler {runtime.scheduler!r}: has no workers; `dask worker {runtime.scheduler}` starts one"
            ) from error
        yield client


def outcome(future: "Future[T]") -> T:
    """What a task gave or raised. Raises WorkerError where it died with every worker it was given to, or is lost."""
    from distributed import KilledWorker
    from distributed.client import FutureCancelledError

    try:
        result: T = future.result()
    except KilledWorker as error:
        raise WorkerError(
            f"runtime.scheduler: {error.allowed_failures + 1} workers died one after another at the same work, as they "
            "do without memory; use fewer workers or a smaller runtime.batch. What is finished is kept: run the same "
            "command again"
        ) from error
    except FutureCancelledError as error:
        raise WorkerError(
            "runtime.scheduler: the connection was lost. What is finished is kept: run the same command again"
        ) from error
    return result


def own_device(device: str, worker: object) -> str:
    """On a machine with several GPUs the n-th local worker takes the n-th of them."""
    import torch

    if device != "auto" or not torch.cuda.is_available() or not isinstance(worker, int):
        return device
    return f"cuda:{worker % torch.cuda.device_count()}"


def for_workers(runtime: Runtime) -> Runtime:
    """``runtime`` for worker processes, which share neither this one's thread count nor its environment."""
    # The number of threads shows in the last bits on a CPU, and DVC tells only this process where its checkout is.
    import torch

    threads = runtime.threads or torch.get_num_threads()
    return replace(runtime, scheduler="", threads=threads, store=str(store_root(runtime.store).absolute()))
