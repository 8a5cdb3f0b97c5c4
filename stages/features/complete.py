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
    check: Callable[[], None] | None = None,
) -> None:
    """Complete ``work``, in this process or on ``runtime.scheduler``, and write its manifests.

    The model is loaded only when something is missing, after ``check`` has looked at its files and before a byte is
    written; worker processes get ``make_computer`` pickled. Raises StoreFullError before anything is computed when what
    is missing does not fit on the disk; StoppedError once the shard at hand is safe.
    """
    missing: list[tuple[ArraySpec, int]] = []
    unfinished: list[Work] = []
    total = 0
    for part in work:
        found = store.missing(part.specs, part.images, shard=runtime.shard, readable=part.readable)
        if found.nothing:  # without the lock: a store that can only be read serves who has nothing to add
            if found.names:
                store.record_names(part.place.split, part.images)
            _write_manifests(store, part)
            continue
        unfinished.append(part)
        missing += found.arrays
        total += found.images
    if not total:
        job.say(f"{stage}: nothing is missing")
    if not unfinished:
        return
    require_space(store.root, missing)
    if check is not None:
        check()
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
            _write_manifests(store, part)


def _writer(store: FeatureStore, work: Work, runtime: Runtime) -> StoreWriter:
    return store.writer(work.specs, work.images, shard=runtime.shard, takeover=runtime.takeover)


def _write_manifests(store: FeatureStore, work: Work) -> None:
    for path, specs in work.manifests.items():
        store.write_manifest(path, specs, {work.place.split: work.images}, work.folder)
