"""Tensors against config, before anything is loaded: what each misfit is called, in every part and in extract.unet."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.backbone.checkpoint import Checkpoint, Part, load_checkpoint
from diffps.backbone.headers import read_header
from diffps.backbone.identity import tensor_digest
from diffps.backbone.kinds import describe
from diffps.backbone.weights import digest_once, find_weights, read_json, stored_bytes, variants
from diffps.errors import CheckpointError

FILES: dict[Part, str] = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_fits_is_fine(checkpoint: Checkpoint) -> None:
    checkpoint.check_tensors()
    load_checkpoint("builtin:streets").check_tensors()


@pytest.mark.parametrize(("part", "swapped"), [*((part, False) for part in FILES), ("unet", True)])
def test_each_misfit_of_each_part_is_named(folder: Path, copy: Path, tmp_path: Path, part: Part, swapped: bool) -> None:
    sound = load_file(folder / FILES[part])
    name = min(sound)
    path = tmp_path / "other.safetensors" if swapped else copy / FILES[part]

    def said(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, path, {"format": "pt"})
        checkpoint = load_checkpoint(str(folder), unet=str(path)) if swapped else load_checkpoint(str(copy))
        with pytest.raises(CheckpointError) as caught:
            checkpoint.check_tensors(part)
        message = str(caught.value)
        assert "\n" not in message
        assert str(path) in message
        return message

    short = name.removeprefix("text_model.")
    lacking = {key: value for key, value in sound.items() if key != name}
    assert f"lacks 1 weights of the {part}, e.g. {short}" in said(lacking)
    assert f"has unexpected 1 weights of the {part}, e.g. extra" in said({**sound, "extra": torch.zeros(1)})
    wrong = said({**sound, name: torch.zeros(1, 2, 3)})
    assert f"1 weights of the {part} have another shape than its config says, e.g. {short} 1x2x3 for" in wrong
    assert f"tensor {name} is I8; quantised" in said({**sound, name: sound[name].to(torch.int8)})
    some = dict(list(sound.items())[: len(sound) // 2])
    assert f"expected the weights of a {part}" in said(some)
    one_more = dict(list(sound.items())[: len(sound) // 2 + 1])
    assert f"lacks {len(sound) - len(one_more)} weights of the {part}" in said(one_more)
    lora = {f"{key}.lora_A.weight": torch.zeros(1) for key in sound}
    assert "holds a LoRA: changes to a UNet, no weights of one; load and fuse it" in said(lora)
    others = {"unet": "vae", "vae": "text_encoder", "text_encoder": "unet"}
    kinds = {"unet": "a UNet of diffusers", "vae": "a VAE", "text_encoder": "a CLIP text encoder"}
    other = others[part]
    assert f"holds {kinds[other]}; expected the weights of a {part}" in said(load_file(folder / FILES[other]))


def test_a_config_that_describes_no_model_is_one_line(copy: Path) -> None:
    path = copy / "unet/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "norm_num_groups": 7}))
    with pytest.raises(CheckpointError, match="unet/config.json describes no unet"):
        load_checkpoint(str(copy)).check_tensors("unet")


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight"], "a LoRA"),
        (["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"], "a LoRA"),
        (["lora_unet_x.hada_w1_a"], "a LoRA"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "a ControlNet"),
        (["emb_params"], "a textual inversion"),
        (["conditioner.embedders.1.model.ln_final.weight", "model.diffusion_model.out.2.bias"], "an SDXL checkpoint"),
        (["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"], "a transformer of SD 3"),
        (["double_blocks.0.img_attn.qkv.weight"], "a transformer of FLUX"),
        (["down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight.absmax"], "quantised"),
        (["vision_model.encoder.layers.0.self_attn.q_proj.weight"], "an image encoder"),
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "a T5 text encoder"),
        (["transformer_blocks.0.attn1.to_q.weight"], "a diffusion transformer"),
        (["x", "y"], "2 tensors, e.g. x"),
        ([], "no tensors"),
    ],
)
def test_a_file_is_told_by_the_names_of_its_tensors(names: list[str], kind: str) -> None:
    assert describe(names).startswith(kind)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_headers_are_all_that_is_read(copy: Path) -> None:
    """Of gigabytes a check reads kilobytes: here a megabyte of weights is looked at, and less of it is read."""

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])

    checkpoint = load_checkpoint(str(copy))
    checkpoint.check_tensors("unet")  # imports the libraries
    size = (copy / FILES["unet"]).stat().st_size
    before = read()
    load_checkpoint(str(copy)).check_tensors("unet")
    assert read() - before < size / 2


def test_variants_are_read_from_the_names_of_files() -> None:
    names = [
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.fp16.safetensors",
        "model.bf16-00001-of-00002.safetensors",
        "model-00001-of-00002.int8.safetensors",
        "model.non_ema.bin",
        "other.fp32.safetensors",
        "model.fp16.safetensors.index.json",
    ]
    assert variants(names, "model") == ["bf16", "fp16", "int8"]
    assert variants(["model.safetensors"], "model") == []


def test_a_folder_without_weights_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no such folder"):
        find_weights(tmp_path / "none", "model")
    with pytest.raises(CheckpointError, match="it holds nothing"):
        find_weights(tmp_path, "model")
    for name in "gfedcba":
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match="it holds a, b, c, d, e, f$"):
        find_weights(tmp_path, "model")
    (tmp_path / "model.bin").touch()
    (tmp_path / "model.bin.index.json").touch()
    with pytest.raises(CheckpointError, match="model.bin.index.json is a pickle"):
        find_weights(tmp_path, "model")


def test_bytes_of_tensors_come_in_their_order_and_a_file_cut_meanwhile_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"b": torch.arange(3.0), "a": torch.ones(2, 2)}, path)
    header = read_header(path)
    found = [(name, what, b"".join(pieces)) for name, what, pieces in stored_bytes(header)]
    expected = [("a", "F32 [2, 2]", torch.ones(2, 2)), ("b", "F32 [3]", torch.arange(3.0))]
    assert found == [(name, what, tensor.numpy().tobytes()) for name, what, tensor in expected]
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match="a.safetensors: became shorter while it was read"):
        for _, _, pieces in stored_bytes(header):
            list(pieces)


def test_a_digest_is_of_the_sorted_config_and_of_every_tensor() -> None:
    tensors = [("a", "F32 [2]", [b"12", b"34"]), ("b", "F16 [1]", [b"5"])]
    whole = hashlib.sha256(b'{"x": 1, "y": [2]}' + b"a F32 [2]1234" + b"b F16 [1]5").hexdigest()
    assert tensor_digest({"y": [2], "x": 1}, tensors) == whole[:16]


def test_a_file_that_changed_is_read_again_and_another_is_not(tmp_path: Path) -> None:
    file, ran = tmp_path / "a", []

    def digest(who: str = "x") -> str:
        return digest_once(who, [file], lambda: ran.append(who) or str(len(ran)))  # type: ignore[func-returns-value]

    file.write_bytes(b"1")
    assert [digest(), digest(), digest("y"), digest()] == ["1", "1", "2", "1"]
    file.write_bytes(b"22")
    assert [digest(), digest()] == ["3", "3"]


def test_json_that_is_none_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for content, message in (("[1]", "holds no JSON object"), ("{", "is not JSON"), ("[" * 10**5, "is not JSON")):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=f"config.json {message}"):
            read_json(path)
    with pytest.raises(CheckpointError, match="config.json is not JSON"):
        path.write_bytes(b"\xff")
        read_json(path)
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_json(tmp_path)


def test_weights_that_do_not_load_are_named(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    def refuse(file: Path) -> None:
        raise OSError("no\nmemory")

    checkpoint = load_checkpoint(str(copy))
    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.safetensors: does not load \(no memory\)"):
        checkpoint.load_vae(torch.float32)
