"""Several processes or machines through dask.distributed: connecting, outcomes, and what workers are told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
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
    scheduler at that address or of that scheduler file, which has ``connect_seconds`` to answer. Raises ConfigError.
    """
    scheduler = runtime.scheduler
    if not scheduler:
        yield None
        return
    from distributed import Client, LocalCluster
    from distributed.security import Security

    kind, _, number = scheduler.partition(":")
    if kind == "local":
        if not (number.isascii() and number.isdigit() and int(number)):
            raise ConfigError(
                f"runtime.scheduler {scheduler!r}: expected local:N, an address, or a scheduler file (.json)"
            )
        # Whoever may connect to a worker runs code in it: here only this process, which has the keys.
        keys = Security.temporary()
        workers = LocalCluster(
            n_workers=int(number),
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            protocol="tls",
            security=keys,
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": ":0"},  # its own port is taken where another cluster runs here
        )
        with workers, Client(workers, security=keys) as client:
            yield client
        return
    of_file = scheduler.endswith(".json")
    address = _address(scheduler) if of_file else scheduler
    try:
        client = Client(address, timeout=connect_seconds)
    except (OSError, ValueError) as error:
        raise ConfigError(f"runtime.scheduler {scheduler!r}: no scheduler answers there ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=connect_seconds)
        except TimeoutError as error:
            option = "--scheduler-file " if of_file else ""
            raise ConfigError(
                f"runtime.scheduler {scheduler!r}: has no workers; `dask worker {option}{scheduler}` starts one"
            ) from error
        yield client


def _address(file: str) -> str:
    """Where the scheduler that wrote ``file`` listens. Raises ConfigError."""
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))["address"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(
            f"runtime.scheduler {file!r}: no scheduler file ({error}); "
            f"`dask scheduler --scheduler-file {file}` writes one"
        ) from error
    return str(found)


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
