"""What a head detected, how queries rank it, and each query's score, as tables on disk."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cache.files import write_file, write_text
from diffps.datasets.tables import box_array, box_columns
from diffps.metrics.galleries import SearchTask
from diffps.metrics.search import SearchScores
from diffps.records import Detections
from stages.search.gallery import SearchSet
from stages.together import table_content

MADE_BY = "made_by"  # in detections.parquet


@dataclass(frozen=True, slots=True)
class Detected:
    """What one head found in the test scenes: ``boxes`` (N, 4) in the scene frame, ``scores`` (N,), ``embeddings``
    (N, D) and ``scenes`` (N,) the scene's number; ``query_embeddings`` (Q, D) of all the dataset's queries."""

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]
    scenes: NDArray[np.int64]
    query_embeddings: NDArray[np.float32]

    def write(self, folder: Path, test: SearchSet, made_by: str = "") -> None:
        """detections.parquet and queries.parquet; ``made_by`` is the digest of the head that found these boxes, kept
        with the table so that a search can tell whose embeddings they are; empty where they are not to be searched."""
        table = {
            "scene_id": pa.array([test.scenes[number].scene_id for number in self.scenes], pa.string()),
            **box_columns(self.boxes),
            "score": pa.array(self.scores),
            "embedding": _embedding_column(self.embeddings),
        }
        signed = pa.table(table).replace_schema_metadata({MADE_BY: made_by} if made_by else None)
        write_file(folder / "detections.parquet", lambda path: pq.write_table(signed, path))
        queries = {
            "query_id": pa.array([query.query_id for query in test.queries], pa.string()),
            "scene_id": pa.array([query.scene_id for query in test.queries], pa.string()),
            **box_columns(np.array([query.box for query in test.queries], np.float32)),
            "identity": pa.array([query.identity for query in test.queries], pa.int64()),
            "embedding": _embedding_column(self.query_embeddings),
        }
        write_file(folder / "queries.parquet", lambda path: pq.write_table(pa.table(queries), path))

    def write_exchange(self, folder: Path, test: SearchSet) -> None:
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

        write_text(folder / "coco.json", json.dumps(content))
        write_file(folder / "embeddings.npy", write_embeddings)


def read_detections(path: Path) -> dict[str, Detections]:
    """detections.parquet as ``{scene_id: Detections}`` in the scene frame, strongest first; empty scenes are absent."""
    table = table_content(path, "evaluate")
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


def made_by(path: Path) -> str:
    """The digest of the head whose detections a detections.parquet holds; empty where it says none, or is not there."""
    said = pq.read_schema(path).metadata if path.is_file() else None
    return str((said or {}).get(MADE_BY.encode(), b"").decode())


def _embedding_column(embeddings: NDArray[np.float32]) -> Any:
    values = pa.array(np.ascontiguousarray(embeddings, np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(values, embeddings.shape[1])


def write_ranking(task: SearchTask, scores: SearchScores, found: Detected, folder: Path) -> None:
    """ranking.parquet: the most similar detections of every query, the best first."""
    queries, places = np.nonzero(scores.ranking >= 0)
    detections = scores.ranking[queries, places]
    table = pa.table(
        {
            "query_id": pa.array([task.queries[q].query_id for q in queries], pa.string()),
            "rank": pa.array(places + 1, pa.int32()),
            "scene_id": pa.array([task.scenes[number].scene_id for number in found.scenes[detections]], pa.string()),
            **box_columns(found.boxes[detections]),
            "similarity": pa.array(scores.similarity[queries, places]),
            "correct": pa.array(scores.correct[queries, places]),
        }
    )
    write_file(folder / "ranking.parquet", lambda path: pq.write_table(table, path))


def write_per_query(task: SearchTask, scores: SearchScores, folder: Path) -> None:
    """per_query.parquet. A query without positives has a null ``ap``, and false hits that no mean contains."""
    table = pa.table(
        {
            "query_id": pa.array([query.query_id for query in task.queries], pa.string()),
            "scene_id": pa.array([query.scene_id for query in task.queries], pa.string()),
            "identity": pa.array([query.identity for query in task.queries], pa.int64()),
            "ap": pa.array(scores.average_precision, from_pandas=True),
            **{f"top{k}": pa.array(scores.hits(k)) for k in (1, 5, 10)},
            "existing": pa.array(scores.existing),
            "found": pa.array(scores.found),
            "first_rank": pa.array(scores.first_rank),
        }
    )
    write_file(folder / "per_query.parquet", lambda path: pq.write_table(table, path))
