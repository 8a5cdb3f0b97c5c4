"""What does not fit together is told by name, with both sides of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffps.errors import CheckpointError, ConfigError
from diffps.heads.agreement import check_shapes, check_taps, config_from_json
from diffps.heads.config import DGRPNConfig, ModelConfig, TapsConfig
from tests.heads.scenes import CONFIG, SHAPES, TAPS


@pytest.mark.parametrize(
    ("tensors", "told"),
    [
        ({"weight": (2, 3)}, "bias is missing, config.json says (2,)"),
        ({"weight": (2, 4), "bias": (2,)}, "weight is (2, 4), config.json says (2, 3)"),
        ({"weight": (2, 3), "bias": (2,), "a": (1,)}, "a is (1,), config.json says nothing of it"),
    ],
)
def test_the_first_tensor_that_is_another_is_named(tensors: dict[str, tuple[int, ...]], told: str) -> None:
    described = nn.Linear(3, 2)
    check_shapes(described, described.state_dict())
    with pytest.raises(CheckpointError) as caught:
        check_shapes(described, {name: torch.zeros(shape) for name, shape in tensors.items()})
    assert str(caught.value) == f"model.safetensors: {told}"


@pytest.mark.parametrize(
    ("config", "taps", "told"),
    [
        (
            CONFIG,
            replace(TAPS, detection="x"),
            "taps: x is not among the features at hand: a, b, c, d, e, m.person",
        ),
        (
            CONFIG,
            replace(TAPS, guidance=None),
            "taps.guidance: names no map, which model.dgrpn needs; name one, or set model.dgrpn: null",
        ),
        (CONFIG, replace(TAPS, guidance="d"), "taps.guidance d: has 8 channels; an attention map has one"),
        (
            replace(CONFIG, dgrpn=None),
            replace(TAPS, guidance="d"),
            "taps.guidance d: has 8 channels; an attention map has one",
        ),
        (
            CONFIG,
            replace(TAPS, level1=("a", "b")),
            "taps.level1: taps of one level share grid and channels; found a (4, 6, 12), b (8, 12, 10)",
        ),
    ],
)
def test_taps_that_do_not_fit_are_told_apart(config: ModelConfig, taps: TapsConfig, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_taps(config, taps, SHAPES)
    assert str(caught.value) == told


def test_guidance_may_be_left_out_where_nothing_reads_it() -> None:
    check_taps(replace(CONFIG, dgrpn=None), replace(TAPS, guidance=None), SHAPES)
    check_taps(replace(CONFIG, dgrpn=None), replace(TAPS, level1=(), level2=()), SHAPES)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tau": "0.5"}, "DGRPNConfig: tau: Input should be a valid number"),
        ({"peaks": 1.5, "tau": "0.5"}, "DGRPNConfig: tau: Input should be a valid number"),
        ({"more": 1}, "DGRPNConfig: more: Unexpected keyword argument"),
    ],
)
def test_the_first_key_that_does_not_go_is_named(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_json(DGRPNConfig, values)
    assert str(caught.value) == told
