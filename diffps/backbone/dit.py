"""What diffusion transformers have in common as priors: VAE, noise, texts, a transformer over patches of the latent."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from diffps.backbone.configs import ConfigPart
from diffps.backbone.flops import count_flops
from diffps.backbone.parts import DiffusersModel, empty_model
from diffps.backbone.parts_folder import PartsFolder
from diffps.backbone.prior import Conditions, Encoder, Pass
from diffps.errors import CheckpointError, ConfigError
from diffps.taps import LATENT_STRIDE, TapSpec, check_taps

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from diffps.backbone.grid_reader import GridReader
    from diffps.backbone.latents import NoiseKey
    from diffps.backbone.prompts import TextSide


class Tokens(NamedTuple):
    """A prompt's token ``ids`` by text encoder, and each word's ``places`` in the text that the model attends to."""

    ids: tuple[list[int], ...]
    places: Mapping[str, list[int]]


@dataclass(frozen=True)
class DiffusionTransformer(ABC):
    """See :class:`~diffps.backbone.prior.Prior`; what a family adds to it is abstract here."""

    folder: PartsFolder

    # What the family's folders hold.
    PARTS: ClassVar[Mapping[str, ConfigPart]]

    def __post_init__(self) -> None:
        vae = self.folder.config("vae")
        stride = 2 ** (len(vae["block_out_channels"]) - 1)
        if stride != LATENT_STRIDE:
            raise CheckpointError(f"checkpoint {self.name}: its VAE shrinks {stride} times, expected {LATENT_STRIDE}")
        if self.config["in_channels"] != vae["latent_channels"]:
            raise CheckpointError(
                f"checkpoint {self.name}: its transformer takes {self.config['in_channels']} channels and its VAE "
                f"gives {vae['latent_channels']}; models for inpainting want more than an image"
            )

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def latent_channels(self) -> int:
        return int(self.folder.config("vae")["latent_channels"])

    @property
    def multiple(self) -> int:
        return LATENT_STRIDE * int(self.config["patch_size"])

    @property
    def largest(self) -> int | None:
        """See :class:`~diffps.backbone.prior.Prior`."""
        return None

    @cached_property
    def config(self) -> dict[str, Any]:
        """The transformer's."""
        return self.folder.config("transformer")

    @property
    @abstractmethod
    def taps(self) -> Mapping[str, TapSpec]: ...

    @property
    @abstractmethod
    def last_timestep(self) -> int: ...

    @property
    @abstractmethod
    def schedule(self) -> dict[str, Any]:
        """What decides how much noise a timestep has."""

    @abstractmethod
    def sides(self) -> "list[TextSide]":
        """Tokenizers and text encoders, none of which is loaded yet."""

    @abstractmethod
    def tokenise(self, sides: "Sequence[TextSide]", conditions: Conditions) -> Tokens:
        """Prompt and words. Raises PromptError."""

    @abstractmethod
    def texts(self, sides: "Sequence[TextSide]", tokens: Tokens) -> "tuple[Tensor, ...]":
        """What the transformer is given of a prompt, (1, ...) each."""

    @abstractmethod
    def empty_texts(self) -> "tuple[Tensor, ...]":
        """The like on the meta device."""

    @abstractmethod
    def noised(self, latents: "Tensor", timestep: int, conditions: Conditions, keys: "Sequence[NoiseKey]") -> "Tensor":
        """Clean ``latents`` (B, c, h, w) with the noise of ``timestep``, one key per image."""

    @staticmethod
    @abstractmethod
    def forward(model: DiffusersModel, latents: "Tensor", timestep: "Tensor", texts: "Sequence[Tensor]") -> object:
        """Run the transformer; ``texts`` are (1, ...)."""

    def digests(self) -> Mapping[str, str]:
        return self.folder.digests()

    def check_tensors(self) -> None:
        self.folder.check_tensors()

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        return {"vae": self.digests()["vae"], "dtype": dtype}

    def pass_recipe(self, conditions: Conditions) -> dict[str, Any]:
        recipe: dict[str, Any] = {
            **{part: digest for part, digest in self.digests().items() if part != "vae"},
            "schedule": self.schedule,
            "prompt": conditions.prompt,
            "token_ids": list(self._tokens(conditions).ids),
            "latent_rule": conditions.latent,
            "noise": conditions.noise,
        }
        if conditions.noise == "seeded" or conditions.latent == "sample":
            recipe["seed"] = conditions.seed
        return recipe

    def tokens(self, conditions: Conditions) -> Mapping[str, Sequence[int]]:
        return self._tokens(conditions).places

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> "Tensor":
        from diffps.backbone.prompts import embed_words

        return embed_words(self.sides(), words, encoder)

    def describe(self, conditions: Conditions) -> Iterator[str]:
        yield (
            f"checkpoint: {self.name} at {self.folder.root}, {self.config['num_layers']} blocks of "
            f"{self.config['num_attention_heads'] * self.config['attention_head_dim']} channels, {len(self.taps)} taps"
        )
        yield "  digests: " + ", ".join(f"{part} {digest}" for part, digest in self.digests().items())
        yield f"  prompt {conditions.prompt!r}: words at token positions {dict(self.tokens(conditions))}"

    def flops(self, canvas: tuple[int, int], taps: Sequence[str]) -> Mapping[str, int]:
        import torch

        from diffps.backbone.grid_reader import GridReader

        vae = empty_model("vae", self.folder.config("vae")).eval()
        model = empty_model(self.folder.parts["transformer"], self.config).eval()
        pixels = torch.empty(1, 3, *canvas, device="meta")
        height, width = (side // LATENT_STRIDE for side in canvas)
        latents = torch.empty(1, self.latent_channels, height, width, device="meta")
        with GridReader(model, [self.taps[tap] for tap in taps], self.forward, {}) as reader:
            count = count_flops(lambda: reader.run(latents, torch.zeros(1, device="meta"), self.empty_texts()))
        return {"VAE": count_flops(lambda: vae.encode(pixels)), "transformer": count}

    def open_encoder(self, device: "torch.device | str", dtype: str) -> Encoder:
        from diffps.backbone.frozen import torch_dtype
        from diffps.backbone.latents import LatentEncoder

        return LatentEncoder(self.folder.load("vae", torch_dtype(dtype)), device)

    def open_pass(
        self,
        taps: Sequence[str],
        conditions: Conditions,
        device: "torch.device | str",
        dtype: str,
        *,
        compiled: bool = False,
    ) -> Pass:
        from diffps.backbone.frozen import torch_dtype
        from diffps.backbone.grid_reader import GridReader, cut

        check_taps(taps, self.taps)
        sides = self.sides()
        tokens = self.tokenise(sides, conditions)
        texts = self.texts(sides, tokens)
        del sides  # T5 is larger than all the rest
        specs = [spec for spec in self.taps.values() if spec.id in taps]
        model = self.folder.load("transformer", torch_dtype(dtype)).to(device)
        reader = GridReader(
            cut(model, specs) if compiled else model, specs, self.forward, tokens.places, conditions.head
        )
        given = [text.to(device, torch_dtype(dtype)) for text in texts]
        return TransformerPass(self, reader, given, conditions, compiled=compiled)

    @cached_property
    def _known(self) -> dict[Conditions, Tokens]:
        return {}

    def _tokens(self, conditions: Conditions) -> Tokens:
        if conditions not in self._known:
            self._known[conditions] = self.tokenise(self.sides(), conditions)
        return self._known[conditions]


class TransformerPass:
    """A diffusion transformer from the VAE's moments on."""

    def __init__(
        self,
        prior: DiffusionTransformer,
        reader: "GridReader",
        texts: "Sequence[Tensor]",
        conditions: Conditions,
        *,
        compiled: bool,
    ) -> None:
        vae = prior.folder.config("vae")
        self._factors = float(vae["scaling_factor"]), float(vae.get("shift_factor") or 0.0)
        self._prior, self._reader, self._texts = prior, reader, list(texts)
        self._conditions, self._compiled = conditions, compiled

    def __enter__(self) -> "TransformerPass":
        import torch

        self._reader.__enter__()
        self._run = torch.compile(self._reader.run) if self._compiled else self._reader.run
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.__exit__()

    def features(self, starts: "Tensor", timestep: int, keys: "Sequence[NoiseKey]") -> "dict[str, Tensor]":
        """Taps and maps from moments (B, h, w, c), noised to ``timestep``."""
        import torch

        from diffps.backbone.latents import scaled_latents

        if not 0 <= timestep <= self._prior.last_timestep:
            raise ConfigError(f"timestep {timestep}: {self._prior.name} has 0 to {self._prior.last_timestep}")
        rule, text = self._conditions, self._texts[0]
        with torch.inference_mode():
            latents = scaled_latents(starts, rule.latent, keys, rule.seed, *self._factors)
            noisy = self._prior.noised(latents.to(text.device), timestep, rule, keys)
            steps = torch.full((len(noisy),), float(timestep), device=text.device)
            return self._run(noisy.to(text.dtype), steps, self._texts, not self._compiled)
