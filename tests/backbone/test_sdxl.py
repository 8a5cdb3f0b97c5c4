"""SDXL as a prior: every tap against an independent forward, its texts, its size numbers, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffps.backbone.capture import Request, TapReader
from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.families import load_prior
from diffps.backbone.frozen import FrozenUNet, size_numbers
from diffps.backbone.latents import NoiseKey
from diffps.backbone.prior import Conditions
from diffps.backbone.pruning import pruned
from diffps.backbone.stable_diffusion import StableDiffusion
from diffps.errors import CheckpointError, ConfigError
from diffps.taps import SDXL_UNET, tap_table
from tests.backbone.reference import Reference, as_reference
from tests.backbone.sdxl import TEXT, write_sdxl

TIMESTEP = 37
MAP = "up-level0-repeat1-vit-block9-cross-map"
KEYS = [NoiseKey("a", "identity"), NoiseKey("b", "identity")]


@pytest.fixture(scope="module")
def xl(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sdxl(folder, tmp_path_factory.mktemp("sdxl"))


@pytest.fixture(scope="module")
def unet(xl: Path) -> Any:
    return load_checkpoint(str(xl)).load_unet(torch.float64)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Latents of a canvas 128 x 192, two images; a prompt of 11 tokens; what is added to the timestep."""
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 16, 24, generator=generator, dtype=torch.float64)
    text = torch.randn(1, 11, sum(TEXT), generator=generator, dtype=torch.float64)
    pooled = torch.randn(1, TEXT[1], generator=generator, dtype=torch.float64)
    return latents, text, {"text_embeds": pooled, "time_ids": size_numbers(latents).double()}


@torch.inference_mode()
def test_all_752_taps_equal_an_independent_forward(unet: Any, xl: Path, inputs: Any) -> None:
    latents, text, added = inputs
    table = load_checkpoint(str(xl)).taps
    assert len(table) == 752
    assert added["time_ids"].tolist() == [[128, 192, 0, 0, 128, 192]]
    reference = Reference(unet)
    expected = reference(latents, TIMESTEP, text.expand(2, -1, -1), added)
    with TapReader(unet, table, Request(tuple(table), head="all")) as reader:
        found = reader.run(latents, torch.tensor([TIMESTEP]), text, added=added)
    assert set(found) == set(expected) == set(table)
    for name, value in expected.items():
        result = as_reference(table[name], found[name])
        assert result.shape == value.shape, name
        assert float((result - value).abs().max() / value.abs().max()) < 2e-6, name
    without = reference(latents, TIMESTEP, text.expand(2, -1, -1), {**added, "text_embeds": -added["text_embeds"]})
    assert not torch.allclose(without["mid-vit-out"], expected["mid-vit-out"])


@torch.inference_mode()
def test_the_output_does_not_see_the_hooks_and_a_cut_model_gives_the_same_taps(
    unet: Any, xl: Path, inputs: Any
) -> None:
    latents, text, added = inputs
    table = load_checkpoint(str(xl)).taps
    many = {name: value.expand(2, -1) for name, value in added.items()}
    plain = unet(latents, TIMESTEP, text.expand(2, -1, -1), added_cond_kwargs=many, return_dict=False)[0]
    taps = ("up-level0-repeat1-vit-block3-self-k", "unet-out")
    with TapReader(unet, table, Request(taps)) as reader:
        found = reader.run(latents, torch.tensor([TIMESTEP]), text, False, added)
    assert torch.equal(found["unet-out"].movedim(3, 1), plain)
    for cut in (unet, pruned(unet, table, taps[:1])):
        with TapReader(cut, table, Request(taps[:1])) as reader:
            alone = reader.run(latents, torch.tensor([TIMESTEP]), text, cut is unet, added)
        assert torch.equal(alone[taps[0]], found[taps[0]])
    blocks = cut.up_blocks[0].attentions[-1].transformer_blocks
    assert [block.attn2 is None for block in blocks] == [False] * 3 + [True]  # of the last, self-attention alone


