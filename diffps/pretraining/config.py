"""The recipe of the shipped checkpoint. Everything is counted in steps, so a run is the same however long it takes."""

from dataclasses import dataclass, field

from diffps.backbone.builtin.topology import Widths
from diffps.errors import ConfigError

_GRID = 8  # the UNet halves its input three times


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Section ``pretrain``.

    ``seed`` names the drawn world (its persons and cameras), the initial weights and the order of samples; the
    held-out report draws the world ``seed + 1``. The UNet sees crops of ``crop`` latent cells at a constant learning
    rate; in the last ``settle`` steps it sees whole scenes, as many cells a step, while the rate falls: a training with
    more ``steps`` goes on from one with fewer that has not begun to settle. ``map_weight`` weighs the divergence
    between drawn masks and cross-attention maps, which is asked for below ``map_timesteps``.
    """

    seed: int = 11
    widths: Widths = field(default_factory=lambda: Widths(unet=(48, 64, 96, 96), heads=(2, 2, 3, 3)))
    cameras: int = 64
    identities: int = 4000
    scenes: int = 1500
    vae_scenes: int = 256
    vae_steps: int = 500
    vae_batch: int = 8
    vae_crop: int = 96
    vae_lr: float = 1.5e-3
    steps: int = 4000
    settle: int = 400
    batch: int = 16
    crop: int = 16
    lr: float = 1e-3
    map_weight: float = 0.1
    map_timesteps: int = 500
    save_every: int = 100
    test_scenes: int = 48

    def __post_init__(self) -> None:
        for name in (
            "cameras",
            "identities",
            "scenes",
            "vae_scenes",
            "vae_batch",
            "batch",
            "save_every",
            "test_scenes",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "steps", "vae_steps", "map_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"pretrain.{name} is {getattr(self, name)}; it must not be negative")
        if self.crop % _GRID or not _GRID <= self.crop <= 32:
            raise ConfigError(f"pretrain.crop is {self.crop}; give 8, 16, 24 or 32 latent cells")
        if self.vae_crop % 8 or not 32 <= self.vae_crop <= 256:
            raise ConfigError(f"pretrain.vae_crop is {self.vae_crop}; give a multiple of 8 from 32 to 256 pixels")
        if not 0 <= self.settle <= self.steps:
            raise ConfigError(f"pretrain.settle is {self.settle}; it must be from 0 to pretrain.steps ({self.steps})")
        if self.identities < 7:
            raise ConfigError(f"pretrain.identities is {self.identities}; a scene may hold six persons")
