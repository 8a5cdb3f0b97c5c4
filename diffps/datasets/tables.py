"""The index on disk: images, annotations, queries and galleries as Parquet files, and report.json beside them."""

import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.records import Annotations, Gallery, Query, Scene, SearchIndex, Split

REPORT = "report.json"
BOX_COLUMNS = ("x1", "y1", "x2", "y2")


def write_index(index: SearchIndex, folder: Path) -> None:
    """Write ``folder``/{images,annotations,queries,galleries}.parquet and report.json.

    The report is removed first and written last: without it the other files are not taken for an index.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / REPORT).unlink(missing_ok=True)
    pq.write_table(_images_table(index.scenes), folder / "images.parquet")
    pq.write_table(_annotations_table(index), folder / "annotations.parquet")
    pq.write_table(_queries_table(index.queries), folder / "queries.parquet")
    pq.write_table(_galleries_table(index.galleries), folder / "galleries.parquet")
    temporary = folder / f".{REPORT}.tmp"
    temporary.write_text(json.dumps(index.report, indent=2) + "\n", encoding="utf-8")
    temporary.replace(folder / REPORT)


def read_scenes(folder: Path, split: Split | None = None) -> list[Scene]:
    """Scenes in index order, of one split or of both; reads images.parquet only. Raises DatasetError."""
    rows = _read(folder, "images").to_pylist()
    return [Scene(**row) for row in rows if split is None or row["split"] == split]


def read_annotations(folder: Path) -> dict[str, Annotations]:
    """``{scene_id: Annotations}`` of every scene, those without persons included."""
    table = _read(folder, "annotations")
    boxes = box_array(table)
    identities = table["identity"].to_numpy()
    rows: dict[str, list[int]] = {scene_id: [] for scene_id in _read(folder, "images")["scene_id"].to_pylist()}
    for row, scene_id in enumerate(table["scene_id"].to_pylist()):
        rows[scene_id].append(row)
    return {scene_id: Annotations(boxes[at], identities[at]) for scene_id, at in _as_rows(rows)}


def read_queries(folder: Path) -> list[Query]:
    """Queries in index order."""
    table = _read(folder, "queries")
    names = zip(table["query_id"].to_pylist(), table["scene_id"].to_pylist(), strict=True)
    return [
        Query(query_id=query_id, scene_id=scene_id, box=box, identity=identity)
        for (query_id, scene_id), box, identity in zip(
            names, box_array(table), table["identity"].to_pylist(), strict=True
        )
    ]


def gallery_names(folder: Path) -> list[str]:
    """Names of the galleries that the dataset lists row by row, in index order."""
    return list(dict.fromkeys(_read(folder, "galleries", columns=["gallery"])["gallery"].to_pylist()))


def read_gallery(folder: Path, name: str) -> Gallery:
    """One listed gallery. Raises DatasetError naming those there are."""
    table = _read(folder, "galleries", only=pc.field("gallery") == name)
    if not len(table):
        known = ", ".join(gallery_names(folder)) or "none"
        raise DatasetError(f"gallery {name}: not in {folder / 'galleries.parquet'}; listed there: {known}")
    return Gallery(
        name=name,
        query_ids=tuple(table["query_id"].to_pylist()),
        scenes=_list_column(table, "scenes"),
        positive_scenes=_list_column(table, "positive_scenes"),
        positive_boxes=tuple(boxes.reshape(-1, 4) for boxes in _list_column(table, "positive_boxes")),
    )


def box_array(table: pa.Table) -> NDArray[np.float32]:
    """Columns x1, y1, x2, y2 as (n, 4) float32."""
    return np.stack([table[name].to_numpy() for name in BOX_COLUMNS], axis=1).astype(np.float32)


def box_columns(boxes: NDArray[np.floating]) -> dict[str, pa.Array]:
    """(n, 4) boxes as the four float32 columns of a table."""
    columns = np.asarray(boxes, np.float32).reshape(-1, 4).T
    return {name: pa.array(column) for name, column in zip(BOX_COLUMNS, columns, strict=True)}


def _images_table(scenes: Iterable[Scene]) -> pa.Table:
    names = ("scene_id", "split", "path", "width", "height", "digest", "camera")
    schema = pa.schema([(name, pa.int32() if name in ("width", "height", "camera") else pa.string()) for name in names])
    return pa.Table.from_pylist([{name: getattr(scene, name) for name in names} for scene in scenes], schema)


def _annotations_table(index: SearchIndex) -> pa.Table:
    found = [(scene.scene_id, index.annotations[scene.scene_id]) for scene in index.scenes]
    boxes = [annotations.boxes for _, annotations in found] or [np.empty((0, 4), np.float32)]
    identities = [annotations.identities for _, annotations in found] or [np.empty(0, np.int64)]
    return pa.table(
        {
            "scene_id": pa.array([name for name, persons in found for _ in persons.boxes], pa.string()),
            **box_columns(np.concatenate(boxes)),
            "identity": pa.array(np.concatenate(identities)),
        }
    )


def _queries_table(queries: tuple[Query, ...]) -> pa.Table:
    return pa.table(
        {
            "query_id": pa.array([query.query_id for query in queries], pa.string()),
            "scene_id": pa.array([query.scene_id for query in queries], pa.string()),
            **box_columns(np.array([query.box for query in queries], np.float32)),
            "identity": pa.array([query.identity for query in queries], pa.int64()),
        }
    )


def _galleries_table(galleries: tuple[Gallery, ...]) -> pa.Table:
    def lists(parts: Iterable[NDArray[Any]], kind: pa.DataType) -> pa.Array:
        arrays = [np.ravel(part) for part in parts]
        offsets = np.cumsum([0, *map(len, arrays)])
        values = np.concatenate(arrays) if arrays else np.empty(0)
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(values, kind))

    return pa.table(
        {
            "gallery": pa.array([g.name for g in galleries for _ in g.query_ids], pa.string()),
            "query_id": pa.array([query_id for g in galleries for query_id in g.query_ids], pa.string()),
            "scenes": lists((part for g in galleries for part in g.scenes), pa.int32()),
            "positive_scenes": lists((part for g in galleries for part in g.positive_scenes), pa.int32()),
            "positive_boxes": lists((part for g in galleries for part in g.positive_boxes), pa.float32()),
        }
    )


def _list_column(table: pa.Table, name: str) -> tuple[NDArray[Any], ...]:
    column = table[name].combine_chunks()
    offsets = column.offsets.to_numpy()
    values = column.values.to_numpy()
    return tuple(values[start:end] for start, end in pairwise(offsets))


def _as_rows(rows: dict[str, list[int]]) -> Iterable[tuple[str, NDArray[np.int64]]]:
    return ((scene_id, np.array(at, np.int64)) for scene_id, at in rows.items())


def _read(folder: Path, name: str, columns: list[str] | None = None, only: pc.Expression | None = None) -> pa.Table:
    """One of the tables, a row group at a time and by this thread alone: those of Arrow's own that are still at work
    when a program ends abort it (apache/arrow#34314)."""
    path = folder / f"{name}.parquet"
    if not path.exists():
        raise DatasetError(f"index: {path} is missing; run: diffps index")
    if not (folder / REPORT).exists():
        raise DatasetError(f"index: {folder} was not written to the end ({REPORT} is missing); run: diffps index")
    file, parts = pq.ParquetFile(path), []
    for number in range(file.num_row_groups):
        part = file.read_row_group(number, columns=columns, use_threads=False)
        parts.append(part if only is None else part.filter(only))
    return pa.concat_tables(parts) if parts else file.schema_arrow.empty_table()
