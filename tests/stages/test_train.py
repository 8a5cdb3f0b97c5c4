"""Training a head into a folder, on made-up features: what it leaves, and how it goes on."""

import csv
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from cache.errors import DamagedError
from cache.sealed import write_tensors
from diffps.errors import CheckpointError, ConfigError, DivergedError
from diffps.metrics.retrieval import retrieval_map
from diffps.model import PersonSearcher
from stages.finding.embedder import SearchHead
from stages.head.data import training_set
from stages.head.loop import train_head
from stages.head.run import HeadRun
from stages.head.validation import held_out_map
from stages.job import QuietJob, StoppedError
from stages.places import INDEX, TRAIN
from tests.world import (
    CPU,
    ROOT,
    Listener,
    SmallSource,
    StoppingJob,
    equal,
    head_run,
    rename_persons,
    small_params,
    train_small,
    weights,
    write_small_index,
)


@pytest.fixture
def source() -> SmallSource:
    return SmallSource()


def test_the_folder_holds_a_head_its_losses_and_its_metrics(here: Path, source: SmallSource) -> None:
    train_small(small_params(), source)
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
    train_small(small_params(), source)
    first, given = weights(), source.given
    train_small(small_params(), source)
    assert source.given == given
    assert equal(first, weights())


@pytest.mark.parametrize(("after", "accumulate"), [(1, 1), (5, 1), (1, 3)])
def test_stopped_and_run_again_equals_uninterrupted(here: Path, source: SmallSource, after: int, accumulate) -> None:
    params = small_params({"train.accumulate": accumulate})
    with pytest.raises(StoppedError, match="^training stopped; the same command goes on$"):
        train_small(params, source, StoppingJob(after))
    assert not Path("results/train/head").exists()
    job = Listener()
    train_small(params, source, job)
    assert job.lines == [f"{TRAIN}: goes on ({max(after, accumulate)} of 8 batches done)"]
    stopped, curve = weights(), Path("results/train/losses.csv").read_text()
    for file in sorted(Path("results/train/checkpoint").iterdir()):
        file.unlink()
    train_small(params, source)
    assert equal(stopped, weights())
    assert curve == Path("results/train/losses.csv").read_text()


def test_other_settings_begin_anew(here: Path, source: SmallSource, caplog: pytest.LogCaptureFixture) -> None:
    train_small(small_params(), source)
    first = weights()
    with caplog.at_level("INFO"):
        train_small(small_params({"train.lr": 2e-3}), source)
    assert "train.lr was 0.001 and is 0.002" in caplog.text
    assert not equal(first, weights())


