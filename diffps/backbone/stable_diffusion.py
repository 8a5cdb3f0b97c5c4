"""Stable Diffusion 1.x, 2.x and XL as a prior: VAE, noise, prompt, UNet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.configs import ConfigPart
from diffps.backbone.flops import count_flops
from diffps.backbone.prior import Conditions, Encoder, Pass, overflow
from diffps.errors import ConfigError
from diffps.geometry import SIDE_MULTIPLE
from diffps.taps import LATENT_STRIDE, TapSpec, check_taps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffps.backbone.frozen import Extractor
    from diffps.backbone.latents import NoiseKey
    from diffps.backbone.prompts import EncodedPrompt, PromptEncoder

TOKENS = 77  # a prompt's, in every text encoder of CLIP


@dataclass(frozen=True)
class StableDiffusion:
    """See :class:`~diffps.backbone.prior.Prior`."""

    checkpoint: Checkpoint

    multiple = SIDE_MULTIPLE
    largest = None

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        return self.checkpoint.taps

    @property
    def latent_channels(self) -> int:
        return int(self.checkpoint.config("vae")["latent_channels"])

    @property
    def last_timestep(self) -> int:
        return int(self.checkpoint.schedule["num_train_timesteps"]) - 1

    def digests(self) -> Mapping[str, str]:
        return self.checkpoint.digests()

    def check_tensors(self) -> None:
        self.checkpoint.check_tensors()

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        # Published VAEs of SD 1.x and 2.x say nothing of it, and do not overflow.
        if dtype == "float16" and self.checkpoint.is_xl and self.checkpoint.config("vae")["force_upcast"]:
            raise ConfigError(overflow(self.name))
        return {"vae": self.checkpoint.digest("vae"), "dtype": dtype}

    def pass_recipe(self, conditions: Conditions) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            "unet": self.checkpoint.digest("unet"),
            **{part: self.checkpoint.digest(part) for part in self.checkpoint.text_parts},
            "schedule": self.checkpoint.schedule,
            "prompt": conditions.prompt,
            "token_ids": list(self.encode(conditions).ids),
            "pad_token": list(self.prompts.pad_token),
            **({"pad_tokens": [list(token) for token in self.prompts.pad_tokens]} if self.checkpoint.is_xl else {}),
            "latent_rule": conditions.latent,
            "noise": conditions.noise,
        }
        if conditions.noise == "seeded" or conditions.latent == "sample":
            recipe["seed"] = conditions.seed
        return recipe

    def tokens(self, conditions: Conditions) -> Mapping[str, tuple[int, int]]:
        return self.encode(conditions).spans

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> "Tensor":
        return self.prompts.word_embeddings(words, encoder)

    def describe(self, conditions: Conditions) -> Iterator[str]:
        checkpoint, unet = self.checkpoint, self.checkpoint.unet_config
        channels = "-".join(map(str, unet["block_out_channels"]))
        sizes = f"UNet of {channels} channels, text embeddings of {unet['cross_attention_dim']}"
        yield f"checkpoint: {self.name} at {checkpoint.file or checkpoint.folder}, {sizes}"
        if checkpoint.unet_weights is not None:
            yield f"  UNet weights from {checkpoint.unet_weights}"
        yield "  digests: " + ", ".join(f"{part} {digest}" for part, digest in self.digests().items())
        padding = ", ".join(f"{word!r} ({number})" for word, number in self.prompts.pad_tokens)
        yield f"  pad token {padding}; {len(self.taps)} taps"
        places = {word: tuple(span) for word, span in self.tokens(conditions).items()}
        yield f"  prompt {conditions.prompt!r}: words at token positions {places}"

    def flops(self, canvas: tuple[int, int], taps: Sequence[str]) -> Mapping[str, int]:
        import torch

        from diffps.backbone.capture import Request, TapReader
        from diffps.backbone.parts import empty_model

        def count(part: ConfigPart, run: Callable[[Any], object]) -> int:
            model = empty_model(part, self.checkpoint.config(part)).eval()
            return count_flops(lambda: run(model))

        height, width = (side // LATENT_STRIDE for side in canvas)
        pixels = torch.empty(1, 3, *canvas, device="meta")
        latents = torch.empty(1, self.latent_channels, height, width, device="meta")
        context = torch.empty(1, TOKENS, self.checkpoint.unet_config["cross_attention_dim"], device="meta")
        added = None
        if self.checkpoint.is_xl:
            width = int(self.checkpoint.config("text_encoder_2")["projection_dim"])
            added = {"text_embeds": torch.empty(1, width, device="meta"), "time_ids": torch.empty(1, 6, device="meta")}

        def read(unet: Any) -> None:
            with TapReader(unet, self.taps, Request(tuple(taps))) as reader:
                reader.run(latents, torch.zeros(1, device="meta"), context, added=added)

        return {"VAE": count("vae", lambda vae: vae.encode(pixels)), "UNet": count("unet", read)}

    def open_encoder(self, device: "torch.device | str", dtype: str) -> Encoder:
        from diffps.backbone.frozen import torch_dtype
        from diffps.backbone.latents import LatentEncoder

        return LatentEncoder(self.checkpoint.load_vae(torch_dtype(dtype)), device)

    def open_pass(
        self,
        taps: Sequence[str],
        conditions: Conditions,
        device: "torch.device | str",
        dtype: str,
        *,
        compiled: bool = False,
    ) -> Pass:
        from diffps.backbone.capture import Request
        from diffps.backbone.frozen import Extractor, on_device, torch_dtype

        check_taps(taps, self.taps)
        encoded = self.encode(conditions)
        unet = on_device(self.checkpoint.load_unet(torch_dtype(dtype)), device)
        request = Request(tuple(taps), encoded.spans, conditions.head)
        alphas = self.checkpoint.alphas_cumprod()
        extractor = Extractor(
            unet, dict(self.taps), alphas, request, encoded.embedding, pooled=encoded.pooled, compiled=compiled
        )
        return UNetPass(extractor, conditions, self.checkpoint.config("vae"))

    @cached_property
    def prompts(self) -> "PromptEncoder":
        """Tokenizer and text encoder, loaded when first asked."""
        from diffps.backbone.prompts import PromptEncoder

        return PromptEncoder(self.checkpoint)

    def encode(self, conditions: Conditions) -> "EncodedPrompt":
        """The prompt as the UNet gets it. Raises PromptError."""
        return self.prompts.encode(conditions.prompt, conditions.words)


class UNetPass:
    """A UNet from the VAE's moments on."""

    def __init__(self, extractor: "Extractor", conditions: Conditions, vae: Mapping[str, Any]) -> None:
        self._extractor, self._conditions = extractor, conditions
        self._factors = float(vae["scaling_factor"]), float(vae.get("shift_factor") or 0.0)

    def __enter__(self) -> "UNetPass":
        self._extractor.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._extractor.__exit__(None, None, None)

    def features(self, starts: "Tensor", timestep: int, keys: "Sequence[NoiseKey]") -> "dict[str, Tensor]":
        """Taps and maps from moments (B, h, w, 8), noised to ``timestep``."""
        from diffps.backbone.latents import scaled_latents

        rule = self._conditions
        latents = scaled_latents(starts, rule.latent, keys, rule.seed, *self._factors)
        return self._extractor.features(latents, timestep, rule.noise, keys, rule.seed)
