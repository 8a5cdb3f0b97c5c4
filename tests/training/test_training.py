import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffps.errors import DiffPSError, DivergedError
from diffps.schedule import LossWeights, TrainingConfig
from diffps.training import HeadState, HeadTrainer, StepResult, train_heads

CONFIG = TrainingConfig(epochs=2, lr=1e-3, milestones=(1,), warmup_epochs=0.5)


def run(world, heads: dict[str, HeadTrainer], **options) -> dict[str, list[StepResult | DivergedError]]:
    seen: dict[str, list[StepResult | DivergedError]] = {name: [] for name in heads}
    for results in train_heads(heads, options.pop("source", world.source()), world.order, world.target, **options):
        for name, result in results.items():
            seen[name].append(result)
    return seen


def same_state(a: HeadTrainer, b: HeadTrainer) -> None:
    ours, theirs = a.state(), b.state()
    assert ours.tensors.keys() == theirs.tensors.keys()
    for name, tensor in ours.tensors.items():
        if name != "history":
            assert torch.equal(tensor, theirs.tensors[name]), name
    assert a.history == b.history


def test_losses_fall_and_every_batch_is_seen_once(world) -> None:
    head = world.trainer(replace(CONFIG, epochs=20, milestones=(), lr=3e-3))
    source = world.source()
    results = run(world, {"head": head}, source=source)["head"]
    assert [result.position for result in results] == list(range(80))
    assert source.given == 80
    # The RPN's: two RoIs of re-ID on random features scatter more than they learn.
    for name in ("rpn_cls", "rpn_reg"):
        assert sum(r.losses[name] for r in results[-4:]) < 0.8 * sum(r.losses[name] for r in results[:4])


def test_the_sum_is_weighted(world) -> None:
    result = run(world, {"head": world.trainer(replace(CONFIG, epochs=1))})["head"][0]
    losses = result.losses
    assert result.total == pytest.approx(
        losses["rpn_cls"] + losses["rpn_reg"] + losses["prop_cls"] + 10 * losses["prop_reg"] + 2 * losses["reid"]
    )
    bare = run(world, {"head": world.trainer(replace(CONFIG, epochs=1, weights=LossWeights(reid=0.0)))})["head"][0]
    assert bare.losses == losses
    assert bare.total == pytest.approx(result.total - 2 * losses["reid"])


def test_same_seed_same_head_and_the_outer_random_state_is_untouched(world) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    first, second = world.trainer(CONFIG), world.trainer(CONFIG)
    run(world, {"head": first})
    torch.rand(17)
    run(world, {"head": second})
    same_state(first, second)
    torch.manual_seed(123)
    run(world, {"head": world.trainer(CONFIG)})
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_is_another_head(world) -> None:
    first, second = world.trainer(CONFIG), world.trainer(replace(CONFIG, seed=2))
    results = run(world, {"a": first, "b": second})
    assert results["a"] != results["b"]


def test_heads_together_equal_heads_alone_bit_by_bit(world) -> None:
    model, taps = world.model, world.taps
    makers = {
        "full": lambda: world.trainer(CONFIG),
        "structure": lambda: world.trainer(CONFIG, replace(model, sfan=None, msfrn=None)),
        "no guidance": lambda: world.trainer(CONFIG, replace(model, dgrpn=None)),
        "seed": lambda: world.trainer(replace(CONFIG, seed=5)),
        "longer": lambda: world.trainer(replace(CONFIG, epochs=3, accumulate=2)),
        "shorter": lambda: world.trainer(replace(CONFIG, epochs=1, precision="bfloat16")),
        "taps": lambda: world.trainer(CONFIG, taps=replace(taps, level2=(), level3=("v",))),
    }
    together = {name: make() for name, make in makers.items()}
    source = world.source()
    run(world, together, source=source)
    assert source.given == 12  # three epochs of four batches, whatever the number of heads
    for name, make in makers.items():
        alone = make()
        run(world, {name: alone})
        same_state(together[name], alone)


def test_a_stream_carries_only_what_the_heads_left_in_it_read(world) -> None:
    short = world.trainer(replace(CONFIG, epochs=1))
    small = world.trainer(CONFIG, taps=replace(world.taps, level2=(), level3=("k",)))
    source = world.source()
    run(world, {"short": short, "small": small}, source=source)
    assert source.asked == [("k", "map.person", "q", "v"), ("k", "map.person")]


@settings(max_examples=4, deadline=None)
@given(
    stop=st.integers(1, 7), accumulate=st.sampled_from([1, 2, 3]), precision=st.sampled_from(["float32", "bfloat16"])
)
def test_a_head_goes_on_from_its_state_bit_by_bit(world, stop: int, accumulate: int, precision) -> None:
    config = replace(CONFIG, accumulate=accumulate, precision=precision)
    whole = world.trainer(config)
    run(world, {"head": whole})

    first = world.trainer(config)
    for results in train_heads({"head": first}, world.source(), world.order, world.target):
        if first.position >= stop and first.settled:
            break
        assert results
    state = first.state()
    second = world.trainer(replace(config, seed=99))  # everything random must come from the state
    second.load_state(state)
    run(world, {"head": second})
    same_state(whole, second)


def test_heads_resumed_at_different_positions_catch_up(world) -> None:
    whole = world.trainer(CONFIG)
    run(world, {"head": whole})
    ahead = world.trainer(CONFIG)
    for _ in train_heads({"head": ahead}, world.source(), world.order, world.target):
        if ahead.position == 3:
            break
    fresh = world.trainer(CONFIG)
    run(world, {"ahead": ahead, "fresh": fresh})
    same_state(whole, ahead)
    same_state(whole, fresh)


