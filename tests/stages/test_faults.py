"""Whatever the system refuses, in whatever stage, is one line with the file and the way out; run again, all is well."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import shim

# Where each stage reads and writes.
READS = {
    "index": ["*data/streets/*"],
    "encode": ["*data/index/*", "*data/streets/frames/*"],
    "extract": ["*data/index/*", "*features.zarr/*", "*data/features/rows/*"],
    "train": ["*data/index/*", "*data/manifests/*", "*features.zarr/*", "*data/encode/*"],
    "evaluate": ["*data/index/*", "*results/train/head/*", "*features.zarr/*", "*data/features/receipts/*"],
    "sweep": ["*data/index/*", "*one.yaml", "*features.zarr/*"],
    "report": ["*results/evaluate/*", "*results/train/*", "*data/index/*"],
}
WRITES = {
    "index": ["*data/.diffps-*", "*data/index*"],
    "encode": ["*data/encode/*", "*data/features/*", "*data/manifests/*"],
    "extract": ["*data/features/*", "*data/manifests/*", "*data/inputs/*"],
    "train": ["*results/train/*"],
    "evaluate": ["*results/evaluate/*"],
    "sweep": ["*results/sweep/*"],
    "report": ["*results/report/*"],
}
ERRORS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EMFILE", "ESTALE", "EXDEV", "ENOLCK", "ETIMEDOUT")
HANDLED = {("flock", "ENOLCK")}  # another lock takes its place


def tried(whole: Path, scratch: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a user is told in every case."""
    command = [
        sys.executable,
        str(shim.ROOT / "tests/faults/in_stages.py"),
        str(whole),
        str(scratch),
        json.dumps(cases),
    ]
    env = {**shim.environment(), "PYTHONPATH": str(shim.ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def case(stage: str, call: str, error: str, pattern: str, nth: int = 1) -> dict[str, Any]:
    return {
        "stage": stage, "call": call, "error": getattr(errno, error), "pattern": pattern, "nth": nth, "lasting": False
    }  # fmt: skip


def wrong(found: list[dict[str, Any]]) -> list[str]:
    """Those that are not one line with a path and a way out, or after which the stage does not end well."""
    faults = []
    for each in found:
        name = errno.errorcode[each["error"]]
        where = f"{each['stage']} {each['call']} {name} {each['pattern']} {each['nth']}: {each['kind']}"
        # A folder that is there need not be made.
        fine = each["kind"] is None and ((each["call"], name) in HANDLED or each["call"] == "mkdir")
        if not each["hits"] or (fine and each["again"] is None):
            continue
        told = each["told"]
        named = told is not None and ("/" in told or each["pattern"].strip("*") in told)
        if not named or "\n" in told:
            faults.append(f"{where}: {told!r} ({each['raw'][:200]!r})")
        if each["again"] is not None:
            faults.append(f"{where}, then: {each['again'][:300]}")
    return faults


@pytest.mark.slow
def test_some_faults_of_evaluate_are_one_line_each(whole: Path, tmp_path: Path) -> None:
    found = tried(
        whole,
        tmp_path,
        [
            case("evaluate", "open", "EIO", "*results/train/head/*"),
            case("evaluate", "fsync", "EIO", "*results/evaluate/*"),
            case("evaluate", "rename", "EXDEV", "*results/evaluate/*", 2),
            case("evaluate", "write", "ENOSPC", "*results/evaluate/*"),
        ],
    )
    assert [each["hits"] for each in found] == [1, 1, 1, 1]
    assert wrong(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("stage", READS)
def test_every_refusal_in_every_stage(whole: Path, tmp_path: Path, stage: str) -> None:
    cases = [
        case(stage, call, ERRORS[(number + place) % len(ERRORS)], pattern, nth)
        for place, (call, pattern) in enumerate(
            [(call, pattern) for call in ("open", "read", "stat", "list") for pattern in READS[stage]]
            + [(call, pattern) for call in ("create", "write", "fsync", "rename", "mkdir") for pattern in WRITES[stage]]
            + [("flock", "*lock*")]
        )
        for number, nth in enumerate((1, 2, 7) if not os.environ.get("FEW") else (1,))
    ]
    found = tried(whole, tmp_path, cases)
    struck = sum(bool(each["hits"]) for each in found)
    print(f"{stage}: {struck} of {len(found)} faults struck")
    assert struck >= len(found) // 4
    assert wrong(found) == []


@pytest.mark.slow
def test_sixty_four_open_files_are_enough_or_told(whole: Path, tmp_path: Path) -> None:
    """`ulimit -n 64`, which is less than any system gives."""
    shutil.copytree(whole, tmp_path / "project")
    for stage in ("index", "encode", "extract", "train", "evaluate", "sweep", "report"):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -n 64; exec {sys.executable} -m pipeline {stage}"],
            cwd=tmp_path / "project",
            env={**os.environ, "PYTHONPATH": str(shim.ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr, f"{stage}: {done.stderr[-2000:]}"
        assert done.returncode == 0 or "files open" in done.stderr, f"{stage}: {done.stderr[-500:]}"
