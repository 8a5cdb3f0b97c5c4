"""The recipe of the shipped checkpoint. Everything is counted in steps, so a run is the same however long it takes."""

from dataclasses import dataclass, field

from diffps.backbone.builtin.topology import Widths
from diffps.errors import ConfigError

_GRID = 8  # the UNet halves its input three times


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """How the demo's backbone is made from drawn scenes."""

    seed: int = 11
    """Names the drawn world (its persons and cameras), the initial weights and the order of samples; the held-out
    report draws the world ``seed + 1``."""

    widths: Widths = field(default_factory=lambda: Widths(unet=(48, 64, 96, 96), heads=(2, 2, 3, 3)))
    """Channels of the models."""

    cameras: int = 64
    """Cameras of the world."""

    identities: int = 4000
    """Persons of the world."""

    scenes: int = 1500
    """Scenes the UNet learns from."""

    vae_scenes: int = 256
    """Scenes the VAE learns from."""

    vae_steps: int = 500
    """Steps of the VAE."""

    vae_batch: int = 8
    """Crops a step."""

    vae_crop: int = 96
    """Side of a crop in pixels."""

    vae_lr: float = 1.5e-3
    """Learning rate of the VAE."""

    steps: int = 4000
    """Steps of the UNet."""

    settle: int = 400
    """The last steps: whole scenes, as many cells a step, while the rate falls. A training with more ``steps`` goes on
    from one with fewer that has not begun to settle."""

    batch: int = 16
    """Crops a step."""

    crop: int = 16
    """Side of a crop in latent cells."""

    lr: float = 1e-3
    """Learning rate of the UNet before it settles."""

    map_weight: float = 0.1
    """Weight of the divergence between drawn masks and cross-attention maps."""

    map_timesteps: int = 500
    """It is asked for below this timestep."""

    save_every: int = 100
    """Steps between two saved states."""

    test_scenes: int = 48
    """Scenes of the held-out report."""

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
