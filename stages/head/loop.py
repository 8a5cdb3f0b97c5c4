"""Heads trained to their end from one stream, saved now and then."""

import statistics
import time
from collections.abc import Callable, Mapping

from diffps.errors import DivergedError
from diffps.features import FeatureSource
from diffps.training import StepResult, train_heads
from stages.head.run import HeadRun
from stages.head.watching import Watch, unwatched
from stages.job import Job, StoppedError

SAVE_SECONDS = 60.0


def _loss(results: Mapping[str, StepResult | DivergedError]) -> str:
    totals = [result.total for result in results.values() if isinstance(result, StepResult)]
    return f"loss {statistics.fmean(totals):.4g}" if totals else ""


def train_head(
    run: HeadRun, source: FeatureSource, job: Job, save_seconds: float = SAVE_SECONDS, watch: Watch = unwatched
) -> None:
    """Train one head to its end, from where its folder left off, and write it. Raises StoppedError, everything saved;
    DivergedError, the last good checkpoint kept."""
    job.say(run.resume())
    train_all({"": run}, source, job, lambda _: run.finish(), save_seconds, watch)
    if run.diverged is not None:
        raise run.diverged


def train_all(
    runs: Mapping[str, HeadRun],
    source: FeatureSource,
    job: Job,
    done: Callable[[str], object],
    save_seconds: float = SAVE_SECONDS,
    watch: Watch = unwatched,
) -> None:
    """Train every run to its end from one stream, saving every ``save_seconds``, and call ``done`` with each that is
    finished; ``watch`` is shown every step of every run by its name.

    All runs have the same order of samples. A head that diverges gets its ``diverged`` set instead. Raises
    StoppedError, everything saved, when the job is to stop.
    """
    for name in [name for name, run in runs.items() if run.trainer.finished]:
        done(name)
    data = next(iter(runs.values())).data
    heads = {name: run.trainer for name, run in runs.items()}
    left = sum(head.total - head.position for head in heads.values())
    unsaved: set[str] = set()
    saved_at, stopping = time.monotonic(), False
    with job.track("train", left, "batches") as tracker:
        steps = train_heads(heads, source, data.order, data.target, mirror_features=data.mirror_features)
        for results in steps:
            for name, result in results.items():
                run = runs[name]
                if isinstance(result, DivergedError):
                    run.diverged = result
                    job.say(f"{run.folder}: {result}")
                    continue
                run.record(result)
                watch(name, result)
                if run.trainer.position % data.order.batches_per_epoch == 0:
                    run.end_epoch(source)
            tracker.advance(len(results), note=_loss(results))
            going = {name for name in results if runs[name].diverged is None}
            if time.monotonic() - saved_at >= save_seconds or (job.stopping and not stopping):
                unsaved |= going
                saved_at, stopping = time.monotonic(), job.stopping
            unsaved = (unsaved & going) | {name for name in going if heads[name].finished}
            # A head that has gathered half a step's gradients is saved some batches later.
            for name in [name for name in unsaved if heads[name].settled]:
                runs[name].save()
                unsaved.remove(name)
                if heads[name].finished:
                    done(name)
            if stopping and not unsaved:
                raise StoppedError("training stopped; the same command goes on")
