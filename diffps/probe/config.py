"""How taps are measured. Nothing here says which taps, scenes or timesteps."""

from dataclasses import dataclass

from diffps.errors import ConfigError

ROI_ROWS, ROI_COLUMNS = 24, 12  # points at which a box is sampled: re-ID's RoI grid in the paper


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeRules:
    """Everything that decides a tap's numbers, given its features."""

    strips: int = 3
    """Horizontal parts a box is pooled in; a divisor of 24."""

    width: int = 640
    """Numbers that say a window, three for every channel; taps with more channels reach the detection probe through a
    random projection to a third of it."""

    boxes: int = 30
    """Boxes an image may propose when the persons found are counted."""

    folds: int = 4
    """Parts of the identities: a linear map is tested on one and fitted on the others."""

    resamples: int = 1000
    """Times that identities and scenes are drawn anew for an interval."""

    seed: int = 0
    """Of everything that is drawn: scenes, windows, folds, projections, resamples."""

    def __post_init__(self) -> None:
        if self.strips < 1 or ROI_ROWS % self.strips:
            raise ConfigError(f"strips {self.strips}: must divide {ROI_ROWS}: 1, 2, 3, 4, 6, 8, 12 or 24")
        for name, least in (("width", 3), ("boxes", 1), ("folds", 2), ("resamples", 100), ("seed", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} {getattr(self, name)}: must be at least {least}")
