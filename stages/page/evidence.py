"""What earlier stages left on disk, each file read once and only when something asks for it."""

import csv
import json
import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DiffPSError, ImageError
from stages.job import Job

if TYPE_CHECKING:
    from diffps.figures.sheets import Image
    from diffps.records import Annotations, Detections, Query, Scene
    from stages.params import Params

INDEX = Path("data/index")
TRAIN = Path("results/train")
EVALUATE = Path("results/evaluate")
SWEEP = Path("results/sweep")

Row = dict[str, Any]


class NotThereError(DiffPSError, FileNotFoundError):
    """What a figure needs has not been made yet; the text names the command that makes it."""


class Evidence:
    """Results of one run. Files that a later part may lack are empty here rather than an error."""

    def __init__(self, params: "Params", job: Job) -> None:
        self.params = params
        self.job = job
        self.image = lru_cache(maxsize=64)(self._image)

    @cached_property
    def scenes(self) -> "dict[str, Scene]":
        """Every scene of the index, by id."""
        from diffps.datasets.tables import read_scenes

        return {scene.scene_id: scene for scene in read_scenes(INDEX)}

    @cached_property
    def annotations(self) -> "dict[str, Annotations]":
        """Every scene's persons, by scene id."""
        from diffps.datasets.tables import read_annotations

        return read_annotations(INDEX)

    @cached_property
    def queries(self) -> "dict[str, Query]":
        """Every query, by id."""
        from diffps.datasets.tables import read_queries

        return {query.query_id: query for query in read_queries(INDEX)}

    @cached_property
    def scores(self) -> Row:
        """results/evaluate/metrics.json. Raises NotThereError."""
        return _json(EVALUATE / "metrics.json", "evaluate")

    @property
    def head(self) -> Path:
        """The folder of the head that was scored."""
        return Path(self.params.evaluate.head)

    @cached_property
    def head_training(self) -> Row:
        """What that head says of its training: ``training`` (its section train), ``scenes``; or nothing."""
        from stages.evaluate import training_of

        return training_of(self.head)

    @cached_property
    def training(self) -> Row:
        """metrics.json beside that head, or nothing."""
        path = self.head.with_name("metrics.json")
        return _json(path, "train") if path.exists() else {}

    @cached_property
    def losses(self) -> dict[str, list[float]]:
        """Columns of losses.csv beside that head, what is no number as NaN; or nothing."""
        path = self.head.with_name("losses.csv")
        if not path.exists():
            return {}
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}

    @cached_property
    def ranking(self) -> dict[str, list[Row]]:
        """The first results of every query, best first."""
        found: dict[str, list[Row]] = {}
        for row in sorted(_table(EVALUATE / "ranking.parquet", "evaluate"), key=lambda row: int(row["rank"])):
            found.setdefault(row["query_id"], []).append(row)
        return found

    @cached_property
    def precisions(self) -> dict[str, float]:
        """Average precision of every query that has somebody to find, in [0, 1]."""
        rows = _table(EVALUATE / "per_query.parquet", "evaluate")
        return {row["query_id"]: float(row["ap"]) for row in rows if row["ap"] is not None}

    @cached_property
    def detections(self) -> "dict[str, Detections]":
        """Detections of every scene, strongest first; a scene without any is not listed. Raises NotThereError."""
        from stages.inference import read_detections

        return read_detections(_there(EVALUATE / "detections.parquet", "evaluate"))

    @cached_property
    def sweep(self) -> list[Row]:
        """Rows of results/sweep/table.parquet whose head is trained and scored, or none."""
        path = SWEEP / "table.parquet"
        return [row for row in _table(path, "sweep") if row["map"] is not None] if path.exists() else []

    def is_readable(self, scene_id: str) -> bool:
        """Whether the scene's image can be shown; with ``runtime.skip_unreadable`` some cannot."""
        try:
            self.image(scene_id)
        except ImageError:
            return False
        return True

    def _image(self, scene_id: str) -> "Image":
        from diffps.images import load_image

        return load_image(Path(self.params.index.root) / self.scenes[scene_id].path)


def box_of(row: Row) -> NDArray[np.float32]:
    """Columns x1, y1, x2, y2 of a row."""
    return np.array([row[name] for name in ("x1", "y1", "x2", "y2")], np.float32)


def _there(path: Path, stage: str) -> Path:
    if not path.exists():
        raise NotThereError(f"{path} is missing; run: diffps {stage}")
    return path


def _json(path: Path, stage: str) -> Row:
    content: Row = json.loads(_there(path, stage).read_text(encoding="utf-8"))
    return content


def _table(path: Path, stage: str) -> list[Row]:
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(_there(path, stage)).to_pylist()
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
