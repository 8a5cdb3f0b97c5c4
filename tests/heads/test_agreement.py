"""What does not fit together is told by name, with both sides of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from diffps.errors import CheckpointError, ConfigError
from diffps.heads.agreement import check_shapes, check_taps, config_from_json
from diffps.heads.config import DGRPNConfig, ModelConfig, TapsConfig
from diffps.model import PersonSearcher
from tests.heads.scenes import CONFIG, IDENTITIES, SHAPES, TAPS, searcher


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


def test_a_head_of_more_blocks_than_anybody_needs_is_refused(tmp_path: Path) -> None:
    searcher(replace(CONFIG, sfan=None)).save_pretrained(tmp_path, {"epochs": 3})
    written = json.loads((tmp_path / "config.json").read_text())
    assert (tmp_path / "config.json").read_text() == json.dumps(written, indent=2) + "\n"
    assert list(written) == ["model", "taps", "shapes", "canvas", "identities", "words", "init", "training"]
    assert (written["canvas"], written["identities"], written["words"]) == ([128, 192], IDENTITIES, None)
    assert (written["shapes"]["d"], written["training"]) == ([16, 24, 8], {"epochs": 3})
    for changes in ({"head_blocks": 101}, {"embedding": {**written["model"]["embedding"], "branches": 101}}):
        model = {**written["model"], "reid": {**written["model"]["reid"], "grid": [300, 4]}, **changes}
        model["embedding"]["size"] = 2 * 101**2
        (tmp_path / "config.json").write_text(json.dumps({**written, "model": model}))
        with pytest.raises(CheckpointError) as caught:
            PersonSearcher.from_pretrained(tmp_path)
        assert str(caught.value).endswith("head of this version: model: more than 100 blocks or branches")
    model = {**written["model"], "head_blocks": 100}
    (tmp_path / "config.json").write_text(json.dumps({**written, "model": model}))
    with pytest.raises(CheckpointError, match=r"model.safetensors: box_head.body.1.bn1.bias is missing, config.json"):
        PersonSearcher.from_pretrained(tmp_path)


def test_a_folder_without_a_head_is_told_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        PersonSearcher.from_pretrained(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: {tmp_path / 'config.json'} is missing; expected a trained head, as `diffps train` writes it"
    )
    head = searcher()
    head.save_pretrained(tmp_path / "new" / "folder")
    written = json.loads((tmp_path / "new/folder/config.json").read_text())
    assert (written["words"], written["training"], written["init"]) == ([4, 9], {}, "v1")
