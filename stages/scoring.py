"""From what a head found to numbers and tables."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffps.datasets.tables import (
    box_columns,
    gallery_names,
    read_annotations,
    read_gallery,
    read_queries,
    read_scenes,
)
from diffps.errors import ConfigError, ImageError
from diffps.images import load_image
from diffps.metrics.baselines import colour_histograms
from diffps.metrics.cbgm import context_overrides, query_context
from diffps.metrics.detection import score_detection
from diffps.metrics.galleries import GALLERY_RULES, SearchTask, listed_task, rule_task
from diffps.metrics.search import SearchScores
from diffps.records import UNLABELLED, Annotations, Query, Scene
from stages.files import replace_file
from stages.job import Job

if TYPE_CHECKING:
    from stages.evaluate import CBGMConfig, Config
    from stages.inference import Found


@dataclass(frozen=True, slots=True)
class SearchSet:
    """The test split: ``numbers`` gives a scene's place in ``scenes``, ``queries_in`` the queries of a scene."""

    scenes: tuple[Scene, ...]
    annotations: dict[str, Annotations]
    queries: tuple[Query, ...]
    numbers: dict[str, int]
    queries_in: dict[str, list[int]]


def read_search_set(folder: Path) -> SearchSet:
    """The test split of the index in ``folder``. Raises ConfigError when there is nothing to search for."""
    scenes, queries = read_scenes(folder, "test"), read_queries(folder)
    if not scenes or not queries:
        raise ConfigError(
            f"evaluate: {folder} has {len(scenes)} test scenes and {len(queries)} queries; both are needed"
        )
    queries_in: dict[str, list[int]] = {}
    for row, query in enumerate(queries):
        queries_in.setdefault(query.scene_id, []).append(row)
    return SearchSet(
        scenes=tuple(scenes),
        annotations=read_annotations(folder),
        queries=tuple(queries),
        numbers={scene.scene_id: number for number, scene in enumerate(scenes)},
        queries_in=queries_in,
    )


def open_task(config: "Config", test: SearchSet, folder: Path, name: str | int | None = None) -> SearchTask:
    """The evaluation that ``config`` asks for, or the same in gallery ``name``. Raises ConfigError naming those there
    are."""
    name = str(config.gallery if name is None else name)
    listed = gallery_names(folder)
    if name in listed:
        gallery = read_gallery(folder, name)
        return listed_task(test.scenes, test.annotations, test.queries, gallery, read_scenes(folder), config.convention)
    for rule in GALLERY_RULES:
        if name == rule:
            return rule_task(test.scenes, test.annotations, test.queries, rule, config.convention)  # type: ignore[arg-type]
    known = ", ".join([*GALLERY_RULES, *listed])
    raise ConfigError(f"evaluate.gallery {name}: this dataset has {known}")


def score_head(config: "Config", task: SearchTask, test: SearchSet, found: "Found", folder: Path) -> dict[str, Any]:
    """Score, write the tables into ``folder``, and give the numbers."""
    scores = rank(config, task, test, found)
    found.write(folder, test)
    _write_ranking(task, scores, found, folder)
    _write_per_query(task, scores, folder)
    return {
        "detection": detection_metrics(test, found.boxes, found.scores, found.scenes),
        "search": search_metrics(config, task, scores),
    }


def rank(config: "Config", task: SearchTask, test: SearchSet, found: "Found") -> SearchScores:
    """Rank what a head found, with context matching where ``config`` wants it."""
    query_embeddings = found.query_embeddings[task.rows]
    overrides = None
    if config.cbgm is not None:
        ranked = task.score(query_embeddings, found.embeddings, found.boxes, found.scenes, top=config.cbgm.k1)
        contexts = _contexts(task, test, found, config.cbgm)
        overrides = context_overrides(ranked.ranking, contexts, found.embeddings, found.scenes, config.cbgm.value)
    return task.score(
        query_embeddings, found.embeddings, found.boxes, found.scenes, top=config.ranking, overrides=overrides
    )


def search_metrics(config: "Config", task: SearchTask, scores: SearchScores) -> dict[str, Any]:
    """The means, and what they are means of."""
    return {
        **defined(scores.summary()),
        "gallery": task.name,
        "convention": task.convention,
        "gt_boxes": config.gt_boxes,
        "cbgm": config.cbgm is not None,
    }


def detection_metrics(
    test: SearchSet, boxes: NDArray[np.float32], scores: NDArray[np.float32], scenes: NDArray[np.int64]
) -> dict[str, float | None]:
    """ap, recall, precision, ap_small over all true boxes; ap_labelled and recall_labelled over those with a name."""
    persons = [test.annotations[scene.scene_id] for scene in test.scenes]
    true_boxes = np.concatenate([part.boxes for part in persons])
    true_scenes = np.repeat(np.arange(len(persons)), [len(part.boxes) for part in persons])
    labelled = np.concatenate([part.identities for part in persons]) != UNLABELLED
    everyone = score_detection(boxes, scores, scenes, true_boxes, true_scenes)
    named = score_detection(boxes, scores, scenes, true_boxes, true_scenes, labelled=labelled)
    return defined({**everyone.summary(), "ap_labelled": named.ap, "recall_labelled": named.recall})


def score_colours(task: SearchTask, test: SearchSet, root: Path, job: Job) -> dict[str, Any] | None:
    """Colour histograms of true boxes, of queries and gallery alike; None, and said, where an image cannot be read."""
    embeddings, boxes, scenes = [], [], []
    queries: dict[int, NDArray[np.float32]] = {}
    with job.track("baseline", len(test.scenes), "images") as tracker:
        for number, scene in enumerate(test.scenes):
            try:
                image = load_image(root / scene.path)
            except (ImageError, OSError) as error:
                job.say(f"evaluate: no colour baseline: {error}")
                return None
            true_boxes = test.annotations[scene.scene_id].boxes
            embeddings.append(colour_histograms(image, true_boxes))
            boxes.append(true_boxes)
            scenes.append(np.full(len(true_boxes), number))
            asked = test.queries_in.get(scene.scene_id, [])
            if asked:
                histograms = colour_histograms(image, np.stack([test.queries[q].box for q in asked]))
                queries |= dict(zip(asked, histograms, strict=True))
            tracker.advance()
    scores = task.score(
        np.stack([queries[row] for row in task.rows]),
        np.concatenate(embeddings),
        np.concatenate(boxes),
        np.concatenate(scenes),
    )
    return {"name": "colour histograms in ground-truth boxes", **defined(scores.summary())}


def _contexts(task: SearchTask, test: SearchSet, found: "Found", cbgm: "CBGMConfig") -> list[NDArray[np.floating]]:
    """For each query its own embedding, then those of the most confident other people in its scene."""
    contexts = []
    for query, embedding in zip(task.queries, found.query_embeddings[task.rows], strict=True):
        inside = np.flatnonzero(found.scenes == test.numbers[query.scene_id])
        boxes, scores, rows = found.boxes[inside], found.scores[inside], found.embeddings[inside]
        contexts.append(query_context(query.box, embedding, boxes, scores, rows, cbgm.k2))
    return contexts


def _write_ranking(task: SearchTask, scores: SearchScores, found: "Found", folder: Path) -> None:
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
    replace_file(folder / "ranking.parquet", lambda path: pq.write_table(table, path))


def _write_per_query(task: SearchTask, scores: SearchScores, folder: Path) -> None:
    """A query without positives has a null ``ap``, and false hits that no mean contains."""
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
    replace_file(folder / "per_query.parquet", lambda path: pq.write_table(table, path))


def defined(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what is undefined becomes null."""
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}
