"""One pass over the test scenes' features: what each head finds there, and the embeddings of the queries."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from diffps.datasets.tables import box_array, box_columns
from diffps.errors import DatasetError
from diffps.features import Feature, FeatureSource, Ref
from diffps.geometry import Canvas
from diffps.records import Detections, Scene
from diffps.training import expand_once
from stages.files import replace_file, replace_text
from stages.job import Job, StoppedError
from stages.sources import skipped_scenes

if TYPE_CHECKING:
    from diffps.model import PersonSearcher
    from stages.evaluate import Config
    from stages.scoring import SearchSet


@dataclass(frozen=True, slots=True)
class Found:
    """What one head found in the test scenes: ``boxes`` (N, 4) in the scene frame, ``scores`` (N,), ``embeddings``
    (N, D) and ``scenes`` (N,) the scene's number; ``query_embeddings`` (Q, D) of all the dataset's queries."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    scenes: NDArray[np.int64]
    query_embeddings: NDArray[np.float32]

    def write(self, folder: Path, test: "SearchSet") -> None:
        """detections.parquet and queries.parquet."""
        table = {
            "scene_id": pa.array([test.scenes[number].scene_id for number in self.scenes], pa.string()),
            **box_columns(self.boxes),
            "score": pa.array(self.scores),
            "embedding": _embedding_column(self.embeddings),
        }
        replace_file(folder / "detections.parquet", lambda path: pq.write_table(pa.table(table), path))
        queries = {
            "query_id": pa.array([query.query_id for query in test.queries], pa.string()),
            "scene_id": pa.array([query.scene_id for query in test.queries], pa.string()),
            **box_columns(np.array([query.box for query in test.queries], np.float32)),
            "identity": pa.array([query.identity for query in test.queries], pa.int64()),
            "embedding": _embedding_column(self.query_embeddings),
        }
        replace_file(folder / "queries.parquet", lambda path: pq.write_table(pa.table(queries), path))

    def write_exchange(self, folder: Path, test: "SearchSet") -> None:
        """coco.json, the detections as COCO annotations with a score, and embeddings.npy with a row for each."""
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        content = {
            "images": [
                {"id": number, "file_name": scene.path, "width": scene.width, "height": scene.height}
                for number, scene in enumerate(test.scenes)
            ],
            "categories": [{"id": 1, "name": "person"}],
            "annotations": [
                {
                    "id": row + 1,
                    "image_id": int(self.scenes[row]),
                    "category_id": 1,
                    "bbox": [*self.boxes[row, :2].tolist(), *sizes[row].tolist()],
                    "area": float(sizes[row, 0] * sizes[row, 1]),
                    "iscrowd": 0,
                    "score": float(self.scores[row]),
                }
                for row in range(len(self.boxes))
            ],
        }

        def write_embeddings(path: Path) -> None:
            with path.open("wb") as file:
                np.save(file, self.embeddings)

        replace_text(folder / "coco.json", json.dumps(content))
        replace_file(folder / "embeddings.npy", write_embeddings)


def read_detections(path: Path) -> dict[str, Detections]:
    """detections.parquet as ``{scene_id: Detections}`` in the scene frame, strongest first; empty scenes are absent."""
    table = pq.read_table(path)
    boxes, scores = box_array(table), table["score"].to_numpy()
    column = table["embedding"].combine_chunks()
    embeddings = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    scene_ids = np.array(table["scene_id"].to_pylist())
    order = np.lexsort((-scores, scene_ids))
    names, starts = np.unique(scene_ids[order], return_index=True)
    parts = np.split(order, starts[1:])
    return {
        str(name): Detections(boxes[part], scores[part], embeddings[part])
        for name, part in zip(names, parts, strict=False)
    }


