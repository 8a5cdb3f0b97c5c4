"""Ctrl-C in the middle of each stage: one line, exit code 130, and the same command finishes the work."""

import os
import signal
import sys
from pathlib import Path

import pytest

from pipeline.cli import main
from pipeline.runtime import _Work
from tests.world import write_params

STAGES = ("index", "encode", "extract", "train", "evaluate")


def run(monkeypatch: pytest.MonkeyPatch, stage: str) -> int:
    monkeypatch.setattr(sys, "argv", ["diffps", stage])
    with pytest.raises(SystemExit) as done:
        main()
    return int(done.value.code or 0)


def test_every_stage_stops_on_ctrl_c_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, {"encode": {"canvas": [64, 64]}, "evaluate": {"baseline": False}})
    advance, pressed = _Work.advance, []

    def press(work: _Work, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        advance(work, done, nbytes, note)
        if not pressed and work.done < work.total:
            pressed.append(work.label)
            os.kill(os.getpid(), signal.SIGINT)

    for stage in STAGES:
        pressed.clear()
        monkeypatch.setattr(_Work, "advance", press)
        assert run(monkeypatch, stage) == 130
        assert pressed
        said = capsys.readouterr().err
        assert "stopping after the work at hand; once more to stop now" in said
        assert said.splitlines()[-1].endswith("the same command continues")
        assert "Traceback" not in said
        monkeypatch.setattr(_Work, "advance", advance)
        assert run(monkeypatch, stage) == 0, capsys.readouterr().err
        capsys.readouterr()
