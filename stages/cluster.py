"""Several processes or machines: one model a worker, one whole shard a task, through dask.distributed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

from diffps.errors import ConfigError, WorkerError
from stages.job import Job, RuntimeConfig, StoppedError, Tracker
from stages.shards import Place

if TYPE_CHECKING:
    from distributed import Client, Future

    from cache import ShardTask
    from stages.params import Params

TASKS_PER_WORKER = 2  # one to do, one waiting; few, so that a request to stop takes effect soon
CONNECT_SECONDS = 10

T = TypeVar("T")

# Whose workers have their model, under which token: registering again would load it again.
_prepared: "WeakKeyDictionary[Client, str]" = WeakKeyDictionary()


@contextmanager
def cluster(runtime: RuntimeConfig) -> "Iterator[Client | None]":
    """Client of ``runtime.scheduler``: None when it is empty, a cluster of N processes here for ``local:N``, else the
    scheduler at that address. Raises ConfigError."""
    if not runtime.scheduler:
        yield None
        return
    from distributed import Client, LocalCluster

    kind, _, number = runtime.scheduler.partition(":")
    if kind == "local":
        if not (number.isascii() and number.isdigit() and int(number)):
            raise ConfigError(f"runtime.scheduler {runtime.scheduler!r}: expected local:N or an address")
        workers = LocalCluster(n_workers=int(number), threads_per_worker=1, processes=True, dashboard_address=None)
        with workers, Client(workers) as client:
            yield client
        return
    try:
        client = Client(runtime.scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise ConfigError(f"runtime.scheduler {runtime.scheduler!r}: no scheduler answers there ({error})") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
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


def write_on_cluster(
    client: "Client",
    stage: str,
    params: "Params",
    job: Job,
    place: Place,
    tasks: "Sequence[ShardTask]",
    tracker: Tracker,
) -> None:
    """Have ``tasks`` done by the workers while this process keeps the lock. A killed worker's shards are done again.

    Raises what a task raised; WorkerError; StoppedError once the shards at hand are safe.
    """
    from distributed import as_completed

    from stages.worker import ModelPlugin, write_shard

    if client not in _prepared:
        _prepared[client] = uuid4().hex
        client.register_plugin(ModelPlugin(stage, _prepared[client], params, job.runtime))
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
