"""The parts of a small checkpoint with Stable Diffusion 2.1's topology: every tap id of SD 2.1 is valid on its UNet."""

import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffps.durable import sync
from diffps.errors import ConfigError

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
_RECIPE = "recipe.json"
_VERSION = 1  # of what make_random writes; another number makes it anew


@dataclass(frozen=True, kw_only=True, slots=True)
class Widths:
    """Channels per level, outermost first (level 3 of the up path is the outermost), and of the text embedding."""

    unet: tuple[int, int, int, int] = (32, 64, 96, 96)
    """Channels of the UNet per level, outermost first."""

    heads: tuple[int, int, int, int] = (1, 2, 3, 3)
    """Attention heads per level."""

    text: int = 64
    """Width of the text embedding."""

    vae: tuple[int, int, int, int] = (16, 16, 32, 32)
    """Channels of the VAE per level."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The trainable parts of a checkpoint and their tokenizer: diffusers and transformers models on the CPU."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any


def build(widths: Widths, seed: int) -> Parts:
    """Random weights, but for the VAE, which starts as a colour codec. Does not touch torch's own generator."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from diffps.backbone.builtin.codec import wire_colour_codec
    from diffps.backbone.builtin.vocabulary import TOKENS, make_tokenizer

    tokenizer = make_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet: Any = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=widths.unet,
            attention_head_dim=widths.heads,
            cross_attention_dim=widths.text,
            norm_num_groups=8,
            layers_per_block=2,
            use_linear_projection=True,
            down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        )
        text_encoder: Any = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=widths.text,
                intermediate_size=2 * widths.text,
                num_hidden_layers=1,
                num_attention_heads=4,
                max_position_embeddings=TOKENS,
                hidden_act="gelu",
                projection_dim=widths.text,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
        vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=widths.vae,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=256,
            scaling_factor=1.0,
            mid_block_add_attention=False,
        )
    wire_colour_codec(vae)
    return Parts(unet.eval(), vae.eval(), text_encoder.eval(), tokenizer)


def save_checkpoint(parts: Parts, folder: Path, recipe: dict[str, Any]) -> None:
    """Write ``parts`` to ``folder`` in diffusers' layout, whole or not at all; what lay there is replaced.

    ``recipe`` (JSON) goes beside them as recipe.json.
    """
    import transformers.utils.logging
    from diffusers import DDIMScheduler

    transformers.utils.logging.disable_progress_bar()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in ("unet", "vae", "text_encoder", "tokenizer"):
            getattr(parts, name).save_pretrained(temporary / name)
        _strip_names(temporary)
        scheduler: Any = DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
        scheduler.save_pretrained(temporary / "scheduler")
        (temporary / "model_index.json").write_text(json.dumps(_model_index(), indent=2) + "\n")
        (temporary / _RECIPE).write_text(json.dumps(recipe, indent=2) + "\n")
        for path in (temporary, *temporary.rglob("*")):  # temporary folders and safetensors are private
            path.chmod(0o755 if path.is_dir() else 0o644)
            sync(path)
        _replace(temporary, folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def make_random(folder: Path, widths: Widths | None = None, seed: int = 0) -> Path:
    """The checkpoint of random weights at ``folder``, made in a few seconds where it does not lie yet."""
    widths = widths or Widths()
    recipe = json.loads(json.dumps({"version": _VERSION, "seed": seed, "widths": asdict(widths)}))
    if read_recipe(folder) != recipe:
        save_checkpoint(build(widths, seed), folder, recipe)
    return folder


def read_recipe(folder: Path) -> dict[str, Any] | None:
    """The recipe that a checkpoint of ours was made by; None where there is none."""
    try:
        recipe = json.loads((folder / _RECIPE).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return recipe if isinstance(recipe, dict) else None


def check_unseen(folder: Path, seed: int) -> None:
    """Raises ConfigError where scenes drawn from ``seed`` show the persons and cameras that the checkpoint in
    ``folder``, one of ours trained on drawn scenes, learned from or was measured on."""
    trained = (read_recipe(folder) or {}).get("pretrain", {}).get("seed")
    if trained is not None and seed in (trained, trained + 1):
        raise ConfigError(
            f"index.streets.seed {seed}: draws the persons and cameras that the checkpoint {folder.name} learned from "
            f"or was measured on (seeds {trained}, {trained + 1}); choose another"
        )


def _replace(temporary: Path, folder: Path) -> None:
    """Two processes may make the same folder at once; the one that comes second replaces equal with equal."""
    for _ in range(3):
        try:
            temporary.rename(folder)
            return
        except OSError:
            old = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            if folder.exists():
                folder.replace(old / "folder")
            shutil.rmtree(old, ignore_errors=True)
    raise OSError(f"{folder} cannot be replaced; is another process writing it?")


def _strip_names(folder: Path) -> None:
    """Drop the path a part was once loaded from: the same weights have the same files wherever they were made."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        config.pop("_name_or_path", None)
        path.write_text(json.dumps(config, indent=2) + "\n")


def _model_index() -> dict[str, Any]:
    from diffusers import __version__

    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": __version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
