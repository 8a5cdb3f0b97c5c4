import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.schedule import LossWeights, SampleOrder, TrainingConfig

SCENES = tuple(f"s{i}" for i in range(11))


def order(**changes) -> SampleOrder:
    return SampleOrder(**({"scene_ids": SCENES, "batch": 3, "data_seed": 1, "flip": True} | changes))


def test_rate_rises_in_the_first_epoch_and_falls_at_milestones() -> None:
    config = TrainingConfig(lr=1e-4, milestones=(8, 14), warmup_epochs=1.0, warmup_start=0.001)
    rates = [config.learning_rate(position, 10) for position in range(160)]
    assert math.isclose(rates[0], 1e-7)
    assert rates[:10] == sorted(rates[:10])
    assert math.isclose(rates[5], 1e-4 * (0.001 * 0.5 + 0.5))
    assert all(math.isclose(rate, 1e-4) for rate in rates[10:80])
    assert all(math.isclose(rate, 1e-5) for rate in rates[80:140])
    assert all(math.isclose(rate, 1e-6) for rate in rates[140:])


@given(start=st.integers(0, 20), length=st.integers(0, 20))
def test_any_part_of_the_stream_is_a_slice_of_the_whole(start: int, length: int) -> None:
    whole = list(order().batches(0, 40))
    assert list(order().batches(start, start + length)) == whole[start : start + length]


def test_an_epoch_shows_each_scene_at_most_once_and_drops_the_incomplete_batch() -> None:
    batches = order().epoch(0)
    seen = [sample.scene_id for batch in batches for sample in batch]
    assert [len(batch) for batch in batches] == [3, 3, 3]
    assert len(set(seen)) == len(seen)


def test_order_depends_on_data_seed_and_epoch_alone() -> None:
    assert order().epoch(4) == order().epoch(4)
    assert order().epoch(4) != order().epoch(5)
    assert order().epoch(4) != order(data_seed=2).epoch(4)
    without = [[sample.scene_id for sample in batch] for batch in order(flip=False).epoch(4)]
    assert without == [[sample.scene_id for sample in batch] for batch in order().epoch(4)]


def test_about_half_of_the_samples_are_mirrored() -> None:
    many = order(scene_ids=tuple(f"s{i}" for i in range(2000)))
    share = sum(sample.mirrored for batch in many.epoch(0) for sample in batch) / 2000
    assert abs(share - 0.5) < 0.05
    assert not any(sample.mirrored for batch in order(flip=False).epoch(0) for sample in batch)


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 0.0},
        {"lr": math.nan},
        {"epochs": 0},
        {"accumulate": 0},
        {"milestones": (3, 2)},
        {"milestones": (0,)},
        {"warmup_start": 0.0},
        {"clip": -1.0},
        {"warmup_epochs": -1.0},
    ],
)
def test_a_number_outside_its_range_is_refused_by_name(changes: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        TrainingConfig(**changes)


def test_negative_weights_and_batches_larger_than_the_data_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"weights\.reid"):
        LossWeights(reid=-1.0)
    with pytest.raises(ConfigError, match="11 training scenes"):
        order(batch=12)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epochs": 0}, "epochs 0: must be at least 1"),
        ({"accumulate": 0}, "accumulate 0: must be at least 1"),
        ({"clip": 0.0}, "clip 0.0: must be above 0"),
        ({"decay": 0.0}, "decay 0.0: must be above 0"),
        ({"lr": 1.1e30}, "lr 1.1e+30: must be at most 1e30"),
        ({"warmup_start": 1.1}, "warmup_start 1.1: must be in (0, 1], a share of lr"),
        ({"warmup_start": 0.0}, "warmup_start 0.0: must be in (0, 1], a share of lr"),
        ({"seed": -1}, "warmup_epochs and seed must not be negative"),
        ({"warmup_epochs": -0.1}, "warmup_epochs and seed must not be negative"),
        ({"milestones": (0, 3)}, "milestones [0, 3]: must be epochs from 1, strictly increasing"),
        ({"milestones": (3, 3)}, "milestones [3, 3]: must be epochs from 1, strictly increasing"),
    ],
)
def test_what_is_just_outside_a_range_is_told_the_range(changes: dict, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(**changes)
    assert str(caught.value) == told


def test_what_is_just_inside_a_range_is_taken() -> None:
    TrainingConfig(epochs=1, accumulate=1, lr=1e30, warmup_start=1.0, warmup_epochs=0.0, seed=0, milestones=(1, 2))
    TrainingConfig(milestones=())
    LossWeights(rpn_cls=0.0, rpn_reg=0.0, prop_cls=0.0, prop_reg=0.0, reid=0.0)
    assert [len(batch) for batch in order(batch=11).epoch(0)] == [11]
    assert order(batch=1).batches_per_epoch == 11


def test_no_warm_up_and_a_part_of_an_epoch() -> None:
    flat = TrainingConfig(lr=0.5, milestones=(1,), decay=0.5, warmup_epochs=0.0)
    assert [flat.learning_rate(position, 2) for position in range(4)] == [0.5, 0.5, 0.25, 0.25]
    part = TrainingConfig(lr=1.0, milestones=(), warmup_epochs=1.5, warmup_start=0.25)
    rates = [part.learning_rate(position, 2) for position in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("batch", [0, 12])
def test_a_batch_that_the_scenes_do_not_fill_is_refused(batch: int) -> None:
    with pytest.raises(ConfigError) as caught:
        order(batch=batch)
    assert str(caught.value) == f"batch {batch}: must be between 1 and the 11 training scenes"


def test_a_weight_below_0_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        LossWeights(prop_cls=-0.5)
    assert str(caught.value) == "weights.prop_cls -0.5: must not be negative"


def test_the_order_of_a_seed_stays_what_it_was() -> None:
    """A training that goes on with another version sees the same samples."""
    epochs = [SampleOrder(tuple("abcdefg"), 3, data_seed=5, flip=True).epoch(epoch) for epoch in (0, 1)]
    told = [
        [
            "".join(sample.scene_id.upper() if sample.mirrored else sample.scene_id for sample in batch)
            for batch in epoch
        ]
        for epoch in epochs
    ]
    assert told == [["BEC", "DGf"], ["eca", "GFD"]]
