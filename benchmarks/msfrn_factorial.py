"""Why MSFRN hurts on the demo: its effect by first weights, by epochs, and with a learned low band.

The demo's head with MSFRN off, as released, and with the low band refined too (``refine_low_band``), first weights
``v1`` and ``xavier-everywhere``, few and more epochs, several seeds; one store, one pass. As released Eq. 5 adds the
low band of the map once more, unchanged, which smooths the map wherever the learned bands are small.

Reported: mean mAP and its run-to-run error per variant, and MSFRN's effect within each setting with the deviation
pooled over all of them. ``--folder`` keeps the project: run again, it does what is missing.

    python benchmarks/msfrn_factorial.py --folder FOLDER
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from diffps.metrics.effects import Run, main_effects, variant_scores

ROOT = Path(__file__).parents[1]
SWEEP = """base: {{epochs: 3, milestones: [2]}}
variants:
  off: {{model.msfrn: null}}
  on: {{}}
  low: {{model.msfrn.refine_low_band: true}}
  off-xavier: {{model.msfrn: null, init: xavier-everywhere}}
  on-xavier: {{init: xavier-everywhere}}
  off-8: {{model.msfrn: null, epochs: 8, milestones: [6]}}
  on-8: {{epochs: 8, milestones: [6]}}
grid:
  seed: {seeds}
"""
# What is subtracted from what: MSFRN's effect, by setting.
EFFECTS = {
    "as released, v1, 3 epochs": ("on", "off"),
    "low band refined too, v1, 3 epochs": ("low", "off"),
    "as released, xavier-everywhere, 3 epochs": ("on-xavier", "off-xavier"),
    "as released, v1, 8 epochs": ("on-8", "off-8"),
}


def main() -> None:
    """Make the store, train what is missing, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="work here and leave it; else in a temporary folder")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/msfrn_factorial.json")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        if not Path("params.yaml").exists():
            shutil.copy(ROOT / "presets/demo.yaml", "params.yaml")
        Path("msfrn.yaml").write_text(SWEEP.format(seeds=list(range(1, options.seeds + 1))))
        for stage in ("index", "encode", "extract", "sweep"):
            changes = ["sweep.file=msfrn.yaml", "extract.encoding=int8", "extract.transcode=[]", "runtime.threads=1"]
            given = [text for change in changes for text in ("--set", change)]
            environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
            subprocess.run([sys.executable, "-m", "pipeline", stage, *given], env=environment, check=True)
        with Path("results/sweep/table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    options.out.write_text(json.dumps(report(rows), indent=2) + "\n")
    print(options.out.read_text())


def report(rows: list[dict[str, str]]) -> dict[str, Any]:
    """From the sweep's table."""
    runs = [
        Run(variant=row["group"], factors={"group": row["group"]}, seed=int(row["seed"]), score=float(row["map"]))
        for row in rows
        if row["map"]
    ]
    found = main_effects(runs)
    assert found.deviation is not None
    by_group = {score.variant: score for score in variant_scores(runs)}
    effects = {}
    for name, (with_it, without) in EFFECTS.items():
        a, b = by_group[with_it], by_group[without]
        error = found.deviation * (1 / a.runs + 1 / b.runs) ** 0.5
        effects[name] = {"change": a.mean - b.mean, "error": error}
    released = [effect for name, effect in effects.items() if name.startswith("as released")]
    return {
        "variants": {score.variant: {"mean": score.mean, "runs": score.runs} for score in by_group.values()},
        "deviation_between_runs": found.deviation,
        "degrees": found.degrees,
        "msfrn": effects,
        "msfrn as released, over its settings": {
            "change": fmean(effect["change"] for effect in released),
            "error": sum(effect["error"] ** 2 for effect in released) ** 0.5 / len(released),
        },
        "runs": [{key: row[key] for key in ("variant", "map", "top1", "detection_ap", "seconds")} for row in rows],
    }


if __name__ == "__main__":
    main()
