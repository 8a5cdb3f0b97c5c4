"""CLIP and SigLIP: every tap and every word's map against a forward written out; folders, the hub, what is refused."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from diffps.backbone.builtin.vocabulary import make_tokenizer
from diffps.backbone.clip import ClipModel
from diffps.backbone.clip_taps import ClipReader
from diffps.backbone.families import load_prior
from diffps.backbone.prior import Conditions, check_pass
from diffps.backbone.published import check_ids
from diffps.errors import CheckpointError, ConfigError, PromptError
from diffps.taps import tap_kind
from tests.backbone.layouts import hub_cache, shard

SIZE = (64, 96)
WORDS = ("person", "red shirt")
CONDITIONS = Conditions(words=WORDS)
MAPS = [f"vit-text-map.{word}" for word in ("person", "red-shirt")]


def write_model(folder: Path, kind: str) -> Path:
    """A small CLIP or SigLIP in transformers' layout, with the built-in checkpoints' tokenizer."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    config_class, model_class = (CLIPConfig, CLIPModel) if kind == "clip" else (SiglipConfig, SiglipModel)
    tokenizer = make_tokenizer()
    sizes = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 48}
    text = {
        **sizes,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 24,
        "eos_token_id": tokenizer.eos_token_id,
    }
    torch.manual_seed(0)
    config = config_class(vision_config={**sizes, "image_size": 64, "patch_size": 16}, text_config=text)
    model = model_class(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["clip", "siglip"])
