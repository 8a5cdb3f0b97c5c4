"""What is probed: a sample of the training scenes, what is read of a checkpoint's UNet, and in which stretches."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from cache import FeatureStore, fingerprint
from cache.fingerprint import JSON
from diffps.errors import ConfigError
from diffps.geometry import SIDE_MULTIPLE, Canvas
from diffps.probe.plan import Reads, reads
from diffps.probe.sample import ProbeSample, draw_sample
from diffps.probe.windows import WINDOWS
from diffps.records import Annotations, Scene
from diffps.taps import FeatureName
from stages.config_data import EncodeConfig, ExtractConfig
from stages.config_probe import ProbeFile
from stages.features.plan import PassPlan
from stages.features.priors import prior_of
from stages.places import PROBE
from stages.typed import build, parse_yaml, read_asked

VERSION = 4  # raised whenever the same features would give other parts
STRETCH = 32  # scenes whose results are written together

Phase = Literal["fit", "score"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Scenes that are probed one after another, as rows of the sample; ``number`` counts within the phase."""

    phase: Phase
    number: int
    rows: range


class ProbePlan:
    """What one checkpoint is asked, in stretches of so many scenes. Loads the text side, not the UNet.

    Raises CheckpointError, PromptError, UnknownTapError; ConfigError for a tap without a grid.
    """

    def __init__(
        self,
        config: ProbeFile,
        encode: EncodeConfig,
        extract: ExtractConfig,
        sample: ProbeSample,
        stretch: int = STRETCH,
    ) -> None:
        self._made_of = config, encode, extract, sample, stretch
        table = prior_of(encode, extract.unet).taps
        self.rules, self.sample, self.stretch = config.rules, sample, stretch
        self.frame, self.timesteps = encode.frame, config.timesteps
        self.reads: Reads = reads(table, config.taps, extract.words, encode.frame)
        maps = dict.fromkeys(FeatureName.parse(name).tap for name in self.reads.maps)
        asked = replace(extract, taps=(*self.reads.taps, *maps), timesteps=config.timesteps)
        self.unet = PassPlan(encode, asked, FeatureStore(Path()))

    def __reduce__(self) -> tuple[type["ProbePlan"], tuple[object, ...]]:
        """Worker processes make it again from what it was made of."""
        return ProbePlan, self._made_of

    @property
    def folder(self) -> Path:
        """Where its parts lie: named by everything that decides them but the timestep, so that more timesteps, other
        budgets or folds begin with what is there."""
        identity: dict[str, JSON] = {
            "version": VERSION,
            "pass": self.unet.recipe("identity"),
            "head": self.unet.extract.head,
            "features": [*self.reads.taps, *self.reads.maps],
            "rules": [self.rules.strips, self.rules.width, self.rules.boxes, self.rules.seed, WINDOWS],
            "sample": _digest(self.sample),
            "stretch": self.stretch,
        }
        return PROBE / "parts" / fingerprint(identity)

    def stretches(self, phase: Phase) -> Iterator[Stretch]:
        """The scenes of a phase: the first half of the sample gives weights, the second half scores."""
        first, last = (0, self.sample.fitted) if phase == "fit" else (self.sample.fitted, len(self.sample.scenes))
        for number, start in enumerate(range(first, last, self.stretch)):
            yield Stretch(phase, number, range(start, min(start + self.stretch, last)))


def read_probe_file(path: Path) -> ProbeFile:
    """The probe file at ``path``. Raises ConfigError naming file and key."""
    raw = parse_yaml(read_asked(path, "probe.file"), f"probe.file {path}")
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected keys such as 'scenes:', found {type(raw).__name__}")
    return build(ProbeFile, raw, str(path))


def plan_probe(
    config: ProbeFile,
    encode: EncodeConfig,
    extract: ExtractConfig,
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    stretch: int = STRETCH,
) -> list[ProbePlan]:
    """The plan of the checkpoint, and that of the control where there is one, over the same training scenes."""
    train = [scene for scene in scenes if scene.split == "train"]
    sample = draw_sample(train, annotations, Canvas(*encode.canvas), config.scenes, config.seed)
    plans = [ProbePlan(config, encode, extract, sample, stretch)]
    if config.control is not None:
        # Any canvas, to look at its taps: other priors have some that a UNet may not have.
        blank = replace(
            encode, checkpoint=config.control, hub=None, revision=None, variant=None, canvas=(SIDE_MULTIPLE,) * 2
        )
        taps = tuple(plans[0].reads.taps)
        if prior_of(blank).taps.keys() >= set(taps):  # SDXL, transformers and ViTs have others
            blank = replace(blank, canvas=encode.canvas)
            # Its words mean nothing, and it may not know them.
            without_maps = replace(extract, unet=None, words=(), taps=taps)
            plans.append(ProbePlan(config, blank, without_maps, sample, stretch))
    return plans


def without_control(config: ProbeFile, plans: Sequence[ProbePlan]) -> list[str]:
    """The line that says so where a control was asked for and none of ``plans`` is one."""
    if config.control is None or len(plans) > 1:
        return []
    return [f"No control: {config.control} is a UNet, and {plans[0].unet.encode.checkpoint} has other taps."]


def _digest(sample: ProbeSample) -> str:
    state = hashlib.sha256(f"{sample.fitted}".encode())
    for scene, boxes in zip(sample.scenes, sample.boxes, strict=True):
        state.update(f"{scene.scene_id}\0{scene.digest}\0".encode())
        state.update(np.ascontiguousarray(boxes, np.float32).tobytes())
    return state.hexdigest()
