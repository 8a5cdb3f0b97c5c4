"""The noise schedule of a diffusion model, from its scheduler's config."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_FIELDS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def schedule_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a scheduler's complete ``config`` that decide how much noise a timestep has."""
    return {name: config[name] for name in _FIELDS if config.get(name) is not None}


def alphas_cumprod(schedule: Mapping[str, Any]) -> "Tensor":
    """alpha_bar of every timestep, (num_train_timesteps,) float32."""
    from diffusers import DDIMScheduler

    alphas: Tensor = DDIMScheduler.from_config(schedule).alphas_cumprod
    return alphas
