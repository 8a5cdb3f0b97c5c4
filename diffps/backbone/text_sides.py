"""Text encoders of a folder of parts, not loaded before they are needed."""

from pathlib import Path
from typing import TYPE_CHECKING

from diffps.backbone.parts_folder import PartsFolder
from diffps.backbone.tokenizers import clip_tokenizer, t5_tokenizer

if TYPE_CHECKING:
    from diffps.backbone.parts import DiffusersModel
    from diffps.backbone.prompts import TextSide


def clip_side(folder: PartsFolder, part: str, length: int) -> "TextSide":
    """CLIP in ``part`` of ``folder``, by its last layer but one; prompts are padded to ``length`` tokens."""
    from diffps.backbone.prompts import TextSide

    config = folder.config(part)
    tokenizer = clip_tokenizer(_tokenizer(folder, part), folder.name, int(config["vocab_size"]))
    width = int(config["hidden_size"])
    return TextSide(folder.name, tokenizer, lambda: _load(folder, part), width=width, length=length, last_but_one=True)


def t5_side(folder: PartsFolder, part: str, length: int, *, pads: bool) -> "TextSide":
    """T5 in ``part`` of ``folder``, for prompts of at most ``length`` tokens."""
    from diffps.backbone.prompts import TextSide

    tokenizer = t5_tokenizer(_tokenizer(folder, part), folder.name)
    width = int(folder.config(part)["d_model"])
    return TextSide(folder.name, tokenizer, lambda: _load(folder, part), width=width, length=length, pads=pads)


def _load(folder: PartsFolder, part: str) -> "DiffusersModel":
    import torch

    return folder.load(part, torch.float32)


def _tokenizer(folder: PartsFolder, part: str) -> Path:
    return folder.root / part.replace("text_encoder", "tokenizer")