def test_the_prompt_is_both_encoders_last_layer_but_one_and_the_second_s_projection(xl: Path) -> None:
    prior = load_prior(str(xl))
    assert isinstance(prior, StableDiffusion)
    encoded = prior.encode(Conditions(prompt="a person", words=("person",)))
    assert encoded.embedding.shape == (1, 77, sum(TEXT))
    assert encoded.spans == {"person": (2, 3)}
    assert [token for token, _ in prior.prompts.pad_tokens] == ["<|endoftext|>", "!"]
    checkpoint = load_checkpoint(str(xl))
    start = 0
    for part, width in zip(checkpoint.text_parts, TEXT, strict=True):
        tokenizer, model = checkpoint.load_tokenizer(part), checkpoint.load_text_encoder(part)
        ids = tokenizer("a person", padding="max_length", max_length=77, return_tensors="pt").input_ids
        out = model(ids, output_hidden_states=True)
        torch.testing.assert_close(encoded.embedding[..., start : start + width], out.hidden_states[-2])
        start += width
    torch.testing.assert_close(encoded.pooled, out.text_embeds)
    assert prior.word_embeddings(["head", "shoes"], 1).shape == (2, TEXT[0])
    assert prior.word_embeddings(["head", "shoes"], 2).shape == (2, TEXT[1])
    with pytest.raises(ConfigError, match="encode.text_encoder 3: this checkpoint has 1 to 2"):
        prior.word_embeddings(["head"], 3)
    with pytest.raises(ConfigError, match="encode.text_encoder 2: this checkpoint has 1"):
        load_prior("builtin:random").word_embeddings(["head"], 2)


def test_a_pass_and_the_library_call_are_one(xl: Path) -> None:
    prior, conditions = load_prior(str(xl)), Conditions(prompt="a person", words=("person",), head=1)
    pixels = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    taps = ("down-level1-repeat0-vit-block1-cross-q", MAP)
    moments = prior.open_encoder("cpu", "float32").moments(pixels)
    with prior.open_pass(taps, conditions, "cpu", "float32") as opened:
        found = opened.features(moments, 10, KEYS)
    assert found[f"{MAP}.person"].shape == (2, 2, 4, 1)
    library = FrozenUNet.from_pretrained(str(xl))
    called = library.extract(pixels, taps, 10, "a person", words=["person"], head=1, noise="none")
    with prior.open_pass(taps, Conditions(**{**_fields(conditions), "noise": "none"}), "cpu", "float32") as opened:
        again = opened.features(moments, 10, KEYS)
    for name, value in called.items():
        torch.testing.assert_close(again[name].movedim(3, 1), value, rtol=1e-4, atol=1e-5)
    recipe = prior.pass_recipe(conditions)
    assert recipe["text_encoder_2"] == prior.digests()["text_encoder_2"]
    assert [token for token, _ in recipe["pad_tokens"]] == ["<|endoftext|>", "!"]


def _fields(conditions: Conditions) -> dict[str, Any]:
    return {name: getattr(conditions, name) for name in Conditions.__dataclass_fields__}


def test_tensors_are_compared_and_another_text_is_another_prior(xl: Path, tmp_path: Path) -> None:
    shutil.copytree(xl, tmp_path / "copy")
    copy = load_prior(str(tmp_path / "copy"))
    copy.check_tensors()
    assert copy.digests() == load_prior(str(xl)).digests()
    path = tmp_path / "copy/text_encoder_2/model.safetensors"
    tensors = load_file(path)
    tensors["text_projection.weight"] = tensors["text_projection.weight"] + 1
    save_file(tensors, path, {"format": "pt"})
    changed = load_prior(str(tmp_path / "copy")).digests()
    assert {part for part, digest in changed.items() if digest != copy.digests()[part]} == {"text_encoder_2"}
    del tensors["text_projection.weight"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weights of the text_encoder_2, e.g. text_projection"):
        load_prior(str(tmp_path / "copy")).check_tensors()
    shutil.rmtree(tmp_path / "copy/text_encoder_2")
    with pytest.raises(CheckpointError, match="text_encoder_2"):
        load_prior(str(tmp_path / "copy"))


def test_a_vae_that_overflows_is_refused_in_half_precision(xl: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encode.dtype float16: the VAE of .* overflows.*bfloat16 or float32"):
        load_prior(str(xl)).start_recipe("float16")
    load_prior(str(xl)).start_recipe("bfloat16")
    shutil.copytree(xl, tmp_path / "copy")
    path = tmp_path / "copy/vae/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "force_upcast": False}))
    load_prior(str(tmp_path / "copy")).start_recipe("float16")
    load_prior("builtin:random").start_recipe("float16")


def test_operations_are_counted_from_the_config(xl: Path) -> None:
    counted = load_prior(str(xl)).flops((64, 128), ["down-level0-repeat0-res-out"])
    assert set(counted) == {"VAE", "UNet"}
    assert min(counted.values()) > 0
    assert len(tap_table(SDXL_UNET)) == 752
