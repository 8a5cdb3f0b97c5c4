"""Rounds of a sweep on a dask cluster: one task a round."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from stages.cluster import for_workers, outcome
from stages.job import Job, Runtime, StoppedError
from stages.places import SWEEP
from stages.sweeps.execute import round_on_worker
from stages.sweeps.variants import Variant

if TYPE_CHECKING:
    from distributed import Client

POLL_SECONDS = 1.0  # how soon workers hear that they are to stop


def train_on_cluster(
    client: "Client", rounds: Sequence[Sequence[Variant]], runtime: Runtime, job: Job, refresh: Callable[[], None]
) -> None:
    """Train every round on the workers. A killed worker's rounds go on from their checkpoints elsewhere.

    Raises StoppedError once all that are under way are saved.
    """
    # Takes seconds to import: only those who use it wait for it.
    from distributed import wait

    stop = (SWEEP / f".stop-{uuid4().hex[:8]}").absolute()  # its presence tells workers wherever they run
    arguments = for_workers(runtime), str(Path.cwd()), str(stop)
    left = [client.submit(round_on_worker, list(group), *arguments, pure=False) for group in rounds]
    try:
        with job.track("sweep", sum(map(len, rounds)), "heads") as tracker:
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
