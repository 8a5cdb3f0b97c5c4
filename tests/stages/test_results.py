"""What a training leaves beside its head: counts, times and losses added up by hand, the facts on its card."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffps.training import StepResult
from stages.head.identity import difference
from stages.head.results import card_facts, training_metrics


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


RECIPE = {"text_encoder": "56ef", "unet": "12ab", "latent": {"vae": "34cd"}, "other": 1}


@pytest.mark.parametrize(("revision", "named"), [(None, "some/sd"), ("v2", "some/sd@v2")])
def test_the_card_names_the_backbone_by_its_digests_and_the_settings(revision: str | None, named: str) -> None:
    identity: Any = SimpleNamespace(
        settings={"train": {"lr": 0.1}, "features": {"encoding": "int8"}, "canvas": [64, 128]},
        backbone={"encode": {"checkpoint": "some/sd", "revision": revision}},
        reading=SimpleNamespace(pass_name="base", timestep=50),
        dataset="own",
    )
    trainer: Any = SimpleNamespace(model=torch.nn.Linear(3, 2))
    data: Any = SimpleNamespace(order=SimpleNamespace(scene_ids=["a", "b", "c"]), identities=5)
    facts = card_facts(identity, RECIPE, trainer, data, (0.25, 1))
    assert (facts.dataset, facts.backbone) == ("own", f"{named} (UNet 12ab, VAE 34cd, text encoder 56ef)")
    assert facts.features == {"timestep": 50, "canvas": [64, 128], "pass": "base", "encoding": "int8"}
    assert (facts.settings, facts.scenes, facts.identities, facts.parameters) == ({"lr": 0.1}, 3, 5, 8)
    assert facts.scores == {"held-out mAP (ground-truth boxes)": 0.25}
    assert card_facts(identity, RECIPE, trainer, data, None).scores == {}


def test_the_first_difference_is_said_with_its_place() -> None:
    old, new = {"a": 1, "b": {"c": [1], "d": 2}}, {"a": 1, "b": {"c": [1], "d": 3}, "e": 4}
    assert difference(old, new) == "b.d was 2 and is 3"
    assert difference(old, old | {"e": 4}) == "e was None and is 4"
    assert difference({"a": {"b": 1}}, {"a": 2}) == "a was {'b': 1} and is 2"
