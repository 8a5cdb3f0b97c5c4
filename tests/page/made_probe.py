"""A probe's results, made up."""

from typing import Any

import numpy as np

from tests.page.conftest import HOSTILE, Run

TAPS = {
    "up-level3-repeat0-vit-block0-self-k": ("up-level3-repeat0", "vit-block0-self-k", 0.5, 0.40, 0.9),
    "up-level3-repeat0-vit-block0-out": ("up-level3-repeat0", "vit-block0-out", 0.5, 0.55, 0.8),
    "up-level3-repeat0-vit-out": ("up-level3-repeat0", "vit-out", 0.5, 0.5, 0.7),
    "up-level1-repeat2-res-out": ("up-level1-repeat2", "res-out", 0.1, 0.2, 0.95),
}
OWN = "up-level3-repeat0-vit-block0-self-k"


def write_probe(run: Run, timesteps: tuple[int, ...] = (0,), reid: bool = True) -> None:
    """Four taps of one checkpoint, the control's and a set, without re-ID scores where ``reid`` is False."""
    rows: list[dict[str, Any]] = []
    for timestep in timesteps:
        for checkpoint, share in (("builtin:streets", 1.0), ("builtin:random", 0.3)):
            for name, (block, module, megabytes, score, detection) in TAPS.items():
                value = score * share - timestep / 1000 if reid else float("nan")
                rows.append(
                    {
                        "checkpoint": checkpoint,
                        "timestep": timestep,
                        "kind": "tap",
                        "name": name,
                        "block": block,
                        "module": module,
                        "own": name == OWN,
                        "megabytes": megabytes,
                        "reid_map": value,
                        "detection_precision": detection * share,
                    }
                )
    rows.append({"checkpoint": "builtin:streets", "timestep": 0, "kind": "set", "name": "train.taps", "reid_map": 0.6})
    columns = list(rows[0])
    run.table("results/probe/table.parquet", {name: [row.get(name) for row in rows] for name in columns})
    shared = {name: [0.5] * len(TAPS) * len(timesteps) for name in TAPS}
    names = {"timestep": np.repeat(timesteps, len(TAPS)), "name": list(TAPS) * len(timesteps)}
    run.table("results/probe/redundancy.parquet", names | shared)
    run.table("results/probe/words.parquet", {"name": ["m.person"], "timestep": [0], "precision": [0.8], "hit": [1.0]})
    (run.folder / "results/probe/summary.txt").write_text(f"4 taps at timestep 0.\nThe best is {HOSTILE}.\n")
