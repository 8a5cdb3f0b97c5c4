"""What is missing of some work, and having it written: here or on a cluster."""

from collections.abc import Callable, Sequence

from cache import ArraySpec, FeatureStore
from cache.budget import require_space
from cache.writer import StoreWriter
from stages.cluster import cluster
from stages.features.shards import Computer, Work, write_shards
from stages.job import Job, Runtime


def write_missing(
    stage: str,
    store: FeatureStore,
    work: Sequence[Work],
    make_computer: Callable[[Runtime], Computer],
    runtime: Runtime,
    job: Job,
) -> None:
    """Complete ``work``, in this process or on ``runtime.scheduler``, and write its manifests.

    The model is loaded only when something is missing; worker processes get ``make_computer`` pickled. Raises
    StoreFullError before anything is computed when what is missing does not fit on the disk; StoppedError once the
    shard at hand is safe.
    """
    missing: list[tuple[ArraySpec, int]] = []
    unfinished: list[Work] = []
    total = 0
    for part in work:
        with _writer(store, part, runtime) as writer:
            tasks = writer.pending(part.readable)
            total += sum(len(task.rows) for task in tasks)
            missing += [(spec, len(task.rows)) for task in tasks for spec in task.specs]
            if tasks:
                unfinished.append(part)
            else:
                _write_manifests(writer, part)
    if not unfinished:
        job.say(f"{stage}: nothing is missing")
        return
    require_space(store.root, missing)
    computer: Computer | None = None
    with cluster(runtime) as client, job.track(stage, total, "images") as tracker:
        for part in unfinished:
            with _writer(store, part, runtime) as writer:
                tasks = writer.pending(part.readable)
                if client is not None:
                    # Imports distributed, which takes seconds: only those who use it wait for it.
                    from stages.features.workers import write_on_cluster

                    write_on_cluster(client, stage, make_computer, runtime, job, part.place, tasks, tracker)
                else:
                    computer = computer or make_computer(runtime)
                    write_shards(writer.shard, part.place, tasks, computer, tracker, lambda: job.stopping)
                _write_manifests(writer, part)


def _writer(store: FeatureStore, work: Work, runtime: Runtime) -> StoreWriter:
    return store.writer(work.specs, work.images, shard=runtime.shard, takeover=runtime.takeover)


def _write_manifests(writer: StoreWriter, work: Work) -> None:
    for path, specs in work.manifests.items():
        writer.write_manifest(path, specs)