def test_a_head_of_another_initialisation_is_not_gone_on_from(
    here: Path, source: SmallSource, caplog: pytest.LogCaptureFixture
) -> None:
    train_small(small_params({"train.init": "v2"}), source)
    alone = weights()
    shutil.rmtree(TRAIN)
    with pytest.raises(StoppedError):
        train_small(small_params({"train.init": "v1"}), source, StoppingJob(5))
    with caplog.at_level("INFO"):
        train_small(small_params({"train.init": "v2"}), source)
    assert "train.init was 'v1' and is 'v2'" in caplog.text
    assert equal(alone, weights())
    assert PersonSearcher.from_pretrained("results/train/head").init == "v2"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nothing.pth", r"model\.head_weights nothing\.pth: no such file"),
        ("imagenet", r"model\.head_weights imagenet: .* set model\.head_weights: random"),
    ],
)
def test_first_weights_that_cannot_be_had_are_an_error_before_anything_is_trained(
    here: Path, source: SmallSource, given: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        train_small(small_params({"train.model.head_weights": given}), source)
    assert source.given == 0
    assert not (TRAIN / "head").exists()


def test_a_damaged_checkpoint_is_refused_by_name(here: Path, source: SmallSource) -> None:
    train_small(small_params(), source)
    Path("results/train/checkpoint/state.safetensors").write_bytes(b"nothing")
    with pytest.raises(DamagedError, match=r"state\.safetensors: has no digest.*deleting results/train/checkpoint"):
        train_small(small_params(), source)
    write_tensors(Path("results/train/checkpoint/state.safetensors"), save({"a": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        train_small(small_params(), source)


def test_divergence_names_scenes_and_keeps_the_good_checkpoint(here: Path, source: SmallSource) -> None:
    train_small(small_params({"train.epochs": 1}), source)
    earlier = weights()
    source.broken = "c3_0.jpg"
    with pytest.raises(DivergedError, match=r"batch 3 of epoch 0: loss .* is nan.*c3_0\.jpg.*begins anew"):
        train_small(small_params({"train.epochs": 1, "train.seed": 3, "train.data_seed": 7}), source, save_seconds=0.0)
    assert equal(earlier, weights())
    path = "results/train/checkpoint/state.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["settings"])["train"]["seed"] == 3
    assert json.loads(metadata["scalars"])["position"] == 3  # three batches seen, the fourth not
    assert all(tensor.isfinite().all() for tensor in load_file(path).values())


def test_best_is_judged_on_held_out_identities_alone(here: Path, source: SmallSource) -> None:
    params = small_params({"train.holdout": 0.3, "train.checkpoint": "best", "train.epochs": 3})
    train_small(params, source)
    metrics = json.loads(Path("results/train/metrics.json").read_text())
    assert metrics["images"] < 8
    assert 0 <= metrics["held_out_map"] <= 1
    assert "held-out mAP" in Path("results/train/head/README.md").read_text()
    best = load_file(f"results/train/checkpoint/best-{metrics['best_epoch']}.safetensors")
    assert equal(best, weights())
    assert len(list(Path("results/train/checkpoint").glob("best-*"))) == 1


class Killed(HeadRun):
    """A run whose process dies once the second epoch's weights are the best, before its checkpoint is written."""

    def save(self) -> None:
        if self.best is not None and self.best[1] == 1:
            raise RuntimeError("killed")
        super().save()


def test_killed_between_a_new_best_and_the_checkpoint_the_old_best_is_still_there(
    here: Path, source: SmallSource
) -> None:
    params = small_params({"train.holdout": 0.3, "train.checkpoint": "best"})
    scores = iter([0.5, 0.9, 0.2])  # the last: the second epoch once more, with a GPU's rounding

    def judge(*_: object) -> float:
        return next(scores)

    with pytest.raises(RuntimeError, match="killed"):
        train_head(head_run(params, source, Killed, judge=judge), source, QuietJob(), save_seconds=0.0)
    first = load_file("results/train/checkpoint/best-0.safetensors")
    train_head(head_run(params, source, judge=judge), source, QuietJob())
    assert json.loads(Path("results/train/metrics.json").read_text())["best_epoch"] == 0
    assert equal(first, weights())


def test_of_equal_epochs_the_first_is_kept_and_every_beginning_is_said(here: Path, source: SmallSource) -> None:
    params = small_params({"train.holdout": 0.3, "train.checkpoint": "best"})
    job, scores = Listener(), iter([0.5, 0.5])
    train_head(head_run(params, source, judge=lambda *_: next(scores)), source, job)
    metrics = json.loads((TRAIN / "metrics.json").read_text())
    assert (metrics["held_out_map"], metrics["best_epoch"]) == (0.5, 0)
    assert [path.name for path in (TRAIN / "checkpoint").glob("best-*")] == ["best-0.safetensors"]
    assert json.loads((TRAIN / "scores.json").read_text()) == {name: metrics[name] for name in ("loss", "seconds")}
    steps = metrics["steps"]
    train_head(head_run(params, source), source, job)
    assert job.lines == [f"{TRAIN}: training starts", f"{TRAIN}: finished ({steps} of {steps} batches done)"]
    saved = json.loads((TRAIN / "head" / "config.json").read_text())["training"]
    assert (saved["dataset"], saved["scenes"], saved["recipe"]) == ("streets", metrics["images"], source.recipe)
    assert set(saved) == {"training", "reading", "recipe", "dataset", "backbone", "scenes"}


class Looks(torch.nn.Module):
    """Embeds a box as its sides say, by chance."""

    def embed(self, features: object, boxes: list[torch.Tensor]) -> list[torch.Tensor]:
        assert not self.training
        return [torch.sin(1e3 * part) for part in boxes]


def test_held_out_people_are_searched_among_all_scenes_that_show_one(here: Path, source: SmallSource) -> None:
    params = small_params({"train.holdout": 0.3})
    data = training_set(params.train, params.encode.frame, INDEX)
    trainer: Any = SimpleNamespace(model=Looks(), names=params.train.taps.names[:1], device=CPU)
    found = held_out_map(trainer, data, source)
    people = list(data.held_out.values())
    assert found == retrieval_map(
        torch.sin(1e3 * torch.from_numpy(np.concatenate([part.boxes for part in people]))).numpy(),
        np.concatenate([part.identities for part in people]),
        np.repeat(np.arange(len(people)), [len(part.boxes) for part in people]),
    )
    assert 0 < found < 1
    assert source.given == -(-len(people) // 2)
    assert trainer.model.training
    nobody: Any = SimpleNamespace(held_out={})
    with pytest.raises(ConfigError, match=r"none of the 0 identities held out is seen in two scenes"):
        held_out_map(trainer, nobody, source)


def test_what_a_killed_process_left_half_written_is_removed(here: Path, source: SmallSource) -> None:
    partial = Path("results/train/checkpoint/.diffps-01234567-1-1-01234567.tmp")
    partial.parent.mkdir(parents=True)
    partial.touch()
    os.utime(partial, (0, 0))
    train_small(small_params({"train.epochs": 1}), source)
    assert not partial.exists()


def test_best_without_held_out_identities_is_refused() -> None:
    with pytest.raises(ConfigError, match="holdout"):
        small_params({"train.checkpoint": "best"})


@pytest.mark.parametrize("identities", [range(8), [-1] * 8], ids=["seen once", "unlabelled"])
def test_best_with_nobody_to_search_for_is_refused_before_training(
    here: Path, source: SmallSource, identities: Sequence[int]
) -> None:
    rename_persons(identities)
    with pytest.raises(ConfigError, match=r"train\.holdout: none of the .* two scenes"):
        train_small(small_params({"train.holdout": 0.3, "train.checkpoint": "best"}), source)
    assert source.given == 0
    train_small(small_params({"train.holdout": 0.3, "train.epochs": 1}), source)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from tests.world import SmallSource, small_params, train_small
torch.set_num_threads(1)
print("ready", flush=True)
train_small(small_params({"train.epochs": int(sys.argv[2])}), SmallSource(), save_seconds=0.0)
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
    train_small(small_params({"train.epochs": epochs}), source)
    folder = here / "killed"
    folder.mkdir()
    write_small_index(folder)
    killed_again_and_again(folder, kills, epochs)
    assert equal(weights(), weights(folder / "results/train"))
    leftovers = [path for path in (folder / "results/train").rglob("*") if path.suffix == ".tmp"]
    assert len(leftovers) <= kills


def test_other_features_in_the_store_begin_anew(here: Path, source: SmallSource, caplog) -> None:
    params = small_params({"train.epochs": 1})
    train_small(params, source)
    folder = Path("data/manifests/extract/train/identity/base/t0")
    folder.mkdir(parents=True)
    (folder / f"{params.train.taps.level3[0]}@int8.json").write_text("{}")
    with caplog.at_level("INFO"):
        train_small(params, source)
    assert "store was ''" in caplog.text


def test_the_head_says_what_it_reads(here: Path, source: SmallSource) -> None:
    params = small_params({"train.epochs": 1, "train.flip": "feature", "extract.encoding": "float16"})
    train_small(params, source)
    config = json.loads((TRAIN / "head/config.json").read_text())
    assert config["training"]["reading"] == {
        "names": list(params.train.taps.names),
        "timestep": 0,
        "pass_name": "base",
        "encoding": "float16",
        "head": "mean",
        "mirrored": False,
    }


def test_a_trained_head_is_opened_for_searching(here: Path, source: SmallSource) -> None:
    params = small_params({"train.epochs": 1})
    run = head_run(params, source)
    train_head(run, source, QuietJob())
    assert not run.finish().training
    head = SearchHead.open(TRAIN / "head")
    assert (head.folder, head.dataset, head.of_drawings) == (TRAIN / "head", "streets", True)
    assert (head.encode.canvas, head.encode.checkpoint) == (params.encode.canvas, "builtin:random")
    assert head.reading.names == params.train.taps.names
    other = SearchHead.open(TRAIN / "head", "someone/another")
    assert (other.encode.checkpoint, other.encode.hub, other.encode.revision) == ("someone/another", None, None)
    assert other.of_drawings
    assert not replace(other, dataset="cuhk-sysu").of_drawings
