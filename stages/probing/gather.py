"""The pass of a probe: every stretch once, here or on the workers of a cluster."""

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from diffps.errors import ConfigError
from diffps.probe.plan import memory
from stages.cluster import for_workers, outcome
from stages.devices import choose_device
from stages.features.backbone import unet_batch
from stages.forecasts.memory import MEMORY_SHARE, free_memory
from stages.images import ImageFolder
from stages.job import Job, Runtime, StoppedError
from stages.probing.prober import Prober, probe_on_worker, state_at
from stages.probing.setting import Phase, ProbePlan, Stretch
from stages.text import size

if TYPE_CHECKING:
    from distributed import Client, Future

TASKS_PER_WORKER = 2  # one to do, one waiting; few, so that a request to stop takes effect soon
PHASES: tuple[Phase, Phase] = ("fit", "score")


def check_memory(plan: ProbePlan, runtime: Runtime, free: int | None = None) -> str:
    """What a probe will hold beside the models, as a line; ``free`` bytes, None asks the device.

    Raises ConfigError where it does not fit, before anything is computed.
    """
    device = choose_device(runtime)
    batch = unet_batch(runtime, device.type)
    persons = plan.stretch * max((len(boxes) for boxes in plan.sample.boxes), default=0)
    needed = memory(plan.reads, plan.rules, batch, persons)
    # Sums are held once while they grow, and once more while they are added to those before.
    total = needed.features + len(plan.timesteps) * (needed.sums + needed.vectors) + 2 * needed.sums
    left = free_memory(device) if free is None else free
    if total > MEMORY_SHARE * left:
        raise ConfigError(
            f"probe: needs {size(total)} beside the models ({size(needed.features)} for {batch} images, "
            f"{size(needed.sums)} of sums a timestep) and {size(left)} are free: take a smaller runtime.batch, or "
            "in the probe file a smaller width, fewer timesteps or fewer taps"
        )
    return f"{size(total)} beside the models"


def gather(plan: ProbePlan, images: ImageFolder, runtime: Runtime, job: Job, client: "Client | None") -> None:
    """Probe what is missing of ``plan``. Raises StoppedError once the stretches at hand are safe."""
    states = [state_at(plan, timestep) for timestep in plan.timesteps]

    def fold() -> None:
        for state in states:
            state.fold()

    fold()
    todo = {
        phase: [each for each in plan.stretches(phase) if not all(state.has(each) for state in states)]
        for phase in PHASES
    }
    scenes = sum(len(stretch.rows) for stretches in todo.values() for stretch in stretches)
    if not scenes:
        return
    prober = None if client is not None else Prober(plan, images, runtime)
    try:
        with job.track(f"probe {plan.unet.encode.checkpoint}", scenes, "scenes") as tracker:
            for phase in PHASES:  # the second needs the weights that the first gives
                if client is not None:
                    done = _on_cluster(client, plan, images, runtime, todo[phase], job)
                else:
                    assert prober is not None
                    done = _here(prober, todo[phase], job)
                for count in done:
                    fold()
                    tracker.advance(count)
    finally:
        if prober is not None:
            prober.close()


def _here(prober: Prober, stretches: Sequence[Stretch], job: Job) -> Iterator[int]:
    for stretch in stretches:
        if job.stopping:
            raise StoppedError
        yield prober.probe(stretch)


def _on_cluster(
    client: "Client", plan: ProbePlan, images: ImageFolder, runtime: Runtime, stretches: Sequence[Stretch], job: Job
) -> Iterator[int]:
    # Takes seconds to import: only those who use it wait for it.
    from distributed import as_completed

    told, remaining = for_workers(runtime), iter(stretches)

    def submit(count: int) -> "list[Future[int]]":
        arguments = plan, images, told, Path.cwd()
        # Not pure: what counts is what is written.
        return [client.submit(probe_on_worker, *arguments, each, pure=False) for each in islice(remaining, count)]

    under_way = as_completed(submit(TASKS_PER_WORKER * len(client.nthreads())))
    for future in under_way:
        yield outcome(future)
        if not job.stopping:
            under_way.update(submit(1))
    if next(remaining, None) is not None:
        raise StoppedError
