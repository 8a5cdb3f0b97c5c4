"""What a training leaves beside its head: counts, times and losses added up by hand, the facts on its card."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffps.training import StepResult
from stages.head.identity import HeadIdentity, difference, digest_of_code, head_settings, index_digest
from stages.head.results import card_facts, training_metrics
from stages.places import INDEX
from tests.world import small_params


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


def test_settings_are_plain_and_hold_what_decides_the_weights(here: Path) -> None:
    params = small_params()
    train, encode, extract = params.train, params.encode, params.extract
    found = head_settings(train, encode, extract)
    assert found == json.loads(json.dumps(found))
    assert list(found) == ["train", "features", "weights", "canvas", "words"]
    assert "source" not in found["train"]
    assert not {"name", "taps", "timesteps", "transcode", "words", "unet"} & set(found["features"])
    assert head_settings(train, replace(encode, text_encoder=2), extract) == {**found, "text_encoder": 2}
    assert head_settings(replace(train, source="live"), encode, replace(extract, timesteps=(0, 7))) == found
    identity = HeadIdentity.of("own", train, replace(encode, checkpoint="builtin:random"), extract)
    assert (identity.dataset, identity.settings["store"]) == ("own", "")
    assert {name: identity.settings[name] for name in found} == found
    assert len(identity.settings["code"]) == 10
    assert identity.backbone["encode"]["checkpoint"] == "builtin:random"


def test_the_digest_of_the_index_is_over_its_tables_alone(here: Path) -> None:
    before = index_digest()
    assert len(before) == 10
    (INDEX / "notes.txt").write_text("x")
    assert index_digest() == before
    (INDEX / "queries.parquet").write_bytes((INDEX / "queries.parquet").read_bytes() + b"x")
    assert index_digest() != before


def test_the_digest_of_code_is_over_what_the_patterns_match(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.txt"):
        (tmp_path / name).write_text(name)
    found = digest_of_code(["*.py"], tmp_path)
    assert found == digest_of_code(["a.py", "b.py"], tmp_path) != digest_of_code(["b.py", "a.py"], tmp_path)
    assert len(found) == 10
    (tmp_path / "c.txt").write_text("other")
    assert digest_of_code(["*.py"], tmp_path) == found
