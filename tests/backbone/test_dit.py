"""PixArt and SD 3 as priors: every tap against an independent forward, texts, noise, and what is refused."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffps.backbone.dit import DiffusionTransformer
from diffps.backbone.families import load_prior
from diffps.backbone.grid_reader import GridReader, cut
from diffps.backbone.latents import NoiseKey
from diffps.backbone.prior import Conditions, check_pass
from diffps.errors import CheckpointError, ConfigError, PromptError, UnknownTapError
from tests.backbone.dit import CLIP_WIDTHS, SD35, T5_WIDTH, write_pixart, write_sd3
from tests.backbone.dit_reference import PixArtReference, SD3Reference

TIMESTEP = 37
FAMILIES = ("pixart", "sd3", "sd35")
CONDITIONS = Conditions(prompt="a person in the street", words=("person", "the street"))
KEYS = [NoiseKey("a", "identity"), NoiseKey("b", "identity")]


@pytest.fixture(scope="module")
def folders(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "pixart": write_pixart(folder, tmp_path_factory.mktemp("pixart")),
        "sd3": write_sd3(folder, tmp_path_factory.mktemp("sd3")),
        "sd35": write_sd3(folder, tmp_path_factory.mktemp("sd35"), **SD35),
    }


def load(folder: Path) -> DiffusionTransformer:
    prior = load_prior(str(folder))
    assert isinstance(prior, DiffusionTransformer)
    return prior


def inputs(prior: DiffusionTransformer) -> tuple[Any, Tensor, list[Tensor]]:
    """The transformer in float64, latents of a canvas 128 x 192, two images, and the texts of the prompt."""
    model = prior.folder.load("transformer", torch.float64)
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 16, 24, generator=generator, dtype=torch.float64)
    sides = prior.sides()
    texts = prior.texts(sides, prior.tokenise(sides, CONDITIONS))
    return model, latents, [text.double() for text in texts]


def reader(prior: DiffusionTransformer, model: Any, taps: tuple[str, ...], head: Any = "mean") -> GridReader:
    specs = [prior.taps[tap] for tap in taps]
    return GridReader(model, specs, prior.forward, prior.tokens(CONDITIONS), head)


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_every_tap_equals_an_independent_forward_and_the_output_does_not_see_the_hooks(
    folders: dict[str, Path], family: str
) -> None:
    prior = load(folders[family])
    model, latents, texts = inputs(prior)
    steps = torch.full((2,), float(TIMESTEP))
    plain: Any = prior.forward(model, latents, steps, texts)
    places = prior.tokens(CONDITIONS)
    reference = (PixArtReference if family == "pixart" else SD3Reference)(model, places)
    expected = reference(latents, TIMESTEP, *(text.expand(2, *text.shape[1:]) for text in texts))
    assert float((plain[0] - expected).abs().max() / expected.abs().max()) < 1e-6
    with reader(prior, model, tuple(prior.taps)) as opened:
        found = opened.run(latents, steps, texts, stop=False)
        hooked: Any = prior.forward(model, latents, steps, texts)
    assert torch.equal(hooked[0], plain[0])
    maps = [tap.id for tap in prior.taps.values() if tap.kind == "cross-map"]
    assert len(maps) == 3
    named = {f"{tap}.{word.replace(' ', '-')}" for tap in maps for word in CONDITIONS.words}
    assert found.keys() == prior.taps.keys() - set(maps) | named
    for name, value in found.items():
        wanted = reference.taps[name.replace("the-street", "the street")]
        if name in named:
            wanted = wanted.mean(-1, keepdim=True)
        assert value.shape == wanted.shape, name
        assert float((value - wanted).abs().max() / wanted.abs().max()) < 2e-6, name
        assert value.shape[1:3] == (8, 12)
        assert name in named or value.shape[-1] == prior.taps[name].channels
    tap = maps[1]
    with reader(prior, model, (tap,), head=2) as opened:
        one = opened.run(latents, steps, texts)[f"{tap}.person"]
    wanted = reference.taps[f"{tap}.person"][..., 2:3]
    assert float((one - wanted).abs().max() / wanted.abs().max()) < 2e-6


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_forward_that_ends_early_and_a_cut_model_give_the_same_bits(folders: dict[str, Path], family: str) -> None:
    prior = load(folders[family])
    model, latents, texts = inputs(prior)
    steps = torch.full((2,), float(TIMESTEP))
    early = [tap for tap in prior.taps if "block01" in tap]
    with reader(prior, model, tuple(prior.taps)) as opened:
        whole = opened.run(latents, steps, texts, stop=False)
    ran: list[str] = []
    model.transformer_blocks[2].register_forward_hook(lambda *_: ran.append("the last block"))
    with reader(prior, model, tuple(early)) as opened:
        found = opened.run(latents, steps, texts)
    assert ran == []
    shorter = cut(model, [prior.taps[tap] for tap in early])
    assert len(shorter.transformer_blocks) == 2
    with reader(prior, shorter, tuple(early)) as opened:
        again = opened.run(latents, steps, texts, stop=False)
    for name, value in found.items():
        assert torch.equal(value, whole[name]), name
        assert torch.equal(again[name], value), name


@torch.inference_mode()
def test_pixart_sees_what_the_pipeline_shows_it_masked(folders: dict[str, Path]) -> None:
    """diffusers' pipeline pads prompts to 300 tokens and masks them; here there is no padding."""
    prior = load(folders["pixart"])
    model, latents, texts = inputs(prior)
    (side,) = prior.sides()
    ids = side.tokens(CONDITIONS.prompt)
    assert len(ids) == 6
    padded = torch.tensor([ids + [0] * (300 - len(ids))])
    mask = (padded != 0).long()
    encoder = prior.folder.load("text_encoder", torch.float64)
    embedded = encoder(padded, attention_mask=mask)[0]
    torch.testing.assert_close(embedded[:, : len(ids)], texts[0], rtol=1e-5, atol=1e-5)
    steps, added = torch.full((2,), float(TIMESTEP)), {"resolution": None, "aspect_ratio": None}
    expected = model(
        latents,
        encoder_hidden_states=embedded.expand(2, -1, -1),
        encoder_attention_mask=mask.expand(2, -1),
        timestep=steps,
        added_cond_kwargs=added,
        return_dict=False,
    )[0]
    found: Any = prior.forward(model, latents, steps, texts)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_sd3_s_text_is_that_of_the_pipeline(folders: dict[str, Path]) -> None:
    from diffusers import StableDiffusion3Pipeline

    prior = load(folders["sd3"])
    sides = prior.sides()
    tokens = prior.tokenise(sides, CONDITIONS)
    text, pooled = prior.texts(sides, tokens)
    assert text.shape == (1, 77 + 256, T5_WIDTH)
    parts = {f"text_encoder{end}": prior.folder.load(f"text_encoder{end}", torch.float32) for end in ("", "_2", "_3")}
    tokenizers = {f"tokenizer{end}": side._tokenizer for end, side in zip(("", "_2", "_3"), sides, strict=True)}
    pipeline = StableDiffusion3Pipeline(
        transformer=prior.folder.load("transformer", torch.float32), scheduler=None, vae=None, **parts, **tokenizers
    )
    prompts = [CONDITIONS.prompt] * 3
    expected, _, whole, _ = pipeline.encode_prompt(*prompts, do_classifier_free_guidance=False)
    torch.testing.assert_close(text, expected)
    torch.testing.assert_close(pooled, whole)
    assert tokens.places == {"person": [2, 77 + 1], "the street": [4, 5, 77 + 3, 77 + 4]}
    assert [side.pad_token[0] for side in sides] == ["<|endoftext|>", "!", "<pad>"]


