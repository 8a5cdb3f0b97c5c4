"""Stable Diffusion 3 and 3.5 as a prior: image and text attend to each other, noise is mixed in by rectified flow."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from diffps.backbone.configs import ConfigPart
from diffps.backbone.dit import DiffusionTransformer, Tokens
from diffps.backbone.dit_taps import sd3_table
from diffps.backbone.parts import DiffusersModel
from diffps.backbone.prior import Conditions
from diffps.backbone.text_sides import clip_side, t5_side
from diffps.errors import CheckpointError
from diffps.taps import TapSpec

if TYPE_CHECKING:
    from torch import Tensor

    from diffps.backbone.latents import NoiseKey
    from diffps.backbone.prompts import TextSide

LENGTHS = (77, 77, 256)  # tokens of a prompt in CLIP, the larger CLIP and T5, padding included
_TEXTS = ("text_encoder", "text_encoder_2", "text_encoder_3")


class SD3(DiffusionTransformer):
    """Stable Diffusion 3 in diffusers' layout.

    A timestep t of 0 to 999 is the sigma t / 1000 itself, whatever the sampler's shift: (1 - sigma) z + sigma noise.
    The text is CLIP's 77 tokens, both encoders side by side, then T5's 256; the padding is attended to, as in training.
    """

    PARTS: ClassVar[Mapping[str, ConfigPart]] = {
        "transformer": "sd3",
        "vae": "vae",
        "text_encoder": "text_encoder_2",  # both CLIPs have a projection
        "text_encoder_2": "text_encoder_2",
        "text_encoder_3": "t5",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        clips = [self.folder.config(part) for part in _TEXTS[:2]]
        given = {
            "joint_attention_dim": self.folder.config(_TEXTS[2])["d_model"],
            "pooled_projection_dim": sum(int(config["projection_dim"]) for config in clips),
        }
        for key, width in given.items():
            if self.config[key] != width:
                raise CheckpointError(
                    f"checkpoint {self.name}: its transformer wants a {key} of {self.config[key]}, its text encoders "
                    f"give {width}; they are of different models"
                )

    @property
    def taps(self) -> Mapping[str, TapSpec]:
        return sd3_table(self.config)

    @property
    def largest(self) -> int:
        return int(self.config["pos_embed_max_size"]) * self.multiple

    @property
    def last_timestep(self) -> int:
        return int(self.schedule["num_train_timesteps"]) - 1

    @property
    def schedule(self) -> dict[str, Any]:
        return {"flow": True, "num_train_timesteps": int(self.folder.scheduler().get("num_train_timesteps", 1000))}

    def sides(self) -> "list[TextSide]":
        return [
            *(clip_side(self.folder, part, length) for part, length in zip(_TEXTS[:2], LENGTHS[:2], strict=True)),
            t5_side(self.folder, _TEXTS[2], LENGTHS[2], pads=True),
        ]

    def tokenise(self, sides: "Sequence[TextSide]", conditions: Conditions) -> Tokens:
        from diffps.backbone.prompts import clip_spans

        prompt = conditions.prompt
        first, second, third = (side.tokens(prompt) for side in sides)
        places = {}
        for word, span in clip_spans(sides[:2], (first, second), conditions.words, prompt).items():
            start, stop = sides[2].span(word, third, prompt)
            places[word] = [*range(*span), *range(LENGTHS[0] + start, LENGTHS[0] + stop)]
        return Tokens((first, second, third), places)

    def texts(self, sides: "Sequence[TextSide]", tokens: Tokens) -> "tuple[Tensor, Tensor]":
        """(1, 77 + 256, D), CLIP's filled up with zeros to T5's width, and (1, P) of both CLIPs."""
        import torch
        from torch.nn.functional import pad

        (one, first), (other, second), (third, _) = (
            side.embed(ids) for side, ids in zip(sides, tokens.ids, strict=True)
        )
        clip = torch.cat([one, other], -1)
        clip = pad(clip, (0, third.shape[-1] - clip.shape[-1]))
        return torch.cat([clip, third], 1), torch.cat([each for each in (first, second) if each is not None], -1)

    def empty_texts(self) -> "tuple[Tensor, Tensor]":
        import torch

        tokens = LENGTHS[0] + LENGTHS[2]
        return (
            torch.empty(1, tokens, self.config["joint_attention_dim"], device="meta"),
            torch.empty(1, self.config["pooled_projection_dim"], device="meta"),
        )

    def noised(self, latents: "Tensor", timestep: int, conditions: Conditions, keys: "Sequence[NoiseKey]") -> "Tensor":
        from diffps.backbone.latents import add_flow_noise

        sigma = timestep / self.schedule["num_train_timesteps"]
        return add_flow_noise(latents, timestep, sigma, conditions.noise, keys, conditions.seed)

    @staticmethod
    def forward(model: DiffusersModel, latents: "Tensor", timestep: "Tensor", texts: "Sequence[Tensor]") -> object:
        return model(
            latents,
            encoder_hidden_states=texts[0].expand(len(latents), -1, -1),
            pooled_projections=texts[1].expand(len(latents), -1),
            timestep=timestep,
            return_dict=False,
        )
