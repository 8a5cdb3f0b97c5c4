"""The trainer against a loop that does one thing after another, and what it does where gradients are not finite."""

import json
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from diffps.errors import DivergedError
from diffps.features import Ref
from diffps.schedule import TrainingConfig
from diffps.training import HeadTrainer, StepResult, train_heads

CONFIG = TrainingConfig(
    epochs=5, lr=1e-3, milestones=(2, 4), decay=0.1, warmup_epochs=0.5, warmup_start=0.001, clip=200.0
)
# Epochs are of four batches, and half of one is the warm-up.
RATES = [1e-6, 0.5005e-3, *[1e-3] * 6, *[1e-4] * 8, *[1e-5] * 4]
WEIGHTS = {"rpn_cls": 1.0, "rpn_reg": 1.0, "prop_cls": 1.0, "prop_reg": 10.0, "reid": 2.0}
FIRST_SCALE = 8192.0


@dataclass
class Plain:
    """What a plain loop leaves: the model, and for each group of batches its gradients' norm, None where they were not
    finite."""

    model: nn.Module
    norms: list[float | None]


def plain_loop(world, config: TrainingConfig) -> Plain:
    torch.manual_seed(config.seed)
    model = world.searcher(config).train()
    adam = torch.optim.Adam(model.parameters(), betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    half = config.precision == "float16"
    scale, norms = FIRST_SCALE if half else 1.0, []
    batches = list(enumerate(world.order.batches(0, len(RATES))))
    for start in range(0, len(batches), config.accumulate):
        group = batches[start : start + config.accumulate]
        for _, batch in group:
            refs = [Ref(sample.scene_id, "hflip" if sample.mirrored else "identity") for sample in batch]
            (features,) = world.source().stream([refs], world.taps.names)
            with torch.autocast("cpu", torch.float16, enabled=half):
                losses = model(features, [world.target(sample) for sample in batch])
            total = sum(WEIGHTS[name] * loss.float() for name, loss in losses.items())
            (scale * total / len(group)).backward()
            model.update_memory()
        grads = [parameter.grad.div_(scale) for parameter in model.parameters() if parameter.grad is not None]
        norm = torch.cat([grad.flatten() for grad in grads]).norm().item()
        if norm < float("inf"):
            norms.append(norm)
            for grad in grads:
                grad.mul_(min(1.0, config.clip / norm))
            adam.param_groups[0]["lr"] = RATES[group[-1][0]]
            adam.step()
        else:
            norms.append(None)
            scale /= 2
        adam.zero_grad()
    return Plain(model, norms)


def train(world, head: HeadTrainer) -> list[StepResult | DivergedError]:
    return [results["head"] for results in train_heads({"head": head}, world.source(), world.order, world.target)]


def spoil(head: HeadTrainer, first: int) -> None:
    """Makes a gradient NaN from a position on."""
    classifier = head.model.proposals.rpn.head.cls_logits.weight
    classifier.register_hook(lambda grad: grad * float("nan") if head.position >= first else grad)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_head_is_trained_as_by_a_plain_loop(world, precision, accumulate: int) -> None:
    config = replace(CONFIG, precision=precision, accumulate=accumulate)
    head, plain = world.trainer(config), plain_loop(world, config)
    results = train(world, head)
    # Accumulated by threes, the last group has two batches and no third to wait for.
    stepping = [result for result in results if (result.position + 1) % accumulate == 0 or result is results[-1]]
    assert all(result.grad_norm is None for result in results if result not in stepping)
    assert any(norm is not None and norm > config.clip for norm in plain.norms)  # or clipping would not show
    assert [result.grad_norm for result in stepping] == [
        norm if norm is None else pytest.approx(norm, rel=1e-3) for norm in plain.norms
    ]
    for (name, ours), theirs in zip(head.model.named_parameters(), plain.model.parameters(), strict=True):
        if name != "box_head.regressor.0.bias":  # BatchNorm follows it: its gradient is rounding alone
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5, msg=name)


def test_a_gradient_that_overflows_skips_a_step_and_halves_the_scale(world) -> None:
    head = world.trainer(replace(CONFIG, precision="float16"))
    assert json.loads(head.state().scalars)["scaler"]["scale"] == FIRST_SCALE
    skipped = [result for result in train(world, head) if result.grad_norm is None]
    assert 0 < len(skipped) < 10
    assert json.loads(head.state().scalars)["scaler"]["scale"] == FIRST_SCALE / 2 ** len(skipped)
    resumed = world.trainer(replace(CONFIG, precision="float16"))
    resumed.load_state(head.state())
    assert resumed.history == head.history


def test_float16_stops_where_no_scale_helps_and_the_weights_are_good(world) -> None:
    head = world.trainer(replace(CONFIG, epochs=20, precision="float16"))
    spoil(head, 0)
    before = {name: weight.clone() for name, weight in head.model.named_parameters()}
    *skipped, last = train(world, head)
    assert isinstance(last, DivergedError)
    assert "gradient's norm is nan" in str(last)
    assert len(skipped) == 14  # halvings from 2^13 to below 1
    assert all(torch.equal(weight, before[name]) for name, weight in head.model.named_parameters())


def test_float32_stops_at_once(world) -> None:
    head = world.trainer(CONFIG)
    spoil(head, 2)
    results = train(world, head)
    assert len(results) == 3
    assert "gradient's norm is nan" in str(results[-1])
