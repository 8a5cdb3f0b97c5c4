"""What earlier stages left on disk, each file read once and only when something asks for it."""

import csv
import io
import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cache import FeatureStore
from diffps.datasets.tables import read_annotations, read_queries, read_scenes
from diffps.errors import DiffPSError, ImageError
from diffps.features import FeatureSource
from diffps.figures.scenes import placeholder
from diffps.figures.sheets import Image
from diffps.records import Annotations, Detections, Query, Scene
from stages.features.cached import CachedSource
from stages.features.reading import Reading
from stages.head.identity import index_digest
from stages.head.saved import training_of
from stages.images import ImageFolder
from stages.job import Job
from stages.params import Params
from stages.places import EVALUATE, INDEX, PROBE, SWEEP
from stages.search.tables import read_detections
from stages.sweeps.results import BASE
from stages.together import content, index_folder, json_content, require_same, sealed_head, table_content, together

Json = dict[str, Any]  # an object of a JSON file, or a row of a table


class NotThereError(DiffPSError, FileNotFoundError):
    """What a figure needs has not been made yet; the text names the command that makes it."""


# Opens features of the test split.
OpenFeatures = Callable[[Reading], AbstractContextManager[FeatureSource]]


class Evidence:
    """Results of one run, and the folder of the ``store`` it read. What a later part may lack is empty rather than an
    error."""

    def __init__(
        self, params: Params, store: FeatureStore, job: Job, open_features: OpenFeatures | None = None
    ) -> None:
        self.params, self.store, self.job = params, store, job
        self.open_features = open_features or self._open_stored
        self.image = lru_cache(maxsize=64)(self._image)
        _check_one_run(self.head)

    @cached_property
    def scenes(self) -> dict[str, Scene]:
        """Every scene of the index, by id."""
        return {scene.scene_id: scene for scene in read_scenes(index_folder())}

    @cached_property
    def annotations(self) -> dict[str, Annotations]:
        """Every scene's persons, by scene id."""
        return read_annotations(index_folder())

    @cached_property
    def queries(self) -> dict[str, Query]:
        """Every query, by id."""
        return {query.query_id: query for query in read_queries(index_folder())}

    @cached_property
    def scores(self) -> Json:
        """results/evaluate/metrics.json. Raises NotThereError."""
        return _json(EVALUATE / "metrics.json", "evaluate")

    @cached_property
    def index_report(self) -> Json:
        """data/index/report.json, or nothing."""
        path = INDEX / "report.json"
        return _json(path, "index") if path.exists() else {}

    @property
    def foreign(self) -> int:
        """Test boxes of training identities, which count as unlabelled; 0 where the index does not say."""
        test = self.index_report.get("test")
        return int(test.get("foreign", 0)) if isinstance(test, dict) else 0

    @cached_property
    def is_annotated(self) -> bool:
        """True where persons of test scenes are annotated: else no box can be called a false alarm."""
        tests = [scene.scene_id for scene in self.scenes.values() if scene.split == "test"]
        return any(len(self.annotations[name].boxes) for name in tests)

    @property
    def head(self) -> Path:
        """The folder of the head that was scored."""
        return Path(self.params.evaluate.head)

    @cached_property
    def head_training(self) -> Json:
        """What that head says of its training: ``training`` (its section train), ``scenes``; or nothing."""
        return training_of(self.head)

    @cached_property
    def reading(self) -> Reading:
        """What that head is fed; the parameters' where it does not say."""
        said = self.head_training.get("reading")
        return Reading.from_json(said) if said else Reading.of(self.params.train, self.params.extract)

    @cached_property
    def training(self) -> Json:
        """metrics.json beside that head, or nothing."""
        path = self.head.with_name("metrics.json")
        return _json(path, "train") if path.exists() else {}

    @cached_property
    def losses(self) -> dict[str, list[float]]:
        """Columns of losses.csv beside that head, what is no number as NaN; or nothing."""
        path = self.head.with_name("losses.csv")
        if not path.exists():
            return {}
        rows = list(csv.DictReader(io.StringIO(content(path, "train").getvalue().decode(), newline="")))
        return {name: [_number(row[name]) for row in rows] for name in (rows[0] if rows else ())}

    @cached_property
    def ranking(self) -> dict[str, list[Json]]:
        """The first results of every query, best first."""
        found: dict[str, list[Json]] = {}
        for row in sorted(_table(EVALUATE / "ranking.parquet", "evaluate"), key=lambda row: int(row["rank"])):
            found.setdefault(row["query_id"], []).append(row)
        return found

    @cached_property
    def precisions(self) -> dict[str, float]:
        """Average precision of every query that has somebody to find, in [0, 1]."""
        rows = _table(EVALUATE / "per_query.parquet", "evaluate")
        return {row["query_id"]: float(row["ap"]) for row in rows if row["ap"] is not None}

    @cached_property
    def first_hits(self) -> dict[str, float]:
        """1.0 for every judged query whose first result is right, else 0.0."""
        firsts = {name: rows[0]["correct"] for name, rows in self.ranking.items()}
        return {name: float(firsts.get(name, False)) for name in self.precisions}

    @cached_property
    def detections(self) -> dict[str, Detections]:
        """Detections of every scene, strongest first; a scene without any is not listed. Raises NotThereError."""
        return read_detections(_there(EVALUATE / "detections.parquet", "evaluate"))

    @cached_property
    def sweep(self) -> list[Json]:
        """Rows of results/sweep/table.parquet whose head is trained and scored, or none."""
        path = SWEEP / "table.parquet"
        return [row for row in _table(path, "sweep") if row["map"] is not None] if path.exists() else []

    @cached_property
    def sweep_base(self) -> Json:
        """Section train that the sweep's variants were changes of, or nothing where its table does not say."""
        path = SWEEP / "table.parquet"
        said = (pq.read_schema(path).metadata or {}).get(BASE.encode()) if path.exists() else None
        base: Json = json.loads(said) if said else {}
        return base

    @cached_property
    def effects(self) -> Json:
        """results/sweep/effects.json, or nothing."""
        path = SWEEP / "effects.json"
        return _json(path, "sweep") if path.exists() else {}

    @cached_property
    def probe(self) -> list[Json]:
        """Rows of results/probe/table.parquet. Raises NotThereError."""
        return _table(PROBE / "table.parquet", "probe")

    @cached_property
    def probe_maps(self) -> list[Json]:
        """Rows of its words.parquet, or none."""
        path = PROBE / "words.parquet"
        return _table(path, "probe") if path.exists() else []

    @cached_property
    def redundancy(self) -> list[Json]:
        """Rows of its redundancy.parquet. Raises NotThereError."""
        return _table(PROBE / "redundancy.parquet", "probe")

    @cached_property
    def probe_sentences(self) -> list[str]:
        """What a probe allows to conclude. Raises NotThereError."""
        return content(_there(PROBE / "summary.txt", "probe"), "probe").getvalue().decode().splitlines()

    def _open_stored(self, reading: Reading) -> CachedSource:
        tests = [scene for scene in self.scenes.values() if scene.split == "test"]
        return CachedSource(reading, "test", self.store, tests)

    def is_readable(self, scene_id: str) -> bool:
        """True where the scene's image can be shown; with ``runtime.skip_unreadable`` some cannot."""
        try:
            self.image(scene_id)
        except (ImageError, OSError):
            return False
        return True

    def picture(self, scene_id: str) -> tuple[Image, bool]:
        """The scene's image, and True with a placeholder of its size where it cannot be read any more."""
        try:
            return self.image(scene_id), False
        except (ImageError, OSError):
            return placeholder(*self.scenes[scene_id].size), True

    def found_in(self, scene_id: str) -> NDArray[np.float32]:
        """(n, 4) boxes of everyone the head found in a scene, in the scene frame."""
        detections = self.detections.get(scene_id)
        return np.empty((0, 4), np.float32) if detections is None else detections.boxes

    def scores_in(self, scene_id: str) -> NDArray[np.float32]:
        """(n,) scores of those boxes."""
        detections = self.detections.get(scene_id)
        return np.empty(0, np.float32) if detections is None else detections.scores

    def _image(self, scene_id: str) -> Image:
        return ImageFolder.of(self.params.index).pixels(self.scenes[scene_id])


def box_of(row: Json) -> NDArray[np.float32]:
    """Columns x1, y1, x2, y2 of a row."""
    return np.array([row[name] for name in ("x1", "y1", "x2", "y2")], np.float32)


def _check_one_run(head: Path) -> None:
    """Raise DamagedError where the scores at hand are not those of ``head`` on this index, or what is told of its
    training is another's."""
    scored, trained = together(EVALUATE, "evaluate"), together(head.parent, "train")
    if scored is not None:
        index = index_folder()  # a damaged one is not another one
        require_same(scored, "index", index_digest(), index)
    for found in (scored, trained):
        if found is not None:
            require_same(found, "head", sealed_head(head), head)


def _there(path: Path, stage: str) -> Path:
    if not path.exists():
        raise NotThereError(f"{path} is missing; run: diffps {stage}")
    return path


def _json(path: Path, stage: str) -> Json:
    return json_content(_there(path, stage), stage)


def _table(path: Path, stage: str) -> list[Json]:
    rows: list[Json] = table_content(_there(path, stage), stage).to_pylist()
    return rows


def _number(text: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
