"""A clock that is set back and forth while stages run changes nothing that they make."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages import verify
from stages.job import QuietJob
from tests.faults import shim
from tests.stages.test_power import STAGES, same
from tests.world import ROOT, Project

COMMAND = """
import sys
from importlib import import_module
from itertools import cycle
from pathlib import Path
from pipeline.config import load_params
from pipeline.running import run_in
from pipeline.runtime import Shell
from tests.faults.shim import Faults

faults, offsets = Faults(), cycle([0, -86400, 3 * 86400, -3600, 20 * 365 * 86400])

class Jumping(Shell):
    def record(self, event, **fields):
        faults.clock(next(offsets))  # at every beginning and end of some work, and whenever something is said
        super().record(event, **fields)

params, runtime = load_params(Path("params.yaml"))
for name in sys.argv[1:]:
    job = Jumping(Path("results") / name / "log.jsonl")
    job.record("run", command=name)
    run_in(job, lambda job: import_module(f"stages.{name}").run(params, runtime, job))
"""


@pytest.mark.slow
def test_every_stage_under_a_clock_that_jumps_by_days(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "project"
    here.mkdir()
    for name in ("params.yaml", "one.yaml"):
        shutil.copy(whole / name, here)
    shutil.copytree(whole / "data/streets", here / "data/streets")
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *STAGES],
        cwd=here,
        env={**shim.environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = map(json.loads, (here / "results/train/log.jsonl").read_text().splitlines())
    times = [event["time"] for event in log]
    assert max(times) - min(times) > 86400, "the clock did not jump"
    for name in STAGES:
        assert same(here, name) == same(whole, name), name
    assert not list(here.rglob(".diffps-*.tmp"))
    assert not list((here / "data/features/locks").glob("*.json"))
    monkeypatch.chdir(here)
    verify.run(Path("results/train/head"), Project(here, monkeypatch).runtime, QuietJob())
    assert "-1 day" not in (here / "results/report/index.html").read_text()
