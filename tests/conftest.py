"""What all tests share. Threads are limited before anything heavy is imported: tests run side by side."""

import os
import shutil
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
# A test that reaches for the network must fail at once, not wait.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tens of thousands of fsyncs need no disk: that they are made, and in what order, is seen from the calls themselves.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 8 << 30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

import pytest
from hypothesis import HealthCheck, settings

# Shared machines pause for seconds: a deadline would report those as failures.
settings.register_profile("diffps", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("diffps")


# Files of these folders take longest. They are begun first, so that no process ends with a long one alone.
LONGEST = ("pipeline", "stages", "parity", "training", "backbone", "page", "finding", "streets", "recorded", "cache")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file goes to one process, and all that look at a pipeline DVC ran to the same one, which runs it once."""
    from xdist.scheduler import LoadFileScheduling

    class OneRun(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "dvc" if "/test_dvc" in file else file

        def _assign_work_unit(self, node: Any) -> None:
            self.workqueue.move_to_end(min(self.workqueue, key=_turn), last=False)
            super()._assign_work_unit(node)

    return OneRun(config, log) if config.getvalue("dist") == "loadfile" else None


def _turn(scope: str) -> int:
    """0 for what is begun first."""
    folders = scope.split("/")
    return 0 if scope == "dvc" else 1 + LONGEST.index(folders[1]) if folders[1] in LONGEST else 1 + len(LONGEST)
