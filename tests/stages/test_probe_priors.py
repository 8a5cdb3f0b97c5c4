"""`diffps probe` on priors without a UNet: the same table, sets that a training reads, maps where there is text."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML

from diffps.backbone.families import load_prior
from diffps.datasets.tables import read_annotations, read_scenes
from stages import extract, index, probe, train
from stages.features.backbone import LatentComputer, PassRunner
from stages.features.batches import chunks
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime
from stages.params import Params, override
from stages.places import INDEX, PROBE, TRAIN
from stages.probing.prober import state_at
from stages.probing.setting import plan_probe, read_probe_file
from stages.typed import build
from tests.backbone.test_clip import write_model
from tests.backbone.test_timm import SMALL, write_folder
from tests.probe.plain import plain_probe
from tests.world import Listener, raw_params

RUNTIME = Runtime(device="cpu", threads=1, batch=2, vae_batch=2, shard=4)
FILE: dict[str, Any] = {"scenes": 8, "budgets": [0.02, 0.1], "width": 40, "boxes": 4, "folds": 2, "resamples": 100}


def make_params(checkpoint: str, taps: list[str], canvas: list[int], words: list[str]) -> Params:
    """The small demo on another prior, whose first grid is the only level."""
    levels = {"level1": [], "level2": [], "level3": [taps[0]]}
    raw = raw_params(
        {
            "encode": {"checkpoint": checkpoint, "canvas": canvas},
            "extract": {"taps": taps, "words": words},
            "train": {"taps": {"detection": taps[0], "guidance": None}, "model": {"dgrpn": None, "sfan": None}},
            "probe": {"file": "probe.yaml"},
        }
    )
    raw["train"]["taps"] |= levels
    return build(Params, {name: raw[name] for name in Params.__dataclass_fields__}, "tests")


def project(folder: Path, monkeypatch: pytest.MonkeyPatch, params: Params) -> None:
    monkeypatch.chdir(folder)
    with Path("probe.yaml").open("w") as file:
        YAML().dump(FILE, file)
    index.run(params, RUNTIME, QuietJob())


def test_every_tap_of_a_vision_transformer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    checkpoint = f"timm:{write_folder(tmp_path / 'model', 'vit_small_patch16_dinov3', {**SMALL, 'img_size': 64})}"
    params, job = make_params(checkpoint, ["vit-norm"], [96, 96], []), Listener()
    project(tmp_path, monkeypatch, params)
    probe.run(params, RUNTIME, job)
    table = pq.read_table(PROBE / "table.parquet").to_pylist()
    rows = {row["name"]: row for row in table if row["kind"] == "tap"}
    assert list(rows) == [name for name, spec in load_prior(checkpoint).taps.items() if spec.kind == "grid"]
    assert (rows["vit-block01-k"]["block"], rows["vit-block01-k"]["module"]) == ("vit-block01", "k")
    assert (rows["vit-norm"]["block"], rows["vit-norm"]["module"]) == ("vit", "norm")
    assert [name for name, row in rows.items() if row["own"]] == ["vit-norm"]
    assert all(0 <= row["reid_map"] <= 1 and 0 <= row["detection_precision"] <= 1 for row in rows.values())
    assert not (PROBE / "words.parquet").exists(), "no text, no word maps"
    assert any("No control: builtin:random is a UNet" in line for line in job.lines)
    assert "No control: builtin:random is a UNet" in probe.dry_run(params, RUNTIME, QuietJob())
    # Tap by tap from the features that extract would store.
    (plan,) = plan_probe(
        read_probe_file(Path("probe.yaml")), params.encode, params.extract, read_scenes(INDEX), read_annotations(INDEX)
    )
    latents = LatentComputer(plan.unet.prior, params.encode, ImageFolder.of(params.index), plan.sample.scenes, RUNTIME)
    runner = PassRunner(plan.unet, torch.device("cpu"))
    keyed: Any = list(latents.keyed([(scene.scene_id, "identity") for scene in plan.sample.scenes]))
    found = [each for chunk in chunks(keyed, 2) for each in runner.features(chunk, 0, 2)]
    runner.close()
    features = {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in rows}
    stored = state_at(plan, 0).rows()
    for tap, expected in plain_probe(features, list(rows), plan.sample, plan.frame, plan.rules).items():
        for kind, values in expected.items():
            np.testing.assert_allclose(stored[f"{tap}/{kind}"], values, rtol=1e-6, atol=1e-6, err_msg=f"{tap} {kind}")
    # The chosen set is read by a training as it is written.
    block = YAML(typ="safe").load(PROBE / "taps-0.1MB.yaml")
    changes = {f"{section}.{key}": value for section, keys in block.items() for key, value in keys.items()}
    pasted = override(params, changes, "pasted")
    extract.run(pasted, RUNTIME, QuietJob())
    train.run(pasted, RUNTIME, QuietJob())
    assert (TRAIN / "head").is_dir()


def test_grids_of_a_convolutional_net(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    checkpoint = f"timm:{write_folder(tmp_path / 'model', 'test_convnext', {})}"
    taps = [name for name in load_prior(checkpoint).taps if name.startswith("cnn-stage")]
    params = make_params(checkpoint, [taps[0]], [128, 128], [])
    project(tmp_path, monkeypatch, params)
    probe.run(params, RUNTIME, QuietJob())
    rows = [row for row in pq.read_table(PROBE / "table.parquet").to_pylist() if row["kind"] == "tap"]
    assert len({row["height"] for row in rows}) > 1
    assert all(np.isfinite(row["detection_precision"]) for row in rows)


def test_maps_of_a_prior_with_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = f"clip:{write_model(tmp_path / 'model', 'clip')}"
    taps = [name for name, spec in load_prior(checkpoint).taps.items() if spec.kind == "grid"]
    params = make_params(checkpoint, [taps[-1]], [96, 96], ["person"])
    project(tmp_path, monkeypatch, params)
    probe.run(params, RUNTIME, QuietJob())
    (words,) = pq.read_table(PROBE / "words.parquet").to_pylist()
    assert (words["name"], words["word"]) == ("vit-text-map.person", "person")
    assert 0 <= words["precision"] <= 1
