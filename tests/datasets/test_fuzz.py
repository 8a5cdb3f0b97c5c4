"""Damaged files of every reader end in an index or in one line: no signal, no traceback, no hang, no gigabyte."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

READERS = (
    "prw",
    "cuhk",
    "movienet",
    "posetrack",
    "prw-json",
    "cuhk-json",
    "folder",
    "coco",
    "label-studio",
    "cvat",
    "roboflow",
)
MATLAB = ("prw", "cuhk")


def fuzz(name: str, count: int, folder: Path) -> dict[str, int]:
    """Outcomes of ``count`` damages in a process of its own."""
    command = [sys.executable, "-m", "tests.datasets.fuzzing", name, str(count), str(folder / "tree")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ended with {done.returncode} at {done.stderr[-1500:]}"
    found = json.loads(done.stdout)
    assert found["megabytes"] < 1000
    return dict(found["outcomes"])


def check(outcomes: dict[str, int], count: int) -> None:
    wrong = [text for text in outcomes if text not in ("read", "refused")]
    assert not wrong, "\n".join(wrong[:3])
    assert sum(outcomes.values()) == count
    assert outcomes["refused"] > count // 20  # else nothing was damaged


@pytest.mark.parametrize("name", READERS)
def test_a_hundred_damages_of_each_reader(name: str, tmp_path: Path) -> None:
    count = 250 if name in MATLAB else 100
    check(fuzz(name, count, tmp_path), count)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_damages_of_each_reader(name: str, tmp_path: Path) -> None:
    count = 5000 if name in MATLAB else 1000
    check(fuzz(name, count, tmp_path), count)
