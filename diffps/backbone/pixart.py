"""PixArt-Sigma as a prior: T5's text in cross-attention, the noise schedule of a diffusion model."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from diffps.backbone.configs import ConfigPart, complete
from diffps.backbone.dit import DiffusionTransformer, Tokens
from diffps.backbone.dit_taps import pixart_table
from diffps.backbone.parts import DiffusersModel
from diffps.backbone.prior import Conditions, overflow
from diffps.backbone.schedules import alphas_cumprod, schedule_fields
from diffps.backbone.text_sides import t5_side
from diffps.errors import CheckpointError, ConfigError
from diffps.taps import TapSpec

if TYPE_CHECKING:
    from torch import Tensor

    from diffps.backbone.latents import NoiseKey
    from diffps.backbone.prompts import TextSide

LENGTH = 300  # tokens of a prompt at most, as the model was trained
_COUNTED = 8  # tokens of a prompt whose operations are counted


class PixArt(DiffusionTransformer):
    """PixArt-Sigma in diffusers' layout.

    The model masks the padding of its prompts, so here there is none: attention sees the prompt's own tokens.
    """

    PARTS: ClassVar[Mapping[str, ConfigPart]] = {"transformer": "pixart", "vae": "vae", "text_encoder": "t5"}

    def __post_init__(self) -> None:
        super().__post_init__()
        sized = self.config["use_additional_conditions"]
        if sized or (sized is None and self.config["sample_size"] == 128):
            raise CheckpointError(
                f"checkpoint {self.name}: its transformer wants the image's size beside the prompt, as that of "
                "PixArt-Alpha; PixArt-Sigma is read"
            )
        width = self.folder.config("text_encoder")["d_model"]
        if self.config["caption_channels"] != width:
            raise CheckpointError(
                f"checkpoint {self.name}: its transformer wants texts {self.config['caption_channels']} wide, its text "
                f"encoder gives {width}; the two are of different models"
            )

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        return pixart_table(self.config)

    @property
    def last_timestep(self) -> int:
        return int(self.schedule["num_train_timesteps"]) - 1

    @cached_property
    def schedule(self) -> dict[str, Any]:
        return schedule_fields(complete("scheduler", self.folder.scheduler(), f"checkpoint {self.name}: scheduler/"))

    def start_recipe(self, dtype: str) -> dict[str, Any]:
        if dtype == "float16" and self.folder.config("vae")["force_upcast"]:
            raise ConfigError(overflow(self.name))
        return super().start_recipe(dtype)

    def sides(self) -> "list[TextSide]":
        return [t5_side(self.folder, "text_encoder", LENGTH, pads=False)]

    def tokenise(self, sides: "Sequence[TextSide]", conditions: Conditions) -> Tokens:
        (side,) = sides
        ids = side.tokens(conditions.prompt)
        spans = {word: side.span(word, ids, conditions.prompt) for word in conditions.words}
        return Tokens((ids,), {word: list(range(*span)) for word, span in spans.items()})

    def texts(self, sides: "Sequence[TextSide]", tokens: Tokens) -> "tuple[Tensor]":
        return (sides[0].embed(tokens.ids[0])[0],)

    def empty_texts(self) -> "tuple[Tensor]":
        import torch

        return (torch.empty(1, _COUNTED, self.config["caption_channels"], device="meta"),)

    def noised(self, latents: "Tensor", timestep: int, conditions: Conditions, keys: "Sequence[NoiseKey]") -> "Tensor":
        from diffps.backbone.latents import add_noise

        return add_noise(latents, timestep, float(self._alphas[timestep]), conditions.noise, keys, conditions.seed)

    @staticmethod
    def forward(model: DiffusersModel, latents: "Tensor", timestep: "Tensor", texts: "Sequence[Tensor]") -> object:
        return model(
            latents,
            encoder_hidden_states=texts[0].expand(len(latents), -1, -1),
            timestep=timestep,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )

    @cached_property
    def _alphas(self) -> "Tensor":
        return alphas_cumprod(self.schedule)
