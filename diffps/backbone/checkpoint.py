"""A Stable Diffusion checkpoint in diffusers' layout: found, fetched, identified by its weights, loaded part by part.

Only safetensors are read. A checkpoint is known by the digest of its weights and configs, never by its name.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffps.backbone.configs import ConfigPart, complete
from diffps.backbone.locate import Place, find_checkpoint, find_unet
from diffps.backbone.parts import DiffusersModel, check_tensors, load
from diffps.backbone.schedules import alphas_cumprod, schedule_fields
from diffps.backbone.tokenizers import clip_tokenizer
from diffps.backbone.weights import Weights, find_weights, read_json, variants
from diffps.errors import CheckpointError
from diffps.taps import LATENT_STRIDE, TapSpec, tap_table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Part = Literal["unet", "vae", "text_encoder", "text_encoder_2"]

_STEMS: dict[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_TOKENIZERS: dict[Part, str] = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. Parts load when asked for; nothing is read before.

    ``folder`` is in diffusers' layout; ``name`` is what the user called it; ``unet_weights`` is a safetensors file, or
    a folder with config.json and weights, that takes the place of the folder's own UNet weights. ``file`` in the
    original layout takes the place of all weights of the folder; ``variant`` (fp16) names those to take.
    """

    folder: Path
    name: str
    unet_weights: Path | None = None
    file: Path | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        unet = self.unet_config
        if (
            unet["addition_embed_type"] not in (None, "text_time")
            or unet["class_embed_type"]
            or unet["num_class_embeds"]
        ):
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet wants added conditions (an upscaler, Kandinsky); "
                "supported are SD 1.x, SD 2.x, SD-Turbo, CleanDIFT and SDXL"
            )
        for part in self.parts:
            self.weights(part)
        vae = self.config("vae")
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        if stride != LATENT_STRIDE:
            raise CheckpointError(f"checkpoint {self.name}: its VAE shrinks {stride} times, expected {LATENT_STRIDE}")
        if unet["in_channels"] != vae["latent_channels"]:
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet takes {unet['in_channels']} channels and its VAE gives "
                f"{vae['latent_channels']}; models for inpainting or depth want more than an image"
            )
        widths = [int(self.config(part)["hidden_size"]) for part in self.text_parts]
        if unet["cross_attention_dim"] != sum(widths):
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet wants text embeddings of width {unet['cross_attention_dim']}, "
                f"its text encoder gives {' + '.join(map(str, widths))}; the two are of different models"
            )

    @property
    def is_xl(self) -> bool:
        """True for SDXL: two text encoders, and a UNet that is told the prompt as a whole and the image's size."""
        return bool(self.unet_config["addition_embed_type"] == "text_time")

    @property
    def text_parts(self) -> tuple[Part, ...]:
        """The text encoders, whose embeddings the UNet gets side by side."""
        return ("text_encoder", "text_encoder_2") if self.is_xl else ("text_encoder",)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every part that has weights."""
        return ("unet", "vae", *self.text_parts)

    def config(self, part: ConfigPart) -> dict[str, Any]:
        """The part's config, with diffusers' defaults for what its file leaves out. Raises CheckpointError."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.folder / part / name
        if part == "unet" and self.unet_weights is not None and self.unet_weights.is_dir():
            path = self.unet_weights / name
        return complete(part, read_json(path), f"checkpoint {self.name}: {path}")

    @property
    def unet_config(self) -> dict[str, Any]:
        return self.config("unet")

    @cached_property
    def taps(self) -> dict[str, TapSpec]:
        """Every tap of this checkpoint's UNet, by id, in forward order."""
        return tap_table(self.unet_config)

    @cached_property
    def schedule(self) -> dict[str, Any]:
        """The fields of the scheduler's config that decide how much noise a timestep has."""
        return schedule_fields(self.config("scheduler"))

    def alphas_cumprod(self) -> "Tensor":
        """alpha_bar of every UNet timestep, (num_train_timesteps,) float32, by the checkpoint's own schedule."""
        return alphas_cumprod(self.schedule)

    def weights(self, part: Part) -> Weights:
        """Where the part's tensors lie. Raises CheckpointError where there are none."""
        config = self.config(part)
        if part == "unet" and self.unet_weights is not None:
            path = self.unet_weights
            files = (path,) if path.is_file() else find_weights(path, _STEMS[part], self.variant)
        elif self.file is not None:
            files = (self.file,)
        else:
            files = find_weights(self.folder / part, _STEMS[part], self.variant)
        return Weights(part, files, config)

    def digest(self, part: Part) -> str:
        """SHA-256 over a part's config and tensors (names, dtypes, shapes, bytes), 16 hex digits.

        File names, shards, the original layout, library versions noted in the config, defaults it states and
        safetensors metadata do not enter.
        """
        if part not in self._digests:
            self._digests[part] = self.weights(part).digest()
        return self._digests[part]

    def digests(self) -> dict[str, str]:
        """Who this checkpoint is, wherever it lies: the digest of every part."""
        return {part: self.digest(part) for part in self.parts}

    def check_tensors(self, part: Part | None = None) -> None:
        """Compare the tensors' names, shapes and dtypes with the config, of ``part`` or all: headers only.

        Raises CheckpointError that says what the files hold: a LoRA, another model, a weight missing or of another
        shape.
        """
        for each in self.parts if part is None else (part,):
            check_tensors(self.weights(each))

    def load_unet(self, dtype: "torch.dtype") -> DiffusersModel:
        """The UNet in ``dtype`` on the CPU, frozen, in eval mode. Raises CheckpointError."""
        return load(self.weights("unet"), dtype)

    def load_vae(self, dtype: "torch.dtype") -> DiffusersModel:
        """The VAE in ``dtype`` on the CPU, frozen, in eval mode. Raises CheckpointError."""
        return load(self.weights("vae"), dtype)

    def load_text_encoder(self, part: Part = "text_encoder") -> DiffusersModel:
        """A text encoder in float32 on the CPU: it runs once per run, and this way gives the same bytes anywhere."""
        import torch

        return load(self.weights(part), torch.float32)

    def load_tokenizer(self, part: Part = "text_encoder") -> DiffusersModel:
        """A text encoder's tokenizer with the pad token its files name: special_tokens_map.json's where it exists.

        Raises CheckpointError when the text encoder has no such token: the padding changes every attention map.
        """
        return clip_tokenizer(self.folder / _TOKENIZERS[part], self.name, int(self.config(part)["vocab_size"]))

    @cached_property
    def _digests(self) -> dict[Part, str]:
        return {}


