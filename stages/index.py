"""Read a dataset as it lies on disk and write it as Parquet: every later stage starts from these files."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from diffps.datasets.streets import StreetsConfig
from diffps.errors import ConfigError
from stages.job import Job

if TYPE_CHECKING:
    from diffps.records import SearchIndex
    from stages.params import Params

INDEX_FOLDER = Path("data/index")
HASHING_THREADS = 8  # reading waits for the disk, so more threads than cores pay


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``index`` of params.yaml.

    ``root`` is the dataset's folder (``streets`` are drawn there when absent). Boxes below ``min_box`` (width, height
    in pixels) are dropped; null takes the dataset's own rule: (10, 20) for cuhk-sysu, none elsewhere.
    """

    dataset: Literal["streets", "prw", "cuhk-sysu", "folder", "coco"] = "streets"
    root: str = "data/streets"
    min_box: tuple[int, int] | None = None
    streets: StreetsConfig = field(default_factory=StreetsConfig)

    def __post_init__(self) -> None:
        if self.min_box is not None and min(self.min_box) < 0:
            raise ConfigError(f"index.min_box {list(self.min_box)}: width and height must be 0 or more")


def run(params: "Params", job: Job) -> None:
    """Write data/index/*.parquet and report.json. Raises DatasetError or ImageError."""
    from diffps.datasets.tables import write_index

    index = read_dataset(params.index, job)
    write_index(index, INDEX_FOLDER)
    for line in describe(index.report):
        job.say(line)


def dry_run(params: "Params", job: Job) -> str:
    """What would be read and written."""
    config = params.index
    root = Path(config.root)
    state = "is there" if root.is_dir() else "will be drawn" if config.dataset == "streets" else "is MISSING"
    return f"index: {config.dataset} at {root} ({state}) -> {INDEX_FOLDER}/*.parquet, report.json"


def read_dataset(config: Config, job: Job) -> "SearchIndex":
    """The dataset that ``config`` names, read and checked."""
    from diffps.datasets import prw, streets
    from diffps.datasets.files import ImageFacts, measure_images

    def measure(paths: Sequence[Path]) -> list[ImageFacts]:
        with job.track("index", len(paths), "images") as tracker:
            return measure_images(paths, HASHING_THREADS, lambda nbytes: tracker.advance(1, nbytes))

    root = Path(config.root)
    if config.dataset == "streets":
        streets.draw(config.streets, root)
    return prw.read_prw(root, measure=measure, min_box=config.min_box or (0, 0))


def describe(report: dict[str, object]) -> list[str]:
    """The report as lines for people."""
    return [f"{name}: {json.dumps(value)}" for name, value in report.items()]
