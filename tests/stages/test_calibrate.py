"""A head trained with some people held out is calibrated on them, and a search then says what a likeness is worth."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from diffps.errors import CalibrationError, ConfigError
from pipeline.config import load_params
from stages import calibrate
from stages.job import QuietJob
from tests.world import ROOT

STREETS: dict[str, Any] = {
    "train_scenes": 110,
    "train_identities": 100,
    "test_scenes": 12,
    "test_identities": 12,
    "queries_per_identity": 1,
}


@pytest.mark.slow
def test_a_calibrated_head_says_what_a_likeness_is_worth(tmp_path: Path) -> None:
    """The drawn streets and backbone of the demo, since a head of random weights finds nobody to calibrate on."""
    settings = [f"index.streets.{name}={value}" for name, value in STREETS.items()]
    settings += ["encode.views=[identity]", "train.flip=none", "train.epochs=4", "train.milestones=[3]"]
    settings += ["extract.transcode=[]", "evaluate.knock_outs=false", "evaluate.baseline=false", "train.holdout=0.4"]
    options = ["--params", str(ROOT / "presets/demo.yaml")]
    options += [part for value in settings for part in ("--set", value)]

    def run(*command: str) -> str:
        done = subprocess.run(["diffps", *command, *options], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout + done.stderr

    for stage in ("index", "encode", "extract", "train", "evaluate"):
        run(stage)
    query = sorted((tmp_path / "data/streets/frames").glob("*s2_*.jpg"))[0]
    asked = ("search", str(query.relative_to(tmp_path)), "--box", "30,60,60,150", "--promise", "0.1")
    assert "cannot tell" in run(*asked)
    said = run("head", "calibrate")
    assert "among 100 boxes: one in 10 strangers finds somebody of similarity" in said
    answer = run(*asked)
    assert "one in 10 strangers finds somebody so alike in this gallery" in answer
    assert "cannot tell" not in answer
    subprocess.run(["diffps", "head", "push", "results/train/head", "sent"], cwd=tmp_path, check=True)
    assert "one in 10 strangers" in run(*asked, "--head", "sent")


def test_a_head_that_cannot_be_calibrated_says_why(searchable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(searchable)
    params, runtime = load_params(Path("params.yaml"))
    with pytest.raises(ConfigError, match="train.holdout is 0.*--people test"):
        calibrate.run(params, runtime, QuietJob(), "held-out")
    with pytest.raises(CalibrationError, match="at least 20 are needed: hold out more|no box was detected"):
        calibrate.run(params, runtime, QuietJob(), "test")
    assert not Path("results/train/head-calibration.json").exists()
