"""Small checkpoints in the layouts people have: the original single file of SD 1.x and 2.x, shards, hub caches."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.backbone.published import VAE

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
LAYERS = 2  # of the small UNet, per block


def write_original(folder: Path, file: Path, open_clip: bool) -> None:
    """The weights of a checkpoint's ``folder`` as one ``file`` of SD 1.x, or with OpenCLIP's names (SD 2.x).

    OpenCLIP's has one layer more than the folder, which SD 2.x leaves out.
    """
    tensors = {f"model.diffusion_model.{_unet(n)}": t for n, t in load_file(folder / UNET).items()}
    for name, tensor in load_file(folder / "vae/diffusion_pytorch_model.safetensors").items():
        attends = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name)
        tensors[f"first_stage_model.{_vae(name)}"] = tensor[:, :, None, None] if attends else tensor
    text = {name.removeprefix("text_model."): tensor for name, tensor in load_file(folder / TEXT).items()}
    if open_clip:
        tensors |= _open_clip(text)
    else:
        tensors |= {f"cond_stage_model.transformer.text_model.{name}": tensor for name, tensor in text.items()}
        tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(77)[None]
    tensors["betas"] = torch.zeros(1000)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def with_attention(folder: Path, text_layers: int) -> None:
    """Give the checkpoint a VAE that attends, as the published ones do, and a text encoder of ``text_layers``."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTextModel

    shutil.rmtree(folder / "vae")
    sizes = {"block_out_channels": [8, 8, 16, 16], "layers_per_block": 1, "norm_num_groups": 4}
    AutoencoderKL(**{**VAE, **sizes}).save_pretrained(folder / "vae")
    config = CLIPTextConfig.from_pretrained(folder / "text_encoder")
    config.num_hidden_layers = text_layers
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")


def shard(file: Path, count: int, variant: str = "", index: bool = True) -> list[Path]:
    """Cut a file of weights into ``count`` shards, with or without an index."""
    tensors, stem = load_file(file), file.name.removesuffix(".safetensors")
    names = sorted(tensors)
    suffix = f".{variant}" if variant else ""
    paths, places = [], {}
    for number in range(count):
        path = file.with_name(f"{stem}{suffix}-{number + 1:05}-of-{count:05}.safetensors")
        part = names[number::count]
        save_file({name: tensors[name] for name in part}, path, {"format": "pt"})
        places |= dict.fromkeys(part, path.name)
        paths.append(path)
    if index:
        text = json.dumps({"metadata": {}, "weight_map": places})
        file.with_name(f"{stem}.safetensors.index{suffix}.json").write_text(text)
    file.unlink()
    return paths


def hub_cache(folder: Path, root: Path, repo: str, commit: str, ref: str | None = "main") -> Path:
    """The cache of the hub below ``root`` that holds ``folder`` as ``repo`` at ``commit``; its repository's folder."""
    repository = root / f"models--{repo.replace('/', '--')}"
    for path in (path for path in folder.rglob("*") if path.is_file()):
        blob = repository / "blobs" / str(path.relative_to(folder)).replace("/", "-")
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, blob)
        link = repository / "snapshots" / commit / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    if ref:
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / ref).write_text(commit)
    return repository


def _unet(name: str) -> str:
    step = LAYERS + 1
    match name.split("."):
        case ["conv_in", *rest]:
            return ".".join(["input_blocks.0.0", *rest])
        case ["time_embedding", layer, *rest]:
            return ".".join([{"linear_1": "time_embed.0", "linear_2": "time_embed.2"}[layer], *rest])
        case ["conv_norm_out", *rest]:
            return ".".join(["out.0", *rest])
        case ["conv_out", *rest]:
            return ".".join(["out.2", *rest])
        case ["down_blocks", i, "downsamplers", "0", "conv", *rest]:
            return ".".join([f"input_blocks.{(int(i) + 1) * step}.0.op", *rest])
        case ["down_blocks", i, "resnets", j, *rest]:
            return ".".join([f"input_blocks.{1 + int(i) * step + int(j)}.0", _resnet(rest)])
        case ["down_blocks", i, "attentions", j, *rest]:
            return ".".join([f"input_blocks.{1 + int(i) * step + int(j)}.1", *rest])
        case ["mid_block", "resnets", j, *rest]:
            return ".".join([f"middle_block.{2 * int(j)}", _resnet(rest)])
        case ["mid_block", "attentions", "0", *rest]:
            return ".".join(["middle_block.1", *rest])
        case ["up_blocks", i, "upsamplers", "0", *rest]:
            return ".".join([f"output_blocks.{int(i) * step + LAYERS}.{1 if i == '0' else 2}", *rest])
        case ["up_blocks", i, "resnets", j, *rest]:
            return ".".join([f"output_blocks.{int(i) * step + int(j)}.0", _resnet(rest)])
        case ["up_blocks", i, "attentions", j, *rest]:
            return ".".join([f"output_blocks.{int(i) * step + int(j)}.1", *rest])
    raise AssertionError(name)


def _resnet(rest: list[str]) -> str:
    names = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "time_emb_proj": "emb_layers.1",
        "conv_shortcut": "skip_connection",
    }
    return ".".join([names[rest[0]], *rest[1:]])


def _vae(name: str) -> str:
    for pattern, replacement in (
        (r"conv_norm_out", "norm_out"),
        (r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2"),
        (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
        (r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample"),
        (r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}"),
        (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
        (r"mid_block\.attentions\.0\.group_norm", "mid.attn_1.norm"),
        (r"mid_block\.attentions\.0\.to_out\.0", "mid.attn_1.proj_out"),
        (r"mid_block\.attentions\.0\.to_(\w)", r"mid.attn_1.\1"),
        (r"conv_shortcut", "nin_shortcut"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _open_clip(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole = {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        "final_layer_norm.weight": "ln_final.weight",
        "final_layer_norm.bias": "ln_final.bias",
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    parts["self_attn.out_proj"] = "attn.out_proj"
    found = {new: text[old] for old, new in whole.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in text if name.startswith("encoder.layers."))
    for layer in range(layers + 1):
        old, new = f"encoder.layers.{min(layer, layers - 1)}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            for before, after in parts.items():
                found[f"{new}.{after}.{kind}"] = text[f"{old}.{before}.{kind}"]
            qkv = [text[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            found[f"{new}.attn.in_proj_{kind}"] = torch.cat(qkv)
    width = found["ln_final.weight"].shape[0]
    found |= {"text_projection": torch.eye(width), "logit_scale": torch.zeros(())}
    return {f"cond_stage_model.model.{name}": tensor.clone() for name, tensor in found.items()}
