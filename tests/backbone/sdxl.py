"""SDXL's topology, small: 752 taps, two text encoders with paddings of their own."""

import shutil
from pathlib import Path

import torch

from diffps.taps import SDXL_UNET

TEXT = (16, 24)  # widths of the two text encoders
SIZES = 8  # of each of the six size numbers


def write_sdxl(base: Path, folder: Path) -> Path:
    """Into ``folder`` a checkpoint with VAE, scheduler, tokenizer of ``base``, one of the built-in ones."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    for part in ("vae", "scheduler"):
        shutil.copytree(base / part, folder / part)
    shutil.copy(base / "model_index.json", folder)
    tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
    tokenizer.save_pretrained(folder / "tokenizer_2")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder / "tokenizer")
    widths = {
        "block_out_channels": (8, 16, 16),
        "attention_head_dim": (1, 2, 2),
        "cross_attention_dim": sum(TEXT),
        "norm_num_groups": 4,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": SIZES,
        "projection_class_embeddings_input_dim": 6 * SIZES + TEXT[1],
        "sample_size": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        UNet2DConditionModel(**{**SDXL_UNET, **widths}).save_pretrained(folder / "unet")
        for part, kind, width in (
            ("text_encoder", CLIPTextModel, TEXT[0]),
            ("text_encoder_2", CLIPTextModelWithProjection, TEXT[1]),
        ):
            config = CLIPTextConfig(
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
            kind(config).save_pretrained(folder / part)
    return folder
