"""Thread counts: PyTorch's shows in the last bits of a result, so nothing may change it on the way."""

import os
import subprocess
import sys

import pytest

CODE = """
import numba, numpy as np, torch
from diffps.metrics.similarity import exact_unit_rows
from stages.devices import choose_device
from stages.job import Runtime

choose_device(Runtime(device="cpu", threads={threads}))
before = torch.get_num_threads()
exact_unit_rows(np.ones((4, 8), np.float32), "rows")
print(before, torch.get_num_threads(), numba.get_num_threads())
"""


@pytest.mark.parametrize(("threads", "counts"), [(0, "1 1 1"), (2, "2 2 2"), (3, "3 3 2")])
def test_scoring_leaves_pytorch_s_threads_as_they_were(threads: int, counts: str) -> None:
    """Where Numba may use two threads and the environment allows PyTorch one."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2"}
    command = [sys.executable, "-c", CODE.format(threads=threads)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == counts
