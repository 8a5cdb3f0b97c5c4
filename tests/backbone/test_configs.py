"""Published configs leave out what their library did not know yet: read, loaded and identified like complete ones."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.backbone.builtin import SHIPPED
from diffps.backbone.capture import Request, TapReader
from diffps.backbone.checkpoint import Part, load_checkpoint
from diffps.backbone.configs import DEFAULTS, REQUIRED, ConfigPart, complete
from diffps.backbone.frozen import FrozenUNet
from diffps.backbone.identity import identity
from diffps.errors import CheckpointError
from diffps.taps import standard_taps, tap_table
from tests.backbone.published import SCHEDULER, TEXT_ENCODERS, UNETS, VAE

PARTS: tuple[Part, ...] = ("unet", "vae", "text_encoder")
FILES: dict[ConfigPart, str] = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def _rewrite(folder: Path, part: ConfigPart, lacks: set[str], **changes: object) -> None:
    path = folder / FILES[part]
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in lacks}))


def _strip(folder: Path) -> None:
    """Leave of each config what a published one states, and whatever differs from the default."""
    stated = {"unet": UNETS["sd1.5"], "vae": VAE, "text_encoder": TEXT_ENCODERS["sd1.5"], "scheduler": SCHEDULER}
    for part in FILES:
        defaults = DEFAULTS[part]
        config = json.loads((folder / FILES[part]).read_text())
        lacks = {key for key in defaults if key in config and key not in stated[part] and config[key] == defaults[key]}
        assert lacks or part == "text_encoder"
        _rewrite(folder, part, lacks | {"prediction_type", "timestep_spacing"})


@pytest.mark.parametrize("name", UNETS)
def test_a_published_unet_has_the_229_taps(name: str) -> None:
    from diffusers import UNet2DConditionModel

    table = tap_table(UNETS[name])
    assert list(table) == list(standard_taps())
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS[name]).eval()
        latents, text = torch.zeros(1, 4, 16, 8), torch.zeros(1, 77, UNETS[name]["cross_attention_dim"])
    with torch.inference_mode(), TapReader(unet, table, Request(tuple(table), head="all")) as reader:
        found = reader.run(latents, torch.zeros(1, device="meta"), text)
    for tap in table.values():
        shape = found[tap.id].shape
        assert shape[3 if tap.kind.endswith("-map") else -1] == tap.channels, tap.id


@pytest.mark.parametrize("name", UNETS)
def test_a_published_unet_s_config_is_the_one_diffusers_saves(name: str, tmp_path: Path) -> None:
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNETS[name])
    _assert_same("unet", UNETS[name], unet.config, unet.to_json_string())


def test_a_published_vae_s_config_is_the_one_diffusers_saves() -> None:
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL.from_config(VAE)
    _assert_same("vae", VAE, vae.config, vae.to_json_string())
    assert complete("vae", VAE, "")["scaling_factor"] == 0.18215


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_a_published_text_encoder_s_config_is_the_one_transformers_saves(name: str, tmp_path: Path) -> None:
    from transformers import CLIPTextConfig

    config = CLIPTextConfig.from_dict(TEXT_ENCODERS[name])
    config.save_pretrained(tmp_path)
    _assert_same("text_encoder", TEXT_ENCODERS[name], config.to_dict(), (tmp_path / "config.json").read_text())


def _assert_same(part: ConfigPart, published: dict[str, Any], loaded: Any, saved: str) -> None:
    whole = complete(part, published, "")
    assert all(loaded[key] == whole[key] for key in DEFAULTS[part])
    again = complete(part, json.loads(saved), "")
    assert json.dumps(identity(part, again), sort_keys=True) == json.dumps(identity(part, whole), sort_keys=True)


def test_defaults_are_those_of_the_libraries() -> None:
    from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    signatures = {
        "unet": inspect.signature(UNet2DConditionModel),
        "vae": inspect.signature(AutoencoderKL),
        "scheduler": inspect.signature(DDIMScheduler),
    }
    for part, signature in signatures.items():
        library = {name: parameter.default for name, parameter in signature.parameters.items()}
        assert {key: library[key] for key in DEFAULTS[part]} == DEFAULTS[part]
        if part != "scheduler":  # a new key that is not null by default would enter the digest of what is saved anew
            new = library.keys() - DEFAULTS[part].keys() - REQUIRED[part].keys() - {"sample_size"}
            assert all(library[key] is None for key in new)
    assert inspect.signature(PNDMScheduler).parameters["num_train_timesteps"].default == 1000
    text = CLIPTextConfig().to_dict()
    chosen = {key: value for key, value in DEFAULTS["text_encoder"].items() if key != "architectures"}
    assert {key: text[key] for key in chosen} == chosen
    assert DEFAULTS["text_encoder_2"] == {**chosen, "architectures": ["CLIPTextModelWithProjection"]}


def test_defaults_of_transformers_and_t5_are_those_of_the_libraries() -> None:
    from diffusers import PixArtTransformer2DModel, SD3Transformer2DModel
    from transformers import T5Config

    without = {"pixart": {"dropout", "norm_num_groups"}, "sd3": {"sample_size"}}  # nothing of these is read
    for part, model in (("pixart", PixArtTransformer2DModel), ("sd3", SD3Transformer2DModel)):
        library = {name: each.default for name, each in inspect.signature(model).parameters.items()}
        assert {key: library[key] for key in DEFAULTS[part]} == DEFAULTS[part]
        assert library.keys() == DEFAULTS[part].keys() | REQUIRED[part].keys() | without[part]
    text = T5Config().to_dict()
    assert {key: text[key] for key in DEFAULTS["t5"]} == DEFAULTS["t5"]


def test_a_checkpoint_without_newer_keys_is_the_same_checkpoint(frozen: FrozenUNet, copy: Path) -> None:
    _strip(copy)
    raw = json.loads((copy / FILES["unet"]).read_text())
    assert "mid_block_type" not in raw
    stripped = FrozenUNet.from_pretrained(str(copy))
    whole = frozen.checkpoint
    assert [stripped.checkpoint.digest(part) for part in PARTS] == [whole.digest(part) for part in PARTS]
    assert stripped.checkpoint.schedule == whole.schedule
    assert stripped.checkpoint.taps == whole.taps
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    taps = ["unet-out", "up-level3-repeat1-vit-block0-cross-map", "mid-vit-out"]
    expected, found = (
        unet.extract([image], taps, 250, "a person", words=["person"], canvas=(64, 64)) for unet in (frozen, stripped)
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_vae_without_scaling_factor_has_that_of_stable_diffusion(copy: Path) -> None:
    _rewrite(copy, "vae", {"scaling_factor", "shift_factor"})
    checkpoint = load_checkpoint(str(copy))
    assert checkpoint.config("vae")["scaling_factor"] == 0.18215
    assert checkpoint.load_vae(torch.float32).config["scaling_factor"] == 0.18215
    lacking = checkpoint.digest("vae")
    _rewrite(copy, "vae", set(), scaling_factor=0.18215)
    assert load_checkpoint(str(copy)).digest("vae") == lacking
    _rewrite(copy, "vae", set(), scaling_factor=0.5)
    assert load_checkpoint(str(copy)).digest("vae") != lacking


def test_other_values_and_unknown_keys_are_other_checkpoints(copy: Path) -> None:
    plain = load_checkpoint(str(copy)).digest("unet")
    _rewrite(copy, "unet", set(), resnet_out_scale_factor=1, key_of_the_future=None)
    assert load_checkpoint(str(copy)).digest("unet") == plain
    _rewrite(copy, "unet", set(), upcast_attention=True)
    assert load_checkpoint(str(copy)).digest("unet") != plain
    _rewrite(copy, "unet", set(), upcast_attention=False, key_of_the_future=3)
    assert load_checkpoint(str(copy)).digest("unet") != plain


def test_weights_under_their_former_names_are_the_same_checkpoint(copy: Path, tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    vae = AutoencoderKL(
        **{**VAE, "block_out_channels": [8, 8, 8, 8], "layers_per_block": 1, "norm_num_groups": 4},
    )
    shutil.rmtree(copy / "vae")
    vae.save_pretrained(copy / "vae")
    current = load_checkpoint(str(copy))
    path = copy / "vae/diffusion_pytorch_model.safetensors"
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, value in load_file(path).items():
        for new, old in former.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        weights[name] = value
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in weights
    expected = [current.digest(part) for part in PARTS]
    save_file(weights, path, {"format": "pt"})
    path = copy / "text_encoder/model.safetensors"
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(path).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, path, {"format": "pt"})
    published = load_checkpoint(str(copy))
    assert [published.digest(part) for part in PARTS] == expected
    published.load_text_encoder()
    weight = published.load_vae(torch.float32).encoder.mid_block.attentions[0].to_q.weight
    assert torch.equal(weight, vae.encoder.mid_block.attentions[0].to_q.weight)


def test_the_shipped_checkpoint_keeps_its_identity() -> None:
    recorded = json.loads((SHIPPED / "recipe.json").read_text())["digests"]
    checkpoint = load_checkpoint("builtin:streets")
    assert {part: checkpoint.digest(part) for part in PARTS} == recorded


@pytest.mark.parametrize(("part", "key"), [(part, key) for part in FILES for key in REQUIRED[part]])
def test_what_no_default_can_stand_in_for_is_one_error(copy: Path, part: ConfigPart, key: str) -> None:
    for lacks, changes in (({key}, {}), (set(), {key: None}), (set(), {key: {}})):
        _rewrite(copy, part, lacks, **changes)
        with pytest.raises(CheckpointError, match=rf"{FILES[part]}.* {key} .*(a whole number|a number|a list|a name)"):
            _ = load_checkpoint(str(copy)).schedule


def test_a_table_of_a_config_without_sizes_is_one_error() -> None:
    with pytest.raises(CheckpointError, match="unet/config.json lacks block_out_channels"):
        tap_table({key: value for key, value in UNETS["sd1.5"].items() if key != "block_out_channels"})
