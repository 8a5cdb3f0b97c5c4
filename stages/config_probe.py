"""Section ``probe`` and the file it names: which taps, timesteps and scenes are probed, before anything is stored.

Each key is documented below its field; the parameter reference and the JSON Schemas are made from these texts.
"""

from dataclasses import dataclass

from diffps.errors import ConfigError
from diffps.probe.config import ProbeRules
from stages.config_data import LAST_TIMESTEP


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeConfig:
    """Every tap ranked from one pass, before a byte is stored."""

    file: str = "presets/probe/demo.yaml"
    """The probe file: scenes, taps, timesteps, budgets and how taps are measured."""

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("probe.file: name a probe file, such as presets/probe/demo.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeFile(ProbeRules):
    """A probe file. Checkpoint, canvas, prompt and words are those of sections ``encode`` and ``extract``."""

    scenes: int = 300
    """Training scenes drawn for it; half of them give the detection probe its weights, half its scores."""

    timesteps: tuple[int, ...] = (0,)
    """UNet timesteps that are probed, 0 to 999."""

    taps: tuple[str, ...] | None = None
    """Taps that are probed; null: every one that has a grid of features."""

    budgets: tuple[float, ...] = (8.0, 20.0, 43.0)
    """Megabytes per image, as ``extract.encoding`` stores them, under which sets of taps are chosen."""

    control: str | None = "builtin:random"
    """A checkpoint that should know nothing, probed on the same scenes; null: none."""

    def __post_init__(self) -> None:
        ProbeRules.__post_init__(self)
        if self.scenes < 2:
            raise ConfigError(f"scenes {self.scenes}: must be at least 2")
        for name in ("timesteps", "taps", "budgets"):
            values = getattr(self, name)
            if values is not None and len(set(values)) < len(values):
                raise ConfigError(f"{name} {list(values)}: names something twice")
        if not self.timesteps or min(self.timesteps) < 0 or max(self.timesteps) > LAST_TIMESTEP:
            raise ConfigError(f"timesteps {list(self.timesteps)}: name one or more from 0 to {LAST_TIMESTEP}")
        if self.taps is not None and not self.taps:
            raise ConfigError("taps: name at least one, or null for all")
        if any(budget <= 0 for budget in self.budgets):
            raise ConfigError(f"budgets {list(self.budgets)}: must be above 0")

    @property
    def rules(self) -> ProbeRules:
        """How taps are measured."""
        return ProbeRules(
            strips=self.strips,
            width=self.width,
            boxes=self.boxes,
            folds=self.folds,
            resamples=self.resamples,
            seed=self.seed,
        )