def test_a_nan_names_loss_and_scenes_and_stops_only_its_head(world) -> None:
    source = world.source(broken="scene5")
    with_all = world.trainer(CONFIG)
    without_text = world.trainer(CONFIG, taps=replace(world.taps, level2=()))
    results = run(world, {"a": with_all, "b": without_text}, source=source)
    for name in "ab":
        error = results[name][-1]
        assert isinstance(error, DivergedError)
        assert "scene5" in str(error)
        assert "loss " in str(error)
        assert "nan" in str(error)
        assert "a changed setting begins anew" in str(error)
        assert not any(isinstance(result, DivergedError) for result in results[name][:-1])


def test_a_step_that_breaks_the_weights_is_told_before_they_are_saved(world) -> None:
    head = world.trainer(replace(CONFIG, lr=1e30, clip=1e30, warmup_epochs=0.0))
    (first,) = run(world, {"wild": head})["wild"]
    assert isinstance(first, DivergedError)
    assert "the weights' norm is inf" in str(first)


def test_the_other_heads_go_on_after_one_diverged(world) -> None:
    wild = world.trainer(replace(CONFIG, lr=1e30, clip=1e30, warmup_epochs=0.0))
    calm = world.trainer(CONFIG)
    results = run(world, {"wild": wild, "calm": calm})
    assert isinstance(results["wild"][-1], DivergedError)
    assert calm.finished
    alone = world.trainer(CONFIG)
    run(world, {"calm": alone})
    same_state(calm, alone)


def test_gradients_are_clipped_and_the_norm_before_is_told(world) -> None:
    head = world.trainer(replace(CONFIG, epochs=1))
    results = run(world, {"head": head})["head"]
    assert all(result.grad_norm > 0 for result in results)


def test_mirrored_features_replace_the_mirrored_view(world) -> None:
    head = world.trainer(CONFIG)
    mirrored = run(world, {"head": head}, mirror_features=True)["head"]
    assert mirrored != run(world, {"head": world.trainer(CONFIG)})["head"]


def test_a_state_of_another_model_is_refused(world) -> None:
    state = world.trainer(CONFIG, replace(world.model, channels=12)).state()
    with pytest.raises(DiffPSError, match="does not fit"):
        world.trainer(CONFIG).load_state(state)


def test_a_state_of_other_first_weights_is_refused(world) -> None:
    state = world.trainer(replace(CONFIG, init="v2")).state()
    with pytest.raises(DiffPSError, match="first weights were made by v2, not v1"):
        world.trainer(CONFIG).load_state(state)


def test_a_state_that_does_not_name_its_first_weights_is_refused(world) -> None:
    """Of earlier versions, whose rules are not all there any more."""
    state = world.trainer(CONFIG).state()
    scalars = json.loads(state.scalars)
    del scalars["init"]
    with pytest.raises(DiffPSError, match="first weights were made by a rule that has no name any more, not v1"):
        world.trainer(CONFIG).load_state(HeadState(state.tensors, json.dumps(scalars)))


def test_the_state_is_tensors_and_text(world) -> None:
    head = world.trainer(CONFIG)
    run(world, {"head": head})
    state = head.state()
    assert isinstance(state, HeadState)
    assert json.loads(state.scalars)["position"] == 8
    assert all(tensor.is_contiguous() for tensor in state.tensors.values())


def test_a_result_says_where_it_stands(world) -> None:
    config = TrainingConfig(epochs=2, lr=0.5, milestones=(1,), decay=0.5, warmup_epochs=0.0, accumulate=3, clip=1e-3)
    head = world.trainer(config)
    results = run(world, {"head": head})["head"]
    assert (head.total, head.finished, head.settled) == (8, True, True)
    assert head.history == results
    assert [result.position for result in results] == list(range(8))
    assert [result.epoch for result in results] == [0] * 4 + [1] * 4
    assert [result.lr for result in results] == [0.5] * 4 + [0.25] * 4
    assert [result.grad_norm is not None for result in results] == [False, False, True, False, False, True, False, True]
    assert all(result.grad_norm is None or result.grad_norm > 1e-3 for result in results)
    assert all(result.seconds > 0 and result.waited > 0 for result in results)
    assert replace(results[0], seconds=99.0, waited=99.0) == results[0] != replace(results[0], position=1)
    resumed = world.trainer(config)
    resumed.load_state(head.state())
    told = [(result.seconds, result.waited) for result in results]
    assert [(result.seconds, result.waited) for result in resumed.history] == told
    assert (resumed.history, resumed.finished) == (results, True)


def test_where_training_diverged_is_said(world) -> None:
    head = world.trainer(CONFIG)
    for parameter in head.model.aggregation.parameters():
        parameter.register_hook(lambda grad: grad * (float("nan") if head.position >= 5 else 1))
    *before, last = run(world, {"head": head})["head"]
    assert len(before) == 5
    scenes = ", ".join(sample.scene_id for sample in next(world.order.batches(5, 6)))
    assert str(last) == (
        f"training diverged at batch 1 of epoch 1: the gradient's norm is nan; scenes {scenes}; "
        "look at these scenes, or lower train.lr or train.clip (a changed setting begins anew)"
    )


def test_a_loss_that_is_not_finite_is_named(world) -> None:
    head = world.trainer(replace(CONFIG, weights=LossWeights(rpn_cls=1e300)))
    (first,) = run(world, {"head": head})["head"]
    assert "batch 0 of epoch 0: loss total is inf; scenes" in str(first)
    broken = world.trainer(CONFIG)
    broken.model.proposals.register_forward_hook(
        lambda _module, _inputs, output: (output[0], {**output[1], "rpn_reg": output[1]["rpn_reg"] * float("nan")})
    )
    (first,) = run(world, {"head": broken})["head"]
    assert "loss rpn_reg is nan; scenes" in str(first)
