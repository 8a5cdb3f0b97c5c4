"""All parameters of a run: one section a stage, checked against each other before any stage starts.

They say what comes out. How to run (devices, batches, workers, the store's place) is :class:`stages.job.Runtime`.
Imports neither a stage nor torch: every module of stages/ may import this one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

from diffps.backbone.prior import TIMM
from diffps.errors import ConfigError
from stages.config_data import EncodeConfig, ExtractConfig, IndexConfig
from stages.config_heads import EvaluateConfig, ReportConfig, SweepConfig, TrainConfig
from stages.config_probe import ProbeConfig
from stages.typed import build, set_key


@dataclass(frozen=True, kw_only=True, slots=True)
class Params:
    """The sections of params.yaml. Raises ConfigError where two of them contradict each other."""

    index: IndexConfig
    """The dataset."""

    encode: EncodeConfig
    """The VAE and the words."""

    extract: ExtractConfig
    """The UNet's pass and what is kept of it."""

    train: TrainConfig
    """The head and how it learns."""

    evaluate: EvaluateConfig
    """The search and its scores."""

    sweep: SweepConfig
    """Many heads from one reading."""

    probe: ProbeConfig = field(default_factory=ProbeConfig)
    """Every tap ranked before any is stored; not part of `dvc repro`."""

    report: ReportConfig
    """The page."""

    def __post_init__(self) -> None:
        provided = self.extract.names
        for name in self.train.taps.names:
            if name not in provided:
                near = get_close_matches(name, provided, 1, 0.0)
                raise ConfigError(
                    f"train.taps: {name} is not among what extract provides; "
                    f"nearest: {near[0]}; add it to extract.taps (a map: and its word to extract.words)"
                )
        self._check_parts()
        if self.train.source == "live":
            return
        if self.train.timestep not in self.extract.timesteps:
            raise ConfigError(
                f"train.timestep {self.train.timestep} is not in extract.timesteps {list(self.extract.timesteps)}"
            )
        if self.train.flip == "cached" and "hflip" not in self.encode.views:
            raise ConfigError("train.flip cached needs the view hflip in encode.views; or take flip feature or none")

    def _check_parts(self) -> None:
        """Parts of the head that need what the prior does not give."""
        model = self.train.model
        if model.dgrpn is not None and self.train.taps.guidance is None:
            raise ConfigError("train.model.dgrpn: needs a map in train.taps.guidance; name one, or set it to null")
        if model.sfan is not None and not self.encode.words:
            raise ConfigError("train.model.sfan: needs encode.words to compare with; name some, or set it to null")
        if model.sfan is not None and self.encode.checkpoint.startswith(TIMM):
            raise ConfigError(
                f"train.model.sfan: {self.encode.checkpoint} has no text to compare with; set train.model.sfan: null"
            )


def override(params: Params, changes: Mapping[str, Any], where: str) -> Params:
    """``params`` with other values at dotted keys ("train.model.sfan": None), checked as a params file is.

    ``where`` begins the message of the ConfigError for a key or value that does not go.
    """
    raw = asdict(params)
    for key, value in changes.items():
        set_key(Params, raw, key, value, where)
    return build(Params, raw, where)
