"""What every family of priors says of itself: its lines for people, what decides its features, its operations."""

import json
import shutil
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from diffps.backbone.capture import TapReader
from diffps.backbone.clip import ClipModel
from diffps.backbone.clip_taps import ClipReader
from diffps.backbone.dit import DiffusionTransformer
from diffps.backbone.families import load_prior
from diffps.backbone.grid_reader import GridReader
from diffps.backbone.hooks import Hooks
from diffps.backbone.latents import NoiseKey
from diffps.backbone.prior import Conditions, Prior
from diffps.backbone.stable_diffusion import StableDiffusion, UNetPass
from diffps.backbone.timm_models import TimmModel
from diffps.backbone.timm_taps import TimmReader
from diffps.errors import CheckpointError, ConfigError, UnknownTapError
from tests.backbone.dit import T5_WIDTH, write_pixart, write_sd3
from tests.backbone.sdxl import write_sdxl
from tests.backbone.test_clip import write_model
from tests.backbone.test_timm import write_folder

CANVAS = (64, 128)
PROMPT = Conditions(prompt="a person in the street", words=("person",))
DIFFUSION = ("sd", "sdxl", "pixart", "sd3")


@pytest.fixture(scope="module")
def priors(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Prior]:
    def make(name: str) -> Path:
        return tmp_path_factory.mktemp(name)

    return {
        "sd": load_prior(str(folder)),
        "sdxl": load_prior(str(write_sdxl(folder, make("sdxl")))),
        "pixart": load_prior(str(write_pixart(folder, make("pixart")))),
        "sd3": load_prior(str(write_sd3(folder, make("sd3")))),
        "clip": load_prior(f"clip:{write_model(make('clip'), 'clip')}"),
        "timm": load_prior(f"timm:{write_folder(make('timm'), 'test_vit', {})}"),
    }


def digests(prior: Prior) -> str:
    return "  digests: " + ", ".join(f"{part} {digest}" for part, digest in prior.digests().items())


def test_what_each_is_called_for_people(priors: dict[str, Prior], folder: Path) -> None:
    sd, xl, pixart, sd3, clip, timm = priors.values()
    assert list(sd.describe(PROMPT)) == [
        f"checkpoint: {folder} at {folder}, UNet of 32-64-96-96 channels, text embeddings of 64",
        digests(sd),
        "  pad token '!' (0); 229 taps",
        "  prompt 'a person in the street': words at token positions {'person': (2, 3)}",
    ]
    assert "  pad token '<|endoftext|>' (616), '!' (0); 752 taps" in list(xl.describe(PROMPT))
    assert list(pixart.describe(PROMPT)) == [
        f"checkpoint: {pixart.name} at {pixart.name}, 3 blocks of 32 channels, {len(pixart.taps)} taps",
        digests(pixart),
        "  prompt 'a person in the street': words at token positions {'person': [1]}",
    ]
    assert list(sd3.describe(PROMPT))[2].endswith("words at token positions {'person': [2, 78]}")
    assert list(clip.describe(PROMPT)) == [
        f"checkpoint: {clip.name} at {clip.name[5:]}, clip, {len(clip.taps)} taps at stride 16",
        digests(clip),
        f"  words are texts of their own, of tokens {dict(clip.tokens(PROMPT))}",
    ]
    assert list(timm.describe(PROMPT)) == [
        f"checkpoint: {timm.name} at {timm.name[5:]}/model.safetensors, 43 taps at strides [16]",
        digests(timm),
        "  no text: train.model.dgrpn and sfan are off, the prompt and its words are not read",
    ]


def test_other_unet_weights_are_said(folder: Path) -> None:
    lines = list(load_prior(str(folder), unet=str(folder)).describe(PROMPT))
    assert lines[1] == f"  UNet weights from {folder / 'unet'}"


@pytest.mark.parametrize("family", DIFFUSION)
def test_a_seed_is_in_a_recipe_where_something_is_drawn(priors: dict[str, Prior], family: str) -> None:
    prior = priors[family]

    def seeds(**changes: object) -> object:
        return prior.pass_recipe(Conditions(prompt="a person", seed=7, **changes)).get("seed")  # type: ignore[arg-type]

    assert seeds() == seeds(noise="none", latent="sample") == seeds(latent="sample") == 7
    assert seeds(noise="none") is None


