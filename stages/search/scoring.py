"""Scores of what a head detected: persons found, queries answered, and the baselines beside them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ImageError
from diffps.metrics.baselines import colour_histograms
from diffps.metrics.cbgm import context_overrides, query_context
from diffps.metrics.detection import score_detection
from diffps.metrics.failures import recall_by_label, search_causes
from diffps.metrics.galleries import SearchTask
from diffps.metrics.search import SearchScores
from diffps.records import UNLABELLED
from stages.config_heads import CBGMConfig, EvaluateConfig
from stages.images import ImageFolder
from stages.job import Job
from stages.search.gallery import SearchSet
from stages.search.tables import Detected, write_per_query, write_ranking


def score_head(
    config: EvaluateConfig,
    task: SearchTask,
    test: SearchSet,
    found: Detected,
    scores: SearchScores,
    folder: Path,
    made_by: str,
) -> dict[str, Any]:
    """Write the tables into ``folder``, and give the numbers; ``scores`` are those of :func:`rank`. ``made_by``: see
    :meth:`Detected.write`."""
    found.write(folder, test, made_by)
    write_ranking(task, scores, found, folder)
    write_per_query(task, scores, folder)
    causes = search_causes(found.scenes, len(test.scenes), scores.existing, scores.found)
    return {
        "detection": detection_metrics(test, found.boxes, found.scores, found.scenes),
        "search": search_metrics(config, task, scores),
        "causes": asdict(causes),
    }


def rank(config: EvaluateConfig, task: SearchTask, test: SearchSet, found: Detected) -> SearchScores:
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


def search_metrics(config: EvaluateConfig, task: SearchTask, scores: SearchScores) -> dict[str, Any]:
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
    """ap, recall, precision, ap_small over all true boxes; ap_labelled and recall_labelled over those with a name;
    how many have one (``labelled``) and how many not, whose share found is ``recall_unlabelled``."""
    persons = [test.annotations[scene.scene_id] for scene in test.scenes]
    true_boxes = np.concatenate([part.boxes for part in persons])
    true_scenes = np.repeat(np.arange(len(persons)), [len(part.boxes) for part in persons])
    labelled = np.concatenate([part.identities for part in persons]) != UNLABELLED
    everyone = score_detection(boxes, scores, scenes, true_boxes, true_scenes)
    named = score_detection(boxes, scores, scenes, true_boxes, true_scenes, labelled=labelled)
    by_label = recall_by_label(everyone.matches, labelled)
    return defined(
        {
            **everyone.summary(),
            "ap_labelled": named.ap,
            "recall_labelled": named.recall,
            "recall_unlabelled": by_label.recall_unlabelled,
            "labelled": by_label.labelled,
            "unlabelled": by_label.unlabelled,
        }
    )


def score_colours(task: SearchTask, test: SearchSet, images: ImageFolder, job: Job) -> dict[str, Any] | None:
    """Colour histograms of true boxes, of queries and gallery alike; None, and said, where an image cannot be read."""
    embeddings, boxes, scenes = [], [], []
    queries: dict[int, NDArray[np.float32]] = {}
    with job.track("baseline", len(test.scenes), "images") as tracker:
        for number, scene in enumerate(test.scenes):
            try:
                image = images.pixels(scene)
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


def _contexts(task: SearchTask, test: SearchSet, found: Detected, cbgm: CBGMConfig) -> list[NDArray[np.floating]]:
    """For each query its own embedding, then those of the most confident other people in its scene."""
    contexts = []
    for query, embedding in zip(task.queries, found.query_embeddings[task.rows], strict=True):
        inside = np.flatnonzero(found.scenes == test.numbers[query.scene_id])
        boxes, scores, rows = found.boxes[inside], found.scores[inside], found.embeddings[inside]
        contexts.append(query_context(query.box, embedding, boxes, scores, rows, cbgm.k2))
    return contexts


def defined(values: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: what is undefined becomes null."""
    return {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in values.items()}
