"""PixArt-Sigma and Stable Diffusion 3, small and random: folders in diffusers' layout, T5 with its tokenizer too."""

import shutil
from pathlib import Path
from typing import Any

import torch

T5_WIDTH = 48
CLIP_WIDTHS = (16, 24)
WORDS = ("a", "person", "head", "shirts", "pants", "shoes", "in", "the", "street")

PIXART = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 3,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 32,
    "caption_channels": T5_WIDTH,
    "patch_size": 2,
    "sample_size": 16,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
SD3 = {
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "num_layers": 3,
    "in_channels": 4,
    "out_channels": 4,
    "joint_attention_dim": T5_WIDTH,
    "caption_projection_dim": 32,
    "pooled_projection_dim": sum(CLIP_WIDTHS),
    "patch_size": 2,
    "sample_size": 16,
    "pos_embed_max_size": 20,
}
# As SD 3.5 medium differs from SD 3: norms of q and k, and blocks that attend to the image once more.
SD35 = {**SD3, "dual_attention_layers": [0, 1], "qk_norm": "rms_norm"}


def write_pixart(base: Path, folder: Path, **changes: Any) -> Path:
    """Into ``folder`` a checkpoint with the VAE and schedule of ``base``, one of the built-in ones."""
    from diffusers import PixArtTransformer2DModel

    _begin(base, folder)
    shutil.copytree(base / "scheduler", folder / "scheduler")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        _save(PixArtTransformer2DModel(**{**PIXART, **changes}), folder / "transformer")
        write_t5(folder, "")
    return folder


def write_sd3(base: Path, folder: Path, **config: Any) -> Path:
    """Into ``folder`` a checkpoint with the VAE and CLIP's words of ``base``; ``config`` is the transformer's."""
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

    _begin(base, folder)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer_2")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        _save(SD3Transformer2DModel(**(config or SD3)), folder / "transformer")
        for part, width in zip(("text_encoder", "text_encoder_2"), CLIP_WIDTHS, strict=True):
            clip = CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=4,
                projection_dim=width,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
            CLIPTextModelWithProjection(clip).save_pretrained(folder / part)
        write_t5(folder, "_3")
    return folder


def write_t5(folder: Path, number: str) -> None:
    """text_encoder and tokenizer, with ``number`` behind their names."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in WORDS), *"abcdefghijklmnopqrstuvwxyz"]
    backend = Tokenizer(models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.save_pretrained(folder / f"tokenizer{number}")
    config = T5Config(
        vocab_size=len(pieces),
        d_model=T5_WIDTH,
        d_kv=12,
        d_ff=96,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    T5EncoderModel(config).save_pretrained(folder / f"text_encoder{number}")


def _begin(base: Path, folder: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    shutil.copytree(base / "vae", folder / "vae")
    (folder / "model_index.json").write_text("{}")


def _save(model: Any, folder: Path) -> None:
    """With AdaLN and gates that are not near zero, as a trained model's are not."""
    for name, value in model.named_parameters():
        if "scale_shift_table" in name or "linear" in name:
            torch.nn.init.normal_(value, std=0.3)
    model.save_pretrained(folder)