@pytest.mark.parametrize("family", DIFFUSION)
def test_what_starts_a_pass_is_the_vae_and_the_rest_decides_the_pass(priors: dict[str, Prior], family: str) -> None:
    prior = priors[family]
    assert prior.start_recipe("float32") == {"vae": prior.digests()["vae"], "dtype": "float32"}
    recipe = prior.pass_recipe(PROMPT)
    assert {part: recipe.get(part) for part in prior.digests()} == {**prior.digests(), "vae": None}
    assert {name: recipe[name] for name in ("prompt", "latent_rule", "noise")} == {
        "prompt": PROMPT.prompt,
        "latent_rule": "mean",
        "noise": "seeded",
    }
    assert ("pad_tokens" in recipe) == (family == "sdxl")


def counted(run: Callable[[], object]) -> int:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, device="meta")


def test_the_operations_of_a_unet_are_those_of_its_forward(priors: dict[str, Prior]) -> None:
    prior = priors["sd"]
    assert isinstance(prior, StableDiffusion)
    unet, vae = (load(torch.float32).to("meta") for load in (prior.checkpoint.load_unet, prior.checkpoint.load_vae))
    context = zeros(1, 77, unet.config.cross_attention_dim)
    assert prior.flops(CANVAS, ["unet-in", "unet-out"]) == {
        "VAE": counted(lambda: vae.encode(zeros(1, 3, *CANVAS))),
        "UNet": counted(lambda: unet(zeros(1, 4, 8, 16), 0, context)),
    }


@pytest.mark.parametrize("family", ["pixart", "sd3"])
def test_the_operations_of_a_transformer_are_those_of_its_blocks(priors: dict[str, Prior], family: str) -> None:
    prior = priors[family]
    assert isinstance(prior, DiffusionTransformer)
    model, vae = (prior.folder.load(part, torch.float32).to("meta") for part in ("transformer", "vae"))
    texts = prior.empty_texts()
    whole = counted(lambda: prior.forward(model, zeros(1, 4, 8, 16), zeros(1), texts))
    found = prior.flops(CANVAS, [next(reversed(prior.taps))])
    assert found["VAE"] == counted(lambda: vae.encode(zeros(1, 3, *CANVAS)))
    # All but the layers behind the last block, which no tap comes after.
    assert 0.97 * whole < found["transformer"] < whole


def test_the_operations_of_what_reads_pixels_are_those_of_its_forward(priors: dict[str, Prior]) -> None:
    clip, timm = priors["clip"], priors["timm"]
    assert isinstance(clip, ClipModel)
    assert isinstance(timm, TimmModel)
    clip_model, timm_model = clip.load(torch.float32).to("meta"), timm.load(torch.float32).to("meta")
    assert clip.flops(CANVAS, ["vit-block02-out"])["model"] == counted(
        lambda: clip_model.vision_model(pixel_values=zeros(1, 3, *CANVAS), interpolate_pos_encoding=True)
    )
    assert timm.flops(CANVAS, ["vit-norm"])["model"] == counted(
        lambda: timm_model.forward_features(zeros(1, 3, *CANVAS))
    )


def test_nothing_is_compiled_that_was_not_asked_for(priors: dict[str, Prior]) -> None:
    for prior in priors.values():
        assert signature(prior.open_pass).parameters["compiled"].default is False


@pytest.mark.parametrize("reader", [TapReader, GridReader, ClipReader, TimmReader, Hooks])
def test_a_forward_ends_after_the_last_tap_where_nothing_else_is_asked(reader: type) -> None:
    assert signature(reader.run).parameters["stop"].default is True  # type: ignore[attr-defined]


def test_what_the_operations_of_a_transformer_are_counted_of(priors: dict[str, Prior]) -> None:
    """Eight tokens of T5, of which PixArt's text has as many as the prompt; 77 of CLIP and 256 of T5."""
    pixart, sd3 = priors["pixart"], priors["sd3"]
    assert isinstance(pixart, DiffusionTransformer)
    assert isinstance(sd3, DiffusionTransformer)
    assert [tuple(text.shape) for text in pixart.empty_texts()] == [(1, 8, T5_WIDTH)]
    assert [tuple(text.shape) for text in sd3.empty_texts()] == [
        (1, 333, T5_WIDTH),
        (1, sd3.config["pooled_projection_dim"]),
    ]
    assert (pixart.multiple, sd3.multiple, pixart.largest, sd3.largest) == (16, 16, None, 320)


