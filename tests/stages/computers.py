"""UNets that count, fail or fill the disk, handed to extraction in the place of the plain one."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Self

import torch

from cache import ShardTask
from diffps.datasets.tables import read_scenes
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.arrays import pass_work
from stages.features.backbone import PassComputer
from stages.features.complete import write_missing
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.shards import Computed, Computer, Place, Skipped
from stages.job import Job, QuietJob, Runtime
from stages.places import INDEX
from tests.world import STORE, Project

Make = Callable[[EncodeConfig, ExtractConfig, Runtime], Computer]


def extract_by(
    project: Project, make: Make, job: Job | None = None, runtime: Runtime | None = None, **sections: dict[str, Any]
) -> None:
    """What extraction lacks under the project's parameters, computed by what ``make`` gives."""
    params = project.params(**sections)
    work = pass_work(PassPlan(params.encode, params.extract, open_store(str(STORE))), read_scenes(INDEX))
    computer = partial(make, params.encode, params.extract)
    write_missing("extract", open_store(str(STORE)), work, computer, runtime or project.runtime, job or QuietJob())


def refuse(*_: object) -> Computer:
    """No model, where none is to be loaded."""
    raise AssertionError("the model was loaded")


class Changed(PassComputer):
    """The plain computer, to be made otherwise by a test; as workers make it, from what can be pickled."""

    @classmethod
    def make(cls, encode: EncodeConfig, extract: ExtractConfig, runtime: Runtime) -> Self:
        return cls(PassPlan(encode, extract, open_store(runtime.store)), runtime)


class Failing(Changed):
    """Breaks off at its fourth image."""

    done = 0

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        for row in super().rows(place, task):
            self.done += 1
            if self.done == 4:
                raise RuntimeError("the driver went away")
            yield row


class Limited(Changed):
    """Has memory for batches of ``largest``."""

    largest = 1

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        if self.batch > self.largest:
            raise torch.OutOfMemoryError("full")
        return super().rows(place, task)


class Filled(Changed):
    """Gives ``value`` everywhere."""

    value = float("nan")

    def rows(self, place: Place, task: ShardTask) -> Iterator[Computed]:
        for row in super().rows(place, task):
            assert not isinstance(row, Skipped)
            for array in row.values():
                array[:] = self.value
            yield row
