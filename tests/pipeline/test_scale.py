"""The rehearsal of PRW's size on the first few hundred of its frames."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data" / "prw"


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="PRW's ground truth (../shared/data/prw) is not here")
def test_the_rehearsal_runs_every_command_and_a_second_run_finds_nothing_to_do(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    script = ROOT / "benchmarks" / "scale_rehearsal.py"
    options = ["--annotations", SHARED, "--frames", "150", "--out", out]
    done = subprocess.run([sys.executable, script, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["images"] == 300
    assert [found["report"][split]["images"] for split in ("train", "test")] == [150, 150]
    assert found["queries_scored"] == found["report"]["queries"] > 0
    made = {name: took["new_files"] for name, took in found["commands"].items()}
    assert {name for name, files in made.items() if files} == {"index", "encode", "extract"}
    assert len(made) == 12