def load_checkpoint(
    name: str,
    revision: str | None = None,
    unet: str | None = None,
    variant: str | None = None,
    hub: str | None = None,
) -> Checkpoint:
    """Find a checkpoint: ``builtin:<name>``, or a folder in diffusers' layout, a repository of a hub cache
    (``models--owner--name``), a safetensors file in the original layout, or a hub id (fetched into the hub's cache).

    ``variant`` names the weights to take where a folder has several (fp16). ``hub`` is the repository that is fetched
    where ``name`` is a folder that is not there; ``revision`` is of the repository.
    ``unet`` names UNet weights to use instead (CleanDIFT): a safetensors file, a folder, a hub id with a ``unet/``
    folder, or a file of a hub repository (``CompVis/cleandift/<file>.safetensors``). Raises CheckpointError with the
    way out.
    """
    return checkpoint_at(find_checkpoint(name, revision, variant, hub), name, unet, variant)


def checkpoint_at(place: Place, name: str, unet: str | None, variant: str | None) -> Checkpoint:
    """The checkpoint that lies at ``place``; see :func:`load_checkpoint`."""
    other = None if unet is None else find_unet(unet, variant)
    checkpoint = Checkpoint(place.folder, name, other, place.file, variant)
    _check_variant(checkpoint)
    return checkpoint


def _check_variant(checkpoint: Checkpoint) -> None:
    """A variant that no part has is a slip; a part without it has plain weights."""
    if checkpoint.variant is None or checkpoint.file is not None:
        return
    folders = [(checkpoint.folder / part, _STEMS[part]) for part in checkpoint.parts]
    found = {each for folder, stem in folders for each in variants((path.name for path in folder.iterdir()), stem)}
    if checkpoint.variant not in found:
        raise CheckpointError(
            f"checkpoint {checkpoint.name}: no part has weights of the variant {checkpoint.variant!r}; "
            f"there are {', '.join(sorted(found)) or 'none'}"
        )
