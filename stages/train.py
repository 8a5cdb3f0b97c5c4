"""Train one head on features; run again, it goes on where it stopped."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffps.errors import ConfigError
from diffps.heads.config import ModelConfig, TapsConfig
from diffps.schedule import TrainingConfig
from stages.index import INDEX_FOLDER
from stages.job import Job

if TYPE_CHECKING:
    from stages.params import Params

FOLDER = Path("results/train")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config(TrainingConfig):
    """Section ``train``: what a head learns from and how.

    ``flip``: mirrored samples from their own cached view (exact), from mirrored features of the first view
    (approximate), or none. ``data_seed`` alone decides the order of the scenes and the mirrored ones. ``checkpoint``:
    the weights of the last epoch, or of the one with the best mAP on the held-out identities. ``holdout`` is the share
    of the training identities held out, with every scene that shows them. ``scenes``: a seeded sample of so many.
    """

    taps: TapsConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    source: Literal["cached", "live"] = "cached"
    timestep: int = 0
    flip: Literal["cached", "feature", "none"] = "cached"
    data_seed: int = 1
    batch: int = 5
    checkpoint: Literal["last", "best"] = "last"
    holdout: float = 0.0
    scenes: int | None = None

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


def run(params: "Params", job: Job) -> None:
    """Train the head of section ``train`` into results/train. Raises DivergedError, the last good checkpoint kept;
    StoppedError when asked to stop; ConfigError, DatasetError or CacheError for what does not fit together."""
    from stages.devices import choose_device
    from stages.files import held
    from stages.heads import HeadRun, train_all
    from stages.sources import open_source, skipped_scenes
    from stages.training_set import training_set

    device = choose_device(job.runtime)
    with held(FOLDER / "checkpoint"), open_source(params, job, split="train", section="train") as source:
        data = training_set(params, INDEX_FOLDER, skipped_scenes(source, job))
        head = HeadRun(params, data, source, device, FOLDER)
        job.say(head.resume())
        train_all({"head": head}, source, job, lambda _: head.finish())
    if head.diverged is not None:
        raise head.diverged
    job.say(f"{FOLDER / 'head'}: written; mean loss of the last epoch {head.metrics()['loss']:.4f}")


def dry_run(params: "Params", job: Job) -> str:
    """Parameters and FLOPs per part, memory, steps, and the time expected from a few measured steps."""
    from stages.forecast import forecast

    return forecast(params, job)
