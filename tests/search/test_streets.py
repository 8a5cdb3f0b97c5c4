"""Open-set search end to end: a head trained on drawn streets, calibrated on people it never saw, met by others."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.open_set import LEVELS, Searches, compare, compute, read
from diffps.search.openset import calibrate

ROOT = Path(__file__).resolve().parents[2]
WORLDS = {
    "held_out": {"train_identities": 48, "test_identities": 600, "test_scenes": 420},
    "unseen": {"train_identities": 700, "test_identities": 1060, "test_scenes": 760},
}


@pytest.mark.slow
def test_people_never_seen_are_taken_for_somebody_as_often_as_promised(tmp_path: Path) -> None:
    """1,000 searches without a mate and 1,000 with one. Calibration and searches are both samples: 99.7 % of such
    pairs differ by less than three times the spread of their difference."""
    params = ROOT / "presets" / "demo.yaml"
    for stage in ("index", "encode", "extract", "train"):
        subprocess.run(["diffps", stage, "--params", str(params)], cwd=tmp_path, check=True)
    for name, world in WORLDS.items():
        compute(tmp_path / name, params, tmp_path / "results/train/head", world)
    calibration = calibrate(read(tmp_path / "held_out"))
    searches = Searches(read(tmp_path / "unseen"), 0)
    assert len(searches.unmated) >= 1000
    assert len(searches.mates) >= 1000
    rows = compare(calibration, searches, [100, 300, int(calibration.measured_boxes)])
    assert len(rows) == 3 * len(LEVELS)
    for row in rows:
        level = row["promised_fpir"]
        spread = (level * (1 - level) * (1 / len(searches.unmated) + 1 / calibration.identities)) ** 0.5
        assert abs(row["observed_fpir"] - level) < 3 * spread, row
        assert abs(row["observed_fnir"] - row["promised_fnir"]) < 0.08, row
