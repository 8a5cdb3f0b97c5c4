"""Train many heads from one reading of the store and compare them."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Train and score what is missing of the sweep into results/sweep; the tables are written as heads finish.

    Raises ConfigError for a variant that cannot be made or whose features are not stored, before anything is trained;
    StoppedError when asked to stop; DivergedError where no head is left.
    """
    from cache.lock import StoreLock
    from diffps.errors import DivergedError
    from stages.cluster import cluster
    from stages.devices import choose_device
    from stages.forecasts.memory import split_by_memory
    from stages.places import SWEEP
    from stages.sweeps.execute import check_features, open_round, train_round
    from stages.sweeps.remote import train_on_cluster
    from stages.sweeps.results import result_of, write_table
    from stages.sweeps.rounds import plan_rounds
    from stages.sweeps.variants import read_variants
    from stages.text import count
    from stages.together import json_content

    file = params.sweep.file
    variants = read_variants(params)

    def refresh() -> None:
        write_table(variants, params.train)

    with StoreLock(SWEEP / "lock.json", takeover=runtime.takeover):
        todo = [variant for variant in variants if result_of(variant) is None]
        groups = plan_rounds(todo)
        for group in groups:
            check_features(group, open_round(group, runtime))
        rounds = [part for group in groups for part in split_by_memory(group, runtime)]
        job.say(f"{file}: {count(len(variants), 'variant')}, {len(todo)} to train in {count(len(rounds), 'round')}")
        refresh()
        with cluster(runtime) as client:
            if client is None:
                for group in rounds:
                    train_round(
                        group, open_round(group, runtime), choose_device(runtime), job, refresh, runtime.tracker
                    )
            else:
                train_on_cluster(client, rounds, runtime, job, refresh)
        refresh()
    results = {variant.name: result_of(variant) for variant in variants}
    diverged = [name for name, result in results.items() if result and result["status"] == "diverged"]
    if len(diverged) == len(variants):
        raise DivergedError(f"{file}: every variant diverged; lower train.lr")
    job.say(f"{SWEEP / 'table.csv'}: {count(len(variants), 'variant')}, {len(diverged)} diverged")
    for line in json_content(SWEEP / "effects.json", "sweep").get("text", "").splitlines():
        job.say(line)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """The rounds, what each reads, how long it takes and what it leaves on the disk."""
    from stages.forecasts.sweep import forecast_sweep
    from stages.sweeps.variants import read_variants

    return forecast_sweep(params.sweep.file, read_variants(params), runtime)
