"""The demo, smaller: eight drawn scenes, canvas 128, heads of 16 channels, one epoch. For tests of the whole way."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]

SMALLER: dict[str, Any] = {
    "index": {
        "streets": {
            "train_scenes": 8,
            "test_scenes": 6,
            "train_identities": 4,
            "test_identities": 4,
            "cameras": 2,
            "size": 128,
            "persons": [2, 3],
            "queries_per_identity": 1,
        }
    },
    "encode": {"checkpoint": "builtin:random", "canvas": [128, 128]},
    "train": {
        "batch": 2,
        "epochs": 1,
        "milestones": [],
        "model": {
            "channels": 16,
            "head_channels": 32,
            "rpn": {"samples": 16, "train_after_nms": 10, "test_after_nms": 10},
            "box": {"samples": 8, "score_threshold": 0.05, "detections": 5},
            "reid": {"samples": 8},
            "embedding": {"size": 24},
            "oim": {"queue": 8},
        },
    },
    "report": {"queries": 2, "scenes": 1},
    "sweep": {"file": "sweep.yaml"},
    "runtime": {"device": "cpu", "threads": 1, "batch": 2, "vae_batch": 2, "shard": 4},
}

SWEEP = """variants:
  full: {}
  no-dgrpn: {model.dgrpn: null}
"""


def tiny_raw(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """The parameters as plain data: params.yaml, made smaller, then changed by ``changes`` (nested like the file)."""
    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    _merge(raw, SMALLER)
    _merge(raw, changes or {})
    return dict(raw)


def write_params(folder: Path, changes: dict[str, Any] | None = None) -> None:
    """params.yaml and its sweep file in ``folder``."""
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(tiny_raw(changes), file)
    (folder / "sweep.yaml").write_text(SWEEP)


def _merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def reading(params: Any, names: Any = None) -> Any:
    """What section train reads, or ``names`` of it."""
    from dataclasses import replace

    from stages.features.reading import Reading

    found = Reading.of(params.train, params.extract)
    return found if names is None else replace(found, names=tuple(names))