def search_gallery(
    config: "Config",
    job: Job,
    searchers: Mapping[str, "PersonSearcher"],
    source: FeatureSource,
    test: "SearchSet",
    device: torch.device,
) -> dict[str, Found]:
    """Run every head over every test scene; each batch is read and expanded once.

    Scenes that extraction skipped have no detections. Raises DatasetError for a query in one of them, StoppedError.
    """
    names = list(dict.fromkeys(name for searcher in searchers.values() for name in searcher.taps.names))
    heads = {name: _Collector(searcher.to(device).eval(), test) for name, searcher in searchers.items()}
    skipped = skipped_scenes(source, job)
    lost = [query.query_id for query in test.queries if query.scene_id in skipped]
    if lost:
        raise DatasetError(
            f"evaluate: query {lost[0]} and {len(lost) - 1} more lie in images that could not be read; "
            "restore those images and run `diffps index`, `diffps encode` and `diffps extract`, "
            "or take the queries out of the dataset"
        )
    scenes = [scene for scene in test.scenes if scene.scene_id not in skipped]
    batches = [scenes[start : start + config.batch] for start in range(0, len(scenes), config.batch)]
    refs = [[Ref(scene.scene_id) for scene in batch] for batch in batches]
    with job.track("evaluate", len(scenes), "images") as tracker:
        for batch, features in zip(batches, source.stream(refs, names), strict=True):
            expanded = {name: expand_once(features[name], None, device) for name in names}
            for head in heads.values():
                head.add(batch, expanded, config)
            tracker.advance(len(batch))
            if job.stopping:
                raise StoppedError("evaluate: stopped; nothing was written, the same command starts over")
    return {name: head.found() for name, head in heads.items()}


class _Collector:
    """One head's findings as they come."""

    def __init__(self, searcher: "PersonSearcher", test: "SearchSet") -> None:
        self._searcher = searcher
        self._test = test
        self._parts: list[tuple[int, Detections]] = []
        self._queries: dict[int, NDArray[np.float32]] = {}
        self._embedding_size = searcher.config.embedding.size

    def add(self, batch: Sequence[Scene], features: Mapping[str, Feature], config: "Config") -> None:
        """Detect in a batch of scenes, and embed the queries that lie in them."""
        canvas = self._searcher.canvas
        if config.gt_boxes:
            truths = [self._test.annotations[scene.scene_id].boxes for scene in batch]
            embeddings = self._embed(features, canvas, batch, truths)
            found = [Detections(b, np.ones(len(b), np.float32), e) for b, e in zip(truths, embeddings, strict=True)]
        else:
            found = [
                Detections(canvas.to_scene(part.boxes, scene.size), part.scores, part.embeddings)
                for scene, part in zip(
                    batch, self._searcher.detect(features, score_threshold=config.score_threshold), strict=True
                )
            ]
        self._parts += [(self._test.numbers[scene.scene_id], part) for scene, part in zip(batch, found, strict=True)]
        asked = [row for row, scene in enumerate(batch) if scene.scene_id in self._test.queries_in]
        if asked:
            scenes = [batch[row] for row in asked]
            rows = [self._test.queries_in[scene.scene_id] for scene in scenes]
            boxes = [np.stack([self._test.queries[q].box for q in part]) for part in rows]
            part_features = {name: _select(feature, asked) for name, feature in features.items()}
            for numbers, embedded in zip(rows, self._embed(part_features, canvas, scenes, boxes), strict=True):
                self._queries |= dict(zip(numbers, embedded, strict=True))

    def found(self) -> Found:
        """All of it as arrays."""
        size = self._embedding_size
        return Found(
            boxes=np.concatenate([part.boxes for _, part in self._parts]),
            scores=np.concatenate([part.scores for _, part in self._parts]),
            embeddings=np.concatenate([part.embeddings for _, part in self._parts]),
            scenes=np.repeat([number for number, _ in self._parts], [len(part) for _, part in self._parts]),
            query_embeddings=np.array([self._queries[q] for q in sorted(self._queries)], np.float32).reshape(-1, size),
        )

    def _embed(
        self,
        features: Mapping[str, Feature],
        canvas: Canvas,
        scenes: Sequence[Scene],
        boxes: Sequence[NDArray[np.float32]],
    ) -> list[NDArray[np.float32]]:
        device = next(self._searcher.parameters()).device
        placed = [
            torch.from_numpy(canvas.to_canvas(part, scene.size)).to(device)
            for part, scene in zip(boxes, scenes, strict=True)
        ]
        return [embeddings.float().cpu().numpy() for embeddings in self._searcher.embed(features, placed)]


def _select(feature: Feature, rows: Sequence[int]) -> Feature:
    """Some samples of an expanded batch."""
    return Feature(feature.values[list(rows)], basis=feature.basis)


def _embedding_column(embeddings: NDArray[np.float32]) -> Any:
    values = pa.array(np.ascontiguousarray(embeddings, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])
