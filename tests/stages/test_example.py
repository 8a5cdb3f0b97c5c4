"""The example of docs/examples: a head trained from Python, which `diffps evaluate` then scores."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from stages import evaluate, extract
from stages.places import EVALUATE
from tests.world import ROOT, Project

EXAMPLE = ROOT / "docs/examples/train_head.py"
TAP, MAP = "up-level3-repeat0-vit-block0-self-k", "up-level3-repeat0-vit-block0-cross-map"
DEMO: dict[str, dict[str, Any]] = {
    "extract": {"taps": [TAP, MAP]},
    "train": {"taps": {"detection": TAP, "guidance": f"{MAP}.person", "level1": [], "level2": [], "level3": [TAP]}},
}


def test_a_head_is_trained_from_python_in_a_few_lines(
    encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [line for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert len(lines) < 25
    project = Project.copy_of(encoded, tmp_path / "project", monkeypatch)
    project.run(extract, **DEMO)
    Path("params.yaml").rename("away")
    runpy.run_path(str(EXAMPLE))
    assert capsys.readouterr().out.count("StepResult") == 2 * 8 // 4
    project.run(evaluate, evaluate={"head": "my-head", "baseline": False, "score_threshold": 0.0}, **DEMO)
    assert json.loads((EVALUATE / "metrics.json").read_text())["search"]["queries"] == 4
