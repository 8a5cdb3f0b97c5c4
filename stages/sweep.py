"""Train many heads from one reading of the cache and compare them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from diffps.errors import ConfigError, DivergedError
from stages.job import Job

if TYPE_CHECKING:
    from distributed import Client

    from stages.params import Params
    from stages.variants import Variant

POLL_SECONDS = 1.0  # how soon workers hear that they are to stop


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``sweep``: the file that names the variants.

    In it, ``variants`` maps names to overrides of ``train`` (dotted keys), ``grid`` maps keys to lists of values, and
    every variant is made at every point of the grid; ``base`` is common to all. ``extract.encoding`` may be varied too
    where the store holds it. Heads that differ in ``seed`` of the grid alone are averaged.
    """

    file: str = "presets/sweeps/demo.yaml"

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("sweep.file: name a sweep file, such as presets/sweeps/demo.yaml")


def run(params: "Params", job: Job) -> None:
    """Train and score what is missing of the sweep into results/sweep; the table is written as heads finish.

    Raises ConfigError for a variant that cannot be made or whose features are not stored, before anything is trained;
    StoppedError when asked to stop; DivergedError where no head is left.
    """
    from stages.files import held
    from stages.results import result_of
    from stages.variants import FOLDER, read_variants

    variants = read_variants(params)
    with held(FOLDER):
        _train_missing(params, variants, job)
    results = {variant.name: result_of(variant) for variant in variants}
    diverged = [name for name, result in results.items() if result and result["status"] == "diverged"]
    if len(diverged) == len(variants):
        raise DivergedError(f"{params.sweep.file}: every variant diverged; lower train.lr")
    job.say(f"{FOLDER / 'table.csv'}: {len(variants)} variants, {len(diverged)} diverged")


def dry_run(params: "Params", job: Job) -> str:
    """The passes, what each reads, how long it takes and what it leaves on the disk."""
    from stages.sweep_forecast import forecast

    return forecast(params, job)


def _train_missing(params: "Params", variants: Sequence["Variant"], job: Job) -> None:
    from stages.cluster import cluster
    from stages.results import result_of, write_table
    from stages.sweep_pass import check_features, split_by_memory, train_pass
    from stages.variants import plan_passes

    def refresh() -> None:
        write_table(variants)

    todo = [variant for variant in variants if result_of(variant) is None]
    groups = plan_passes(todo)
    for group in groups:
        check_features(group, job)
    passes = [part for group in groups for part in split_by_memory(group, job)]
    job.say(f"{params.sweep.file}: {len(variants)} variants, {len(todo)} to train in {len(passes)} passes")
    refresh()
    with cluster(job.runtime) as client:
        if client is None:
            for group in passes:
                train_pass(group, job, refresh)
        else:
            _on_cluster(client, passes, job, refresh)
    refresh()


def _on_cluster(client: "Client", passes: Sequence[Sequence["Variant"]], job: Job, refresh: Callable[[], None]) -> None:
    """One task a pass; a killed worker's passes go on from their checkpoints elsewhere. Raises StoppedError once all
    that are under way are saved."""
    from contextlib import suppress
    from dataclasses import replace
    from pathlib import Path
    from uuid import uuid4

    import torch
    from distributed import wait

    from stages.cluster import outcome
    from stages.job import StoppedError
    from stages.storage import store_root
    from stages.sweep_pass import pass_on_worker
    from stages.variants import FOLDER

    # As many threads as here: the number of threads shows in the last bits on a CPU.
    threads = job.runtime.threads or torch.get_num_threads()
    runtime = replace(job.runtime, scheduler="", threads=threads, store=str(store_root(job).absolute()))
    stop = (FOLDER / f".stop-{uuid4().hex[:8]}").absolute()  # its presence tells workers wherever they run
    arguments = runtime, str(Path.cwd()), str(stop)
    left = [client.submit(pass_on_worker, list(group), *arguments, pure=False) for group in passes]
    try:
        with job.track("sweep", sum(map(len, passes)), "heads") as tracker:
            while left:
                if job.stopping:
                    stop.touch()
                with suppress(TimeoutError):
                    wait(left, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED")
                for future in [future for future in left if future.done()]:
                    left.remove(future)
                    with suppress(StoppedError):
                        tracker.advance(outcome(future))
                        refresh()
        if stop.exists():
            raise StoppedError("sweep stopped; the same command goes on")
    finally:
        stop.unlink(missing_ok=True)