def test_the_operations_of_a_unet_end_with_the_last_tap(priors: dict[str, Prior]) -> None:
    for family in ("sd", "sdxl"):
        first, last = (priors[family].flops(CANVAS, [tap])["UNet"] for tap in ("unet-after-conv-in", "unet-out"))
        assert 0 < first < last / 10


def test_what_is_loaded_is_frozen_and_of_the_dtype_asked_for(priors: dict[str, Prior]) -> None:
    sd, pixart, clip, timm = (priors[family] for family in ("sd", "pixart", "clip", "timm"))
    assert isinstance(sd, StableDiffusion)
    assert isinstance(pixart, DiffusionTransformer)
    assert isinstance(clip, ClipModel)
    assert isinstance(timm, TimmModel)
    half = torch.bfloat16
    models = [sd.checkpoint.load_unet(half), sd.checkpoint.load_vae(half), pixart.folder.load("transformer", half)]
    for model in (*models, pixart.folder.load("text_encoder", half), clip.load(half), timm.load(half)):
        assert not any(module.training for module in model.modules())
        assert not any(weight.requires_grad for weight in model.parameters())
        assert {weight.dtype for weight in model.parameters()} == {half}
    assert {weight.dtype for weight in sd.checkpoint.load_text_encoder().parameters()} == {torch.float32}


def test_a_pass_of_a_tap_that_is_not_there_is_refused(priors: dict[str, Prior]) -> None:
    for prior in priors.values():
        with pytest.raises(UnknownTapError, match="nothing-out"):
            prior.open_pass([next(iter(prior.taps)), "nothing-out"], PROMPT, "cpu", "float32")


def test_words_are_read_by_text_encoders_that_are_there(priors: dict[str, Prior]) -> None:
    for family in ("clip", "sd", "pixart"):
        for encoder in (0, 2):
            with pytest.raises(ConfigError, match=rf"encode.text_encoder {encoder}: .* has 1$"):
                priors[family].word_embeddings(["head"], encoder)
    for family in (*DIFFUSION, "clip"):
        first, unsaid = (priors[family].word_embeddings(["head"], *encoder) for encoder in ((1,), ()))
        assert first is not None
        assert unsaid is not None
        assert torch.equal(first, unsaid)
    empty = priors["clip"].word_embeddings([])
    assert empty is not None
    assert empty.shape == (0, 48)


class Reading:
    """An extractor that keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def __enter__(self) -> None:
        self.asked.append(("enter",))

    def __exit__(self, *error: object) -> None:
        self.asked.append(("exit", *error))

    def features(self, *given: Any) -> dict[str, Tensor]:
        self.asked.append(given)
        return {}


@pytest.mark.parametrize(("shift", "taken"), [(0.5, 0.5), (None, 0.0)])
def test_a_pass_of_a_unet_scales_the_latents_and_leaves_the_rest_to_it(shift: float | None, taken: float) -> None:
    reading, keys = Reading(), [NoiseKey("a", "identity")]
    vae = {"scaling_factor": 2.0, "shift_factor": shift}
    moments = torch.arange(8.0).reshape(1, 1, 1, 8)
    with UNetPass(reading, Conditions(noise="none", seed=7), vae) as opened:  # type: ignore[arg-type]
        assert opened.features(moments, 3, keys) == {}
    entered, (latents, *rest), left = reading.asked
    assert latents.flatten().tolist() == [2 * (value - taken) for value in range(4)]
    assert rest == [3, "none", keys, 7]
    assert (entered, left) == (("enter",), ("exit", None, None, None))


@pytest.mark.parametrize("family", ["sd", "pixart"])
def test_a_vae_of_another_stride_is_refused(priors: dict[str, Prior], family: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(priors[family].name, tmp_path / "copy"))
    path = copy / "vae/config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"block_out_channels": config["block_out_channels"][:3]}))
    with pytest.raises(CheckpointError, match="its VAE shrinks 4 times, expected 8"):
        load_prior(str(copy))
