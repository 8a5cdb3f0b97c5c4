"""Sections ``train``, ``evaluate``, ``sweep`` and ``report``: heads, their scores, and what is shown of them.

Each key is documented below its field; the parameter reference and the JSON Schema are made from these texts.
"""

from dataclasses import dataclass, field
from typing import Literal

from diffps.errors import ConfigError
from diffps.heads.config import ModelConfig, TapsConfig
from diffps.records import Convention
from diffps.schedule import TrainingConfig

SourceKind = Literal["cached", "live"]
FlipRule = Literal["cached", "feature", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig(TrainingConfig):
    """One head: what it learns from and how."""

    taps: TapsConfig
    """The features the head reads, by the branch and level that reads them."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The head's architecture."""

    source: SourceKind = "cached"
    """Features from the store, or from the backbone now (``live``); `dvc repro` goes through the store."""

    timestep: int = 0
    """The UNet timestep whose features are read; one of ``extract.timesteps``."""

    flip: FlipRule = "cached"
    """Mirrored samples: from their own view (``cached``, exact), from mirrored features of the first view
    (``feature``, approximate), or ``none``."""

    data_seed: int = 1
    """Decides the order of the scenes and which are mirrored, nothing else."""

    batch: int = 5
    """Scenes a step; the last incomplete batch of an epoch is dropped."""

    checkpoint: Literal["last", "best"] = "last"
    """The weights of the last epoch, or of the one with the best mAP on the held-out identities."""

    holdout: float = 0.0
    """Share of the training identities held out, with every scene that shows them; in [0, 1)."""

    scenes: int | None = None
    """A seeded sample of so many training scenes; null takes all."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if self.timestep < 0 or self.data_seed < 0:
            raise ConfigError("timestep and data_seed must not be negative")
        if self.batch < 1 or (self.scenes is not None and self.scenes < self.batch):
            raise ConfigError(f"batch {self.batch}: must be at least 1 and at most scenes ({self.scenes})")
        if not 0 <= self.holdout < 1:
            raise ConfigError(f"holdout {self.holdout}: a share of the identities, in [0, 1)")
        if self.checkpoint == "best" and self.holdout == 0:
            raise ConfigError("checkpoint best needs held-out identities to be judged by: set holdout, e.g. 0.1")


@dataclass(frozen=True, kw_only=True, slots=True)
class CBGMConfig:
    """Context bipartite graph matching (SeqNet): 10, 3 for CUHK-SYSU; 30, 4 for PRW."""

    k1: int
    """Scenes of the so many most similar detections are matched."""

    k2: int
    """The query and ``k2`` - 1 most confident other people of its scene are matched."""

    value: Literal["max", "sum"] = "max"
    """The match gets the largest similarity among the matched pairs, SeqNet's rule, or their sum, for comparison."""

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1:
            raise ConfigError(f"cbgm.k1 {self.k1}, cbgm.k2 {self.k2}: must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateConfig:
    """Searching the test split with a head, and scoring it."""

    source: SourceKind = "cached"
    """Features from the store, or from the backbone now (``live``)."""

    head: str = "results/train/head"
    """Folder of the head that is scored."""

    convention: Convention = "protocol"
    """What counts as found, and where ground truth is read: ``protocol`` (SeqNet) or ``labels`` (SEAS, DiffPS)."""

    gallery: str | int = "all"
    """all, same_camera or cross_camera; or one that the dataset lists (CUHK-SYSU: 50 to 4000, occlusion,
    resolution)."""

    also: tuple[str | int, ...] = ()
    """Further galleries, scored from the same detections."""

    gt_boxes: bool = False
    """True boxes take the place of detections."""

    cbgm: CBGMConfig | None = None
    """Context bipartite graph matching; null: off."""

    score_threshold: float = 0.5
    """Detections below it are not kept, neither ranked nor counted in AP; in [0, 1)."""

    ranking: int = 20
    """How many of each query's most similar detections are written."""

    batch: int = 4
    """Scenes the head looks at together."""

    baseline: bool = True
    """Also score colour histograms of true boxes, which reads the images."""

    knock_outs: bool = True
    """Also score the head with each learned module taken out, from the same features: a forward of the head for
    each."""

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold < 1:
            raise ConfigError(f"evaluate.score_threshold {self.score_threshold}: must be in [0, 1)")
        if self.ranking < 1 or self.batch < 1:
            raise ConfigError(f"evaluate.ranking {self.ranking}, batch {self.batch}: must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class SweepConfig:
    """Many heads from one reading of the store."""

    file: str = "presets/sweeps/demo.yaml"
    """The sweep file: ``variants`` maps names to overrides of ``train`` (dotted keys), ``grid`` maps keys to lists of
    values, and every variant is made at every point of the grid; ``base`` is common to all. ``extract.encoding`` may be
    varied too where the store holds it; ``params`` of a variant names a params file whose pass, extracted before, and
    head it takes: another prior's."""

    def __post_init__(self) -> None:
        if not self.file:
            raise ConfigError("sweep.file: name a sweep file, such as presets/sweeps/demo.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportConfig:
    """What the page and the figures show."""

    title: str = ""
    """The page's heading; empty: "Person search on" and the data's name."""

    queries: int = 3
    """Rankings shown: of a median query, a good and a bad one by average precision, then others at even steps."""

    results: int = 8
    """First answers shown of each."""

    scenes: int = 3
    """Test scenes shown for maps and features."""

    false_match_rate: float = 0.01
    """Share of pairs of different persons that the similarity threshold lets through; in (0, 1)."""

    def __post_init__(self) -> None:
        for name in ("queries", "results", "scenes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"report.{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.false_match_rate < 1:
            raise ConfigError(f"report.false_match_rate {self.false_match_rate}: must lie between 0 and 1")
