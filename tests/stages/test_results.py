"""Counts, times and losses of a training, added up by hand."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffps.training import StepResult
from stages.head.results import training_metrics


def test_times_are_of_epochs_and_losses_of_the_last_one() -> None:
    def step(epoch: int, total: float, seconds: float, waited: float) -> StepResult:
        return StepResult(0, epoch, 0.1, total, {"reid": total / 2}, 1.0, seconds, waited)

    history = [step(0, 9.0, 2.0, 1.0), step(1, 4.0, 3.0, 0.5), step(1, 2.0, 1.0, 0.5), step(2, 1.0, 9.0, 1.0)]
    history.append(step(2, 3.0, 0.0, 0.0))
    trainer: Any = SimpleNamespace(history=history, model=torch.nn.Linear(3, 2), device=torch.device("cpu"))
    data: Any = SimpleNamespace(order=SimpleNamespace(scene_ids=["a", "b"]), identities=5)
    found = training_metrics(trainer, data, (0.25, 1))
    assert {name: found[name] for name in ("images", "identities", "epochs", "steps", "device")} == {
        "images": 2,
        "identities": 5,
        "epochs": 3,
        "steps": 5,
        "device": "cpu",
    }
    assert (found["seconds"], found["seconds_per_epoch"], found["seconds_waiting"]) == (18.0, 5.0, 3.0)
    assert (found["loss"], found["losses"]) == (2.0, {"reid": 1.0})
    assert (found["held_out_map"], found["best_epoch"]) == (0.25, 1)
    assert found["parameters"] == 8
    assert "best_epoch" not in training_metrics(trainer, data, None)
    assert training_metrics(trainer, data, None)["seconds"] == pytest.approx(18.0)