def test_timesteps_are_sigmas_where_noise_is_mixed_in_by_flow(folders: dict[str, Path]) -> None:
    prior, latents = load(folders["sd3"]), torch.ones(2, 4, 8, 8)
    assert prior.last_timestep == 999
    none = prior.noised(latents, 0, CONDITIONS, KEYS)
    all_noise = prior.noised(latents, 999, CONDITIONS, KEYS)
    assert torch.equal(none, latents)
    assert abs(float(all_noise.mean())) < 0.2
    some = prior.noised(latents, 250, CONDITIONS, KEYS)
    noise = (some - 0.75 * latents) / 0.25
    assert abs(float(noise.std()) - 1) < 0.1
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(prior.noised(latents, 250, Conditions(noise="none"), KEYS), latents)
    diffusion = load(folders["pixart"])
    assert diffusion.last_timestep == 999
    assert float(diffusion.noised(latents, 999, CONDITIONS, KEYS).mean()) < 0.3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_reads_moments_alone_or_in_a_batch(folders: dict[str, Path], family: str) -> None:
    prior = load(folders[family])
    word_map = next(tap.id for tap in prior.taps.values() if tap.kind == "cross-map")
    taps = (word_map, next(reversed(prior.taps)))
    pixels = torch.rand(2, 3, 64, 128, generator=torch.Generator().manual_seed(1)) * 2 - 1
    moments = prior.open_encoder("cpu", "float32").moments(pixels)
    assert moments.shape == (2, 8, 16, 2 * prior.latent_channels)
    with prior.open_pass(taps, CONDITIONS, "cpu", "float32") as opened:
        both = opened.features(moments, TIMESTEP, KEYS)
        alone = opened.features(moments[1:], TIMESTEP, KEYS[1:])
        other = opened.features(moments, TIMESTEP + 1, KEYS)
        for timestep in (-1, 1000):
            with pytest.raises(ConfigError, match=rf"timestep {timestep}: .* has 0 to 999$"):
                opened.features(moments, timestep, KEYS)
        for timestep in (0, 999):
            opened.features(moments[1:], timestep, KEYS[1:])
    assert both[f"{word_map}.person"].shape == (2, 4, 8, 1)
    assert both[taps[1]].shape == (2, 4, 8, 32)
    for name, value in both.items():
        assert float((alone[name] - value[1:]).abs().max() / value.abs().max()) < 1e-4, name
        assert not torch.equal(other[name], value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_is_the_same_within_rounding(folders: dict[str, Path], family: str) -> None:
    prior = load(folders[family])
    word_map = next(tap.id for tap in prior.taps.values() if tap.kind == "cross-map")
    grids = [tap.id for tap in prior.taps.values() if tap.kind == "grid"]
    taps = (word_map, grids[1], grids[len(grids) // 2], grids[-1])
    moments = torch.randn(2, 8, 16, 2 * prior.latent_channels, generator=torch.Generator().manual_seed(2))
    found = []
    for compiled in (False, True):
        torch.compiler.reset()
        with prior.open_pass(taps, CONDITIONS, "cpu", "float32", compiled=compiled) as opened:
            found.append(opened.features(moments, TIMESTEP, KEYS))
    plain, fast = found
    assert fast.keys() == plain.keys()
    for name, value in plain.items():
        assert float((fast[name] - value).abs().max() / value.abs().max()) < 1e-4, name


@pytest.mark.parametrize("family", FAMILIES)
def test_who_a_prior_is_and_what_its_recipes_say(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    prior = load(folders[family])
    prior.check_tensors()
    shutil.copytree(folders[family], tmp_path / "copy")
    copy = load(tmp_path / "copy")
    assert copy.digests() == prior.digests()
    assert copy.pass_recipe(CONDITIONS) == prior.pass_recipe(CONDITIONS)
    assert json.loads(json.dumps(prior.pass_recipe(CONDITIONS))) == prior.pass_recipe(CONDITIONS)
    part = "text_encoder" if family == "pixart" else "text_encoder_3"
    path = tmp_path / "copy" / part / "model.safetensors"
    tensors = load_file(path)
    assert "shared.weight" in tensors
    save_file({name: value + 1 for name, value in tensors.items()}, path, {"format": "pt"})
    changed = load(tmp_path / "copy").digests()
    assert {name for name, digest in changed.items() if digest != prior.digests()[name]} == {part}
    assert any(f"{len(prior.taps)} taps" in line for line in prior.describe(CONDITIONS))
    counted = prior.flops((64, 128), [next(reversed(prior.taps))])
    assert counted["transformer"] > prior.flops((64, 128), [next(iter(prior.taps))])["transformer"] > 0
    assert counted["VAE"] > 0


@pytest.mark.parametrize("family", ["pixart", "sd3"])
def test_words_are_embedded_by_every_text_encoder(folders: dict[str, Path], family: str) -> None:
    prior = load(folders[family])
    widths = (T5_WIDTH,) if family == "pixart" else (*CLIP_WIDTHS, T5_WIDTH)
    for number, width in enumerate(widths, 1):
        assert prior.word_embeddings(["head", "shoes"], number).shape == (2, width)
    with pytest.raises(ConfigError, match=f"encode.text_encoder {len(widths) + 1}: this checkpoint has 1"):
        prior.word_embeddings(["head"], len(widths) + 1)


def test_a_config_saved_by_another_version_is_the_same_transformer(folders: dict[str, Path], tmp_path: Path) -> None:
    for family in FAMILIES:
        shutil.copytree(folders[family], tmp_path / family)
        path = tmp_path / family / "transformer" / "config.json"
        config = json.loads(path.read_text())
        other = {"_diffusers_version": "0.27", "norm_num_groups": 32, "num_vector_embeds": None}
        if family == "pixart":
            other["_class_name"] = "Transformer2DModel"
        path.write_text(json.dumps({**config, **other}))
        again = load(tmp_path / family)
        assert again.digests() == load(folders[family]).digests()
        again.check_tensors()
        path.write_text(json.dumps({**config, "attention_head_dim": 16}))
        with pytest.raises(CheckpointError, match="another shape"):
            load(tmp_path / family).check_tensors()


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("pixart", "text_encoder", "text_encoder/ is missing in .*: T5, the text encoder"),
        ("sd3", "text_encoder_3", "text_encoder_3/ is missing in .*: T5, the text encoder.*hf download"),
        ("sd3", "text_encoder_3/model.safetensors", "no model.safetensors in .*text_encoder_3"),
        ("sd3", "text_encoder_2", "text_encoder_2/ is missing"),
        ("pixart", "transformer/diffusion_pytorch_model.safetensors", "no diffusion_pytorch_model.safetensors"),
        ("pixart", {"use_additional_conditions": True}, "wants the image's size beside the prompt"),
        ("pixart", {"caption_channels": 99}, "wants texts 99 wide, its text encoder gives 48"),
        ("pixart", {"num_layers": None}, "lacks num_layers .a whole number."),
        (
            "pixart",
            {"_class_name": "FluxTransformer2DModel"},
            "a transformer of class FluxTransformer2DModel",
        ),
        ("sd3", {"joint_attention_dim": 99}, "wants a joint_attention_dim of 99, its text encoders give 48"),
        ("sd3", {"pooled_projection_dim": 99}, "wants a pooled_projection_dim of 99, its text encoders give 40"),
        ("sd3", {"in_channels": 16}, "takes 16 channels and its VAE gives 4"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_one_line(
    folders: dict[str, Path], tmp_path: Path, family: str, change: Any, message: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folders[family], copy)
    if isinstance(change, dict):
        path = copy / "transformer" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    elif (copy / change).is_dir():
        shutil.rmtree(copy / change)
    else:
        (copy / change).unlink()
    with pytest.raises(CheckpointError, match=message) as raised:
        load_prior(str(copy))
    assert "\n" not in str(raised.value)


def test_flow_has_a_thousand_timesteps_unless_its_scheduler_says_otherwise(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["sd3"], tmp_path / "copy")
    path = tmp_path / "copy/scheduler/scheduler_config.json"
    for said, last in (({}, 999), ({"num_train_timesteps": 50}, 49)):
        path.write_text(json.dumps(said))
        prior = load(tmp_path / "copy")
        assert prior.schedule == {"flow": True, "num_train_timesteps": last + 1}
        assert prior.last_timestep == last


@pytest.mark.parametrize(
    ("sized", "side", "refused"),
    [(None, 128, True), (None, 64, False), (False, 128, False), (False, 64, False), (True, 64, True)],
)
def test_pixart_alpha_is_told_by_what_its_config_says_or_by_its_size(
    folders: dict[str, Path], tmp_path: Path, sized: bool | None, side: int, refused: bool
) -> None:
    """diffusers takes a transformer of 128 positions a side for one that is told sizes, where nothing is said."""
    shutil.copytree(folders["pixart"], tmp_path / "copy")
    path = tmp_path / "copy/transformer/config.json"
    changes = {"use_additional_conditions": sized, "sample_size": side}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match="wants the image's size") if refused else nullcontext():
        load(tmp_path / "copy")


def test_what_a_transformer_cannot_be_asked_for_is_said_before_anything_is_loaded(folders: dict[str, Path]) -> None:
    pixart, sd3 = load(folders["pixart"]), load(folders["sd3"])
    with pytest.raises(ConfigError, match="multiple of 16; nearest are 96 and 112"):
        check_pass(pixart, (100, 128), [], [0], CONDITIONS)
    check_pass(pixart, (1024, 512), [], [999], CONDITIONS)
    with pytest.raises(ConfigError, match=r"encode.canvas \[64, 336\]: .* has positions up to 320 pixels a side"):
        check_pass(sd3, (64, 336), [], [0], CONDITIONS)
    for head in (0, 3):
        check_pass(sd3, (320, 64), ["joint-block00-map"], [0], Conditions(words=("person",), head=head))
    for timestep in (-1, 1000):
        with pytest.raises(ConfigError, match=rf"extract.timesteps {timestep}: .* has 0 to 999$"):
            check_pass(pixart, (64, 64), [], [0, timestep], CONDITIONS)
    with pytest.raises(ConfigError, match="extract.head -1: joint-block00-map has heads 0 to 3"):
        check_pass(sd3, (64, 64), ["joint-block00-map"], [0], Conditions(words=("person",), head=-1))
    with pytest.raises(UnknownTapError, match="nearest is 'joint-block0"):
        check_pass(sd3, (64, 64), ["joint-block07-img-out"], [0], CONDITIONS)
    with pytest.raises(ConfigError, match="extract.head 4: joint-block00-map has heads 0 to 3"):
        check_pass(sd3, (64, 64), ["joint-block00-map"], [0], Conditions(words=("person",), head=4))
    for prior in (pixart, sd3):
        with pytest.raises(PromptError, match="word 'shoes': not in the prompt 'a person'"):
            prior.tokens(Conditions(prompt="a person", words=("shoes",)))
    with pytest.raises(ConfigError, match="VAE of .* overflows"):
        pixart.start_recipe("float16")
    with pytest.raises(CheckpointError, match="has no UNet that other could take the place of"):
        load_prior(str(folders["sd3"]), unet="other")


def test_t5_s_tokenizer_is_read_from_its_own_library_s_file(folders: dict[str, Path], tmp_path: Path) -> None:
    import sentencepiece

    shutil.copytree(folders["pixart"], tmp_path / "copy")
    tokenizer = tmp_path / "copy/tokenizer"
    (tokenizer / "tokenizer.json").unlink()
    (tmp_path / "text.txt").write_text("a person in the street\nthe head of a person\nshirts pants shoes\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"),
        model_prefix=str(tokenizer / "spiece"),
        vocab_size=39,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    names = {"tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(names))
    prior = load(tmp_path / "copy")
    (side,) = prior.sides()
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "spiece.model"))
    assert side.tokens("a person in the street") == [*pieces.encode("a person in the street"), 1]
    start = len(pieces.encode("a"))
    assert prior.tokens(Conditions(prompt="a person", words=("person",)))["person"] == list(
        range(start, start + len(pieces.encode("person")))
    )


def test_t5_s_tokenizer_needs_its_file_and_a_library_for_the_old_one(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffps.backbone import tokenizers

    shutil.copytree(folders["pixart"], tmp_path / "copy")
    (tmp_path / "copy/tokenizer/tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="has neither tokenizer.json nor spiece.model"):
        load(tmp_path / "copy").tokens(CONDITIONS)
    (tmp_path / "copy/tokenizer/spiece.model").write_bytes(b"")
    monkeypatch.setattr(tokenizers, "find_spec", lambda _: None)
    with pytest.raises(CheckpointError, match=r"spiece.model alone; reading it takes `pip install 'diffps\[t5\]'`"):
        load(tmp_path / "copy").tokens(CONDITIONS)