def prior(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ClipModel:
    folder = write_model(tmp_path_factory.mktemp(request.param), request.param)
    return load_prior(f"clip:{folder}")  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def reference(model: Any, pixels: Tensor, words: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image side with explicit attention, its prefix dropped, and the cosine of every patch with every word."""
    vision = model.vision_model
    size = vision.embeddings.patch_embedding.kernel_size[0]
    grid = (pixels.shape[2] // size, pixels.shape[3] // size)
    patches = pixels.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    embedding = vision.embeddings.patch_embedding
    x = patches @ embedding.weight.flatten(1).T
    x = x if embedding.bias is None else x + embedding.bias
    positions = vision.embeddings.position_embedding.weight[None]
    clip = hasattr(vision.embeddings, "class_embedding")
    own = 1 if clip else 0
    side = math.isqrt(positions.shape[1] - own)
    image = positions[:, own:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    image = F.interpolate(image, grid, mode="bicubic", align_corners=False)
    positions = torch.cat([positions[:, :own], image.flatten(2).mT], 1)
    if clip:
        x = torch.cat([vision.embeddings.class_embedding.expand(len(x), 1, -1), x], 1)
    x = x + positions
    x = vision.pre_layrnorm(x) if clip else x
    taps: dict[str, Tensor] = {}

    def keep(name: str, rows: Tensor) -> Tensor:
        taps[name] = rows[:, own:].reshape(len(rows), *grid, -1)
        return rows

    for number, layer in enumerate(vision.encoder.layers):
        at = f"vit-block{number:02}"
        n = keep(f"{at}-norm1", layer.layer_norm1(x))
        attention = layer.self_attn
        q, k, v = (keep(f"{at}-{part}", _linear(getattr(attention, f"{part}_proj"), n)) for part in "qkv")
        q, k, v = (value.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for value in (q, k, v))
        out = ((q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + keep(f"{at}-attn-out", _linear(attention.out_proj, out))
        inner = layer.mlp.activation_fn(_linear(layer.mlp.fc1, layer.layer_norm2(x)))
        x = keep(f"{at}-out", x + _linear(layer.mlp.fc2, keep(f"{at}-ffn-inner", inner)))
    normed = vision.post_layernorm(x)
    if clip:
        joint = normed[:, 1:] @ model.visual_projection.weight.T
    else:
        keep("vit-norm", normed)
        # The library's own pooling, of images of one patch.
        joint = vision.head(normed.flatten(0, 1)[:, None]).unflatten(0, normed.shape[:2])
    joint = joint / joint.norm(dim=-1, keepdim=True)
    for word, vector in words.items():
        cosine = joint @ (vector / vector.norm()).to(joint.dtype)
        taps[f"vit-text-map.{word.replace(' ', '-')}"] = cosine.reshape(len(x), *grid, 1)
    return taps


def _linear(layer: Any, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def pixels() -> Tensor:
    return torch.rand(2, 3, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def normalised(prior: ClipModel) -> Tensor:
    recipe = prior.start_recipe("float32")
    mean, std = (torch.tensor(recipe[name])[:, None, None] for name in ("mean", "std"))
    return ((pixels() + 1) / 2 - mean) / std


def read(prior: ClipModel, taps: list[str]) -> dict[str, Tensor]:
    starts = prior.open_encoder("cpu", "float32").moments(pixels())
    with prior.open_pass(taps, CONDITIONS, "cpu", "float32") as opened:
        return opened.features(starts, 0, ())


def test_every_tap_and_map_equals_a_forward_written_out(prior: ClipModel) -> None:
    model = prior.load(torch.float64)
    words = dict(zip(WORDS, prior.word_embeddings(WORDS), strict=True))
    unit = {word: F.normalize(vector, dim=0) for word, vector in words.items()}
    exact = normalised(prior).double()
    expected = reference(model, exact, words)
    found = ClipReader(model, prior.taps, unit).run(exact)
    single = read(prior, list(prior.taps))
    grids = {tap for tap in prior.taps if tap_kind(tap) == "grid"}
    assert set(found) == set(expected) == set(single) == grids | set(MAPS)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        assert float((found[name] - value).abs().max() / value.abs().max()) < 2e-6, name
        assert float((single[name] - value).abs().max() / value.abs().max()) < 2e-5, name
    for tap in grids:
        assert found[tap].shape == (2, SIZE[0] // 16, SIZE[1] // 16, prior.taps[tap].channels)
    assert all(found[name].abs().max() <= 1 for name in MAPS)
    assert not torch.equal(found[MAPS[0]], found[MAPS[1]])
    check_ids(prior.taps)


def test_stopping_early_changes_no_bit_and_hooks_change_no_output(prior: ClipModel) -> None:
    model, normal = prior.load(torch.float32), normalised(prior)
    words = {"person": F.normalize(prior.word_embeddings(["person"])[0], dim=0)}
    plain = model.vision_model(pixel_values=normal, interpolate_pos_encoding=True).last_hidden_state
    reader = ClipReader(model, prior.taps, words)
    whole = reader.run(normal, stop=False)
    watched = model.vision_model(pixel_values=normal, interpolate_pos_encoding=True).last_hidden_state
    assert torch.equal(watched, plain)
    reader.close()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for tap in prior.taps:
        reader = ClipReader(model, {tap: prior.taps[tap]}, words)
        for name, value in reader.run(normal).items():
            assert torch.equal(value, whole[name]), name
        reader.close()


def test_a_word_is_a_text_of_its_own(prior: ClipModel) -> None:
    together, alone = prior.word_embeddings(WORDS), prior.word_embeddings(["red shirt"])
    assert torch.equal(together[1], alone[0])
    tokens = prior.tokens(CONDITIONS)
    assert list(tokens) == list(WORDS)
    siglip = prior._kind == "siglip"  # is given whole rows, as it was trained
    assert [len(ids) for ids in tokens.values()] == ([24, 24] if siglip else [3, 5])
    assert prior.taps["vit-text-map"].channels == 1
    length = 24 if siglip else len(prior.tokens(Conditions(words=("x" * 22,)))["x" * 22])
    assert length == 24
    for more in (23, 60):
        with pytest.raises(PromptError, match=rf"^word '{'x' * more}': {more + 2} tokens, .* takes 24; shorten it$"):
            prior.tokens(Conditions(words=("x" * more,)))
    said = "\n".join(prior.describe(CONDITIONS))
    assert all(f"{side} {digest}" in said for side, digest in prior.digests().items())


def test_pixels_are_normalised_as_the_model_was_trained_unless_its_folder_says_otherwise(
    prior: ClipModel, tmp_path: Path
) -> None:
    from transformers.image_utils import IMAGENET_STANDARD_MEAN, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    clip = {"mean": list(OPENAI_CLIP_MEAN), "std": list(OPENAI_CLIP_STD)}
    half = {"mean": IMAGENET_STANDARD_MEAN, "std": IMAGENET_STANDARD_MEAN}
    expected = clip if "clip" in prior.folder.name and "siglip" not in prior.folder.name else half
    assert prior.start_recipe("float32") == expected
    copy = tmp_path / "copy"
    shutil.copytree(prior.folder, copy)
    (copy / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": null}')
    found = load_prior(f"clip:{copy}").start_recipe("float32")
    assert found == {"mean": [0.1, 0.2, 0.3], "std": expected["std"]}


def test_its_identity_is_its_weights(prior: ClipModel, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prior.folder, copy)
    shard(copy / "model.safetensors", 2)
    sharded = load_prior(f"clip:{copy}")
    assert sharded.digests() == prior.digests()
    sharded.check_tensors()
    cached = hub_cache(prior.folder, tmp_path / "hub", "someone/clip", "0" * 40)
    assert load_prior(f"clip:{cached}").digests() == prior.digests()
    shutil.copy(prior.folder / "model.safetensors", copy / "model.safetensors")
    weights = load_file(copy / "model.safetensors")
    weights["text_model.final_layer_norm.bias"] += 1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    other = load_prior(f"clip:{copy}").digests()
    assert other["vision"] == prior.digests()["vision"]
    assert other["text"] != prior.digests()["text"]


def test_what_its_config_leaves_out_is_the_library_s_default(prior: ClipModel, tmp_path: Path) -> None:
    """Published files leave it out, and CLIP and SigLIP differ in it."""
    copy = tmp_path / "copy"
    shutil.copytree(prior.folder, copy)
    config = json.loads((copy / "config.json").read_text())
    for side in ("vision_config", "text_config"):
        assert config[side].pop("hidden_act") == ("quick_gelu" if prior._kind == "clip" else "gelu_pytorch_tanh")
        assert config[side].pop("layer_norm_eps") == (1e-5 if prior._kind == "clip" else 1e-6)
    (copy / "config.json").write_text(json.dumps(config))
    shorter = load_prior(f"clip:{copy}")
    assert shorter.digests() == prior.digests()
    shorter.check_tensors()


def test_the_operations_need_no_weights(prior: ClipModel) -> None:
    few, all_of_it = (prior.flops(SIZE, [tap])["model"] for tap in ("vit-block00-q", "vit-block02-out"))
    assert 0 < few < all_of_it


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("vision_model.post_layernorm.bias"), "vision_model.post_layernorm.bias is missing"),
        (lambda w: w.update(extra=torch.zeros(1)), "extra is unknown to it"),
        (
            lambda w: w.update({"vision_model.post_layernorm.bias": torch.zeros(3)}),
            r"vision_model.post_layernorm.bias is \[3\], expected \[48\]",
        ),
        (lambda w: [w.pop(name) for name in list(w)[:-1]], "expected a (clip|siglip) model"),
        (lambda w: [w.pop(name) for name in list(w)[len(w) // 2 :]], "expected a (clip|siglip) model"),
        (lambda w: [w.pop(name) for name in list(w)[len(w) // 2 + 1 :]], "is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named(prior: ClipModel, tmp_path: Path, change: Any, message: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(prior.folder, copy)
    weights = load_file(copy / "model.safetensors")
    change(weights)
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    for check in (ClipModel.check_tensors, lambda model: model.load(torch.float32)):
        with pytest.raises(CheckpointError, match=message):
            check(load_prior(f"clip:{copy}"))  # type: ignore[arg-type]


def test_bad_input_is_one_line(prior: ClipModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        check_pass(prior, (64, 100), ["vit-text-map"], [0], CONDITIONS)
    with pytest.raises(ConfigError, match="name one"):
        check_pass(prior, SIZE, ["vit-text-map"], [0], Conditions())
    with pytest.raises(ConfigError, match="extract.head 1: vit-text-map has heads 0 to 0"):
        check_pass(prior, SIZE, ["vit-text-map"], [0], Conditions(words=WORDS, head=1))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "siglip2"}))
    with pytest.raises(CheckpointError, match="a model of type 'siglip2'; expected CLIP or SigLIP"):
        load_prior(f"clip:{tmp_path}")
    with pytest.raises(CheckpointError, match="nobody/clip: the hub cannot be reached") as caught:
        load_prior("clip:nobody/clip")
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_prior("clip:./nowhere")
