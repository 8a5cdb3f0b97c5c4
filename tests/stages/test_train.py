"""The stage `train` on a small index and random features in the place of the store's."""

import csv
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffps.datasets.tables import read_scenes, write_index
from diffps.errors import CheckpointError, ConfigError, DivergedError
from diffps.model import PersonSearcher
from diffps.records import Annotations, SearchIndex
from stages.head.run import HeadRun
from stages.job import QuietJob, StoppedError
from stages.train import run
from tests.stages.small import ROOT, SmallSource, small_params, write_small_index


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_small_index(tmp_path)
    return tmp_path


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> SmallSource:
    found = SmallSource()
    monkeypatch.setattr("stages.features.source.open_source", lambda *args, **options: found)
    return found


def weights(folder: Path = Path("results/train")) -> dict[str, torch.Tensor]:
    return load_file(folder / "head" / "model.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class StoppingJob(QuietJob):
    """Is told to stop after a number of batches."""

    def __init__(self, after: int) -> None:
        super().__init__(small_params().runtime)
        self._left = after

    @contextmanager
    def track(self, label: str, total: int, unit: str):
        yield self

    def advance(self, done: int = 1, nbytes: int = 0) -> None:
        self._left -= done
        self.stopping = self._left <= 0


def test_the_folder_holds_a_head_its_losses_and_its_metrics(here: Path, source: SmallSource) -> None:
    run(small_params(), QuietJob())
    searcher = PersonSearcher.from_pretrained("results/train/head")
    assert not searcher.training
    card = Path("results/train/head/README.md").read_text()
    for statement in ("builtin:random", "appearance, not identity", "streets", "Not evaluated", "UNet 12ab, VAE 34cd"):
        assert statement in card
    with Path("results/train/losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(8))
    assert {"epoch", "lr", "total", "rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid"} <= rows[0].keys()
    metrics = json.loads(Path("results/train/metrics.json").read_text())
    assert metrics["images"] == 8
    assert metrics["epochs"] == 2
    assert metrics["steps"] == 8
    assert metrics["parameters"] == sum(p.numel() for p in searcher.parameters())
    assert math.isclose(metrics["loss"], sum(float(row["total"]) for row in rows[4:]) / 4, rel_tol=1e-4)


def test_a_second_run_reads_nothing_and_keeps_the_head(here: Path, source: SmallSource) -> None:
    run(small_params(), QuietJob())
    first, given = weights(), source.given
    run(small_params(), QuietJob())
    assert source.given == given
    assert equal(first, weights())


@pytest.mark.parametrize(("after", "accumulate"), [(1, 1), (5, 1), (1, 3)])
def test_stopped_and_run_again_equals_uninterrupted(here: Path, source: SmallSource, after: int, accumulate) -> None:
    params = small_params({"train.accumulate": accumulate})
    with pytest.raises(StoppedError):
        run(params, StoppingJob(after))
    assert not Path("results/train/head").exists()
    run(params, QuietJob())
    stopped, curve = weights(), Path("results/train/losses.csv").read_text()
    for file in sorted(Path("results/train/checkpoint").iterdir()):
        file.unlink()
    run(params, QuietJob())
    assert equal(stopped, weights())
    assert curve == Path("results/train/losses.csv").read_text()


def test_other_settings_begin_anew(here: Path, source: SmallSource, caplog: pytest.LogCaptureFixture) -> None:
    run(small_params(), QuietJob())
    first = weights()
    with caplog.at_level("INFO"):
        run(small_params({"train.lr": 2e-3}), QuietJob())
    assert "train.lr was 0.001 and is 0.002" in caplog.text
    assert not equal(first, weights())


def test_a_damaged_checkpoint_is_refused_by_name(here: Path, source: SmallSource) -> None:
    run(small_params(), QuietJob())
    Path("results/train/checkpoint/state.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"state\.safetensors.*delete it"):
        run(small_params(), QuietJob())
    save_file({"a": torch.zeros(1)}, "results/train/checkpoint/state.safetensors")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        run(small_params(), QuietJob())


def test_divergence_names_scenes_and_keeps_the_good_checkpoint(here: Path, source: SmallSource, monkeypatch) -> None:
    monkeypatch.setattr("stages.head.loop.SAVE_SECONDS", 0.0)
    run(small_params({"train.epochs": 1}), QuietJob())
    earlier = weights()
    source.broken = "c3_0.jpg"
    with pytest.raises(DivergedError, match=r"batch 3 of epoch 0: loss .* is nan.*c3_0\.jpg.*begins anew"):
        run(small_params({"train.epochs": 1, "train.seed": 3, "train.data_seed": 7}), QuietJob())
    assert equal(earlier, weights())
    path = "results/train/checkpoint/state.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["settings"])["train"]["seed"] == 3
    assert json.loads(metadata["scalars"])["position"] == 3  # three batches seen, the fourth not
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_best_is_judged_on_held_out_identities_alone(here: Path, source: SmallSource) -> None:
    params = small_params({"train.holdout": 0.3, "train.checkpoint": "best", "train.epochs": 3})
    run(params, QuietJob())
    metrics = json.loads(Path("results/train/metrics.json").read_text())
    assert metrics["images"] < 8
    assert 0 <= metrics["held_out_map"] <= 1
    assert "held-out mAP" in Path("results/train/head/README.md").read_text()
    best = load_file(f"results/train/checkpoint/best-{metrics['best_epoch']}.safetensors")
    assert equal(best, weights())
    assert len(list(Path("results/train/checkpoint").glob("best-*"))) == 1


def test_killed_between_a_new_best_and_the_checkpoint_the_old_best_is_still_there(
    here: Path, source: SmallSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = small_params({"train.holdout": 0.3, "train.checkpoint": "best"})
    scores, save = [0.5, 0.9], HeadRun.save

    def killed(run: HeadRun) -> None:
        if run.best is not None and run.best[1] == 1:
            raise RuntimeError("killed")
        save(run)

    monkeypatch.setattr("stages.head.loop.SAVE_SECONDS", 0.0)
    monkeypatch.setattr("stages.head.run.held_out_map", lambda *_: scores.pop(0))
    monkeypatch.setattr(HeadRun, "save", killed)
    with pytest.raises(RuntimeError, match="killed"):
        run(params, QuietJob())
    monkeypatch.setattr(HeadRun, "save", save)
    first = load_file("results/train/checkpoint/best-0.safetensors")
    scores.append(0.2)  # the epoch once more, with a GPU's rounding
    run(params, QuietJob())
    assert json.loads(Path("results/train/metrics.json").read_text())["best_epoch"] == 0
    assert equal(first, weights())


def test_what_a_killed_process_left_half_written_is_removed(here: Path, source: SmallSource) -> None:
    partial = Path("results/train/checkpoint/.state.safetensors.123.tmp")
    partial.parent.mkdir(parents=True)
    partial.touch()
    run(small_params({"train.epochs": 1}), QuietJob())
    assert not partial.exists()


def test_best_without_held_out_identities_is_refused() -> None:
    with pytest.raises(ConfigError, match="holdout"):
        small_params({"train.checkpoint": "best"})


@pytest.mark.parametrize("identities", [range(8), [-1] * 8], ids=["seen once", "unlabelled"])
def test_best_with_nobody_to_search_for_is_refused_before_training(
    here: Path, source: SmallSource, identities: Sequence[int]
) -> None:
    listed = read_scenes(Path("data/index"), "train")
    box = np.array([[5, 8, 40, 70]], np.float32)
    found = {s.scene_id: Annotations(box, np.array([i])) for s, i in zip(listed, identities, strict=True)}
    write_index(
        SearchIndex(scenes=tuple(listed), annotations=found, queries=(), galleries=(), report={}), Path("data/index")
    )
    with pytest.raises(ConfigError, match=r"train\.holdout: none of the .* two scenes"):
        run(small_params({"train.holdout": 0.3, "train.checkpoint": "best"}), QuietJob())
    assert source.given == 0
    run(small_params({"train.holdout": 0.3, "train.epochs": 1}), QuietJob())


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import stages.features.source, stages.head.loop
from tests.stages.small import SmallSource, small_params
from stages.job import QuietJob
from stages.train import run
import torch
torch.set_num_threads(1)
stages.features.source.open_source = lambda *args, **options: SmallSource()
stages.head.loop.SAVE_SECONDS = 0.0
print("ready", flush=True)
run(small_params({"train.epochs": int(sys.argv[2])}), QuietJob())
"""


def killed_again_and_again(folder: Path, kills: int, epochs: int) -> None:
    """Train in processes that are killed at random moments, then in one that is not."""
    rng = random.Random(kills)

    def start() -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", KILLED, str(ROOT), str(epochs)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder, env=os.environ)

    for _ in range(kills):
        process = start()
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0.2, 2.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    process = start()
    process.communicate()
    assert process.returncode == 0


@pytest.mark.parametrize(("kills", "epochs"), [(1, 4), pytest.param(20, 40, marks=pytest.mark.slow)])
def test_killed_at_random_moments_the_head_is_the_same_to_the_bit(
    here: Path, source: SmallSource, kills: int, epochs: int
) -> None:
    run(small_params({"train.epochs": epochs}), QuietJob())
    folder = here / "killed"
    folder.mkdir()
    write_small_index(folder)
    killed_again_and_again(folder, kills, epochs)
    assert equal(weights(), weights(folder / "results/train"))
    leftovers = [path for path in (folder / "results/train").rglob("*") if path.suffix == ".tmp"]
    assert len(leftovers) <= kills


def test_other_features_in_the_store_begin_anew(here: Path, source: SmallSource, caplog) -> None:
    params = small_params({"train.epochs": 1})
    run(params, QuietJob())
    folder = here / params.runtime.store / "manifests/extract/train/identity/base/t0"
    folder.mkdir(parents=True)
    (folder / f"{params.train.taps.level3[0]}@int8.json").write_text("{}")
    with caplog.at_level("INFO"):
        run(params, QuietJob())
    assert "store was ''" in caplog.text
