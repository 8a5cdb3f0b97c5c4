"""Where a page comes from: data, checkpoint, head and code by digest, versions, machine, dates, and the commands."""

import json
import os
import platform
import re
import shlex
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stages.head.identity import code_digest, index_digest, scoring_digest
from stages.head.saved import head_digest
from stages.page.content import Cell, Section, Table
from stages.page.cost import seconds_of_groups
from stages.page.evidence import Evidence, Json
from stages.page.introduction import data_name
from stages.text import count, duration

PACKAGES = ("diffps", "torch", "torchvision", "diffusers", "numpy", "zarr")
STAGES = ("index", "encode", "extract", "train", "evaluate")
LOGS = Path("results")
# A path that leaves the project tells of a machine and of whoever works on it.
OUTSIDE = re.compile(r"(?<![\w./~])(?:~[\w.-]*/|/|\.\./|[A-Za-z]:[\\/]|\\\\)[^\s'\",;)\]]+")


def provenance_section(evidence: Evidence) -> Section:
    """What was made from what, when, and by which commands; no path of the machine and no name of a person."""
    rows = [_stage(evidence, stage) for stage in STAGES]
    columns = ["Stage", "Finished", "Time", "Command"]
    return Section(
        anchor="provenance",
        title="Provenance",
        lead="The same data, checkpoint, code and parameters give the same results.",
        facts={name: without_paths(text) for name, text in _facts(evidence).items() if text},
        tables=[Table(caption="The commands that make it again, or dvc repro", columns=columns, rows=rows)],
    )


def without_paths(text: str) -> str:
    """The text without what lies outside the project's folder."""
    return OUTSIDE.sub("(a path of this machine)", text)


def _facts(evidence: Evidence) -> dict[str, str]:
    encode, head = evidence.params.encode, head_digest(evidence.head)
    revision = f", revision {encode.revision}" if encode.revision else ""
    return {
        "Data": ", ".join(filter(None, (data_name(evidence), evidence.index_report.get("id"), _counts(evidence)))),
        "Index": index_digest(),
        "Checkpoint": encode.checkpoint + revision,
        "Features": evidence.reading.digest(["train", "test"]),
        "Head": head[:12],
        "Code": f"training {code_digest()}, scores {scoring_digest()}",
        "Versions": ", ".join(_versions()),
        "Trained on": str(evidence.training.get("device", "")),
        "Page made on": f"{platform.system()} {platform.machine()}, {count(os.cpu_count() or 1, 'core')}",
    }


def _counts(evidence: Evidence) -> str:
    splits = [scene.split for scene in evidence.scenes.values()]
    return f"{splits.count('train'):,} training and {splits.count('test'):,} test scenes"


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for package in PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            continue


def _stage(evidence: Evidence, stage: str) -> list[object]:
    """When a stage last finished, how long its work took, and how it was called."""
    run, finished = _last_run(LOGS / stage / "log.jsonl")
    seconds = finished.get("seconds") if finished else None
    if stage in ("encode", "extract"):  # a run that found all there took no time
        seconds = seconds_of_groups(evidence, stage)
    elif stage == "train":
        seconds = evidence.training.get("seconds", seconds)
    date = "" if finished is None else f"{datetime.fromtimestamp(finished['time'], UTC):%Y-%m-%d %H:%M} UTC"
    changes = [f"--set {shlex.quote(str(each))}" for each in (run or {}).get("overrides", ())]
    command = without_paths(" ".join(["diffps", stage, *changes]).replace("='", "= '")).replace("= '", "='")
    return [stage, date or None, Cell(seconds, "–" if seconds is None else duration(seconds)), command]


def _last_run(path: Path) -> tuple[Json | None, Json | None]:
    """The events ``run`` and ``finished`` of the last run that finished; None where no log says."""
    started: Json | None = None
    found: tuple[Json | None, Json | None] = None, None
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"run"' not in line and '"finished"' not in line:
                    continue
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):  # a line torn by a crash
                    continue
                if not isinstance(event, dict):
                    continue
                if event.get("event") == "run":
                    started = event
                elif event.get("event") == "finished" and started is not None:
                    found = started, event
    return found
