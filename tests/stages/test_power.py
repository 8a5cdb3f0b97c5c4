"""After a power cut at a random moment of any stage the same command ends with what an uninterrupted run leaves."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stages import encode, evaluate, extract, index, report, sweep, train, verify
from stages.job import QuietJob
from tests.faults.powercut import Disk
from tests.world import ROOT, Project

CUTS = 2  # a stage
STAGES = {"index": index, "encode": encode, "extract": extract, "train": train, "evaluate": evaluate}
STAGES |= {"sweep": sweep, "report": report}
# Of each stage, what is the same every time; the rest holds times.
SAME = {
    "index": ["data/index/*.parquet"],
    "encode": ["data/encode/*", "data/manifests/encode/**/*.json", "data/features/features.zarr/**/*"],
    "extract": ["data/manifests/extract/**/*.json", "data/inputs/*.json", "data/features/features.zarr/**/*"],
    "train": ["results/train/head/*"],
    "evaluate": ["results/evaluate/*.parquet", "results/evaluate/*.npy", "results/evaluate/scores.json"],
    "sweep": ["results/sweep/heads/*/head/*.safetensors", "results/sweep/heads/*/evaluate/*.parquet"],
    "report": [],
}
RUN = """
import sys
from importlib import import_module
from pathlib import Path
from pipeline.config import load_params
from stages.job import QuietJob
stage = import_module(f"stages.{sys.argv[1]}")
import torch, diffusers, pyarrow.parquet
params, runtime = load_params(Path("params.yaml"))
print("started", flush=True)
stage.run(params, runtime, QuietJob())
"""


def start(stage: str, folder: Path) -> "subprocess.Popen[str]":
    """A child that says when its imports are over."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", RUN, stage]
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def same(folder: Path, stage: str) -> dict[str, bytes]:
    """Content of what ``stage`` leaves that is the same every time; which store it is differs."""
    paths = {path for pattern in SAME[stage] for path in folder.glob(pattern) if path.is_file()}
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != "store.json"}


@pytest.mark.slow
def test_a_power_cut_in_any_stage_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, moments, cuts = tmp_path / "whole", random.Random(3), 0
    whole.mkdir()
    with Disk(tmp_path, megabytes=400) as disk:
        cut = disk.path / "project"
        for name in STAGES:
            with pytest.MonkeyPatch.context() as here:
                project = Project(whole, here)
                if name == "index":
                    shutil.copytree(whole, cut)
                project.change(sweep={"file": "one.yaml"})
                Path("one.yaml").write_text("variants: {one: {}}")
                for file in ("params.yaml", "one.yaml"):
                    shutil.copy(file, cut)
                began = time.monotonic()
                process = start(name, whole)
                _, told = process.communicate()
                assert process.returncode == 0, told[-2000:]
                seconds = time.monotonic() - began
            subprocess.run(["sync"], check=True)
            for _ in range(CUTS):
                process = start(name, cut)
                time.sleep(moments.uniform(0, seconds * 0.6))
                disk.cut()
                process.kill()
                process.communicate()
                disk.restore()
                cuts += 1
            process = start(name, cut)
            _, told = process.communicate()
            assert process.returncode == 0, f"{name}: {told[-2000:]}"
            assert same(cut, name) == same(whole, name), name
            assert not list(cut.rglob(".diffps-*.tmp")), name
            print(f"{name}: {CUTS} power cuts, then what it was", flush=True)
        monkeypatch.chdir(cut)
        verify.run(Path("results/train/head"), Project(cut, monkeypatch).runtime, QuietJob())
    assert cuts == CUTS * len(STAGES)
