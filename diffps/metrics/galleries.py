"""Who is searched where: the arrays that search scoring needs, from scenes, annotations, queries and a gallery rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.metrics.counting import Overrides
from diffps.metrics.search import Positives, SearchScores, score_search
from diffps.records import Annotations, Convention, Gallery, Query, Scene

GalleryRule = Literal["all", "same_camera", "cross_camera"]
GALLERY_RULES: tuple[GalleryRule, ...] = get_args(GalleryRule)


@dataclass(frozen=True, slots=True)
class SearchTask:
    """One evaluation: ``queries`` (``rows`` of the dataset's list), ``scenes`` numbered in this order, and for each
    query its gallery and positives, as :func:`score_search` takes them."""

    name: str
    convention: Convention
    queries: tuple[Query, ...]
    rows: NDArray[np.int64]
    scenes: tuple[Scene, ...]
    galleries: Sequence[NDArray[np.integer]] | None
    excluded: NDArray[np.int64] | None
    positives: Positives

    def score(
        self,
        query_embeddings: NDArray[np.floating],
        embeddings: NDArray[np.floating],
        boxes: NDArray[np.floating],
        scenes: NDArray[np.integer],
        *,
        top: int = 10,
        overrides: Overrides | None = None,
    ) -> SearchScores:
        """Rank detections (N, ...) lying in ``scenes`` (N,) for ``queries``, whose embeddings are (Q, D)."""
        return score_search(
            query_embeddings,
            embeddings,
            boxes,
            scenes,
            self.positives,
            galleries=self.galleries,
            excluded=self.excluded,
            convention=self.convention,
            top=top,
            overrides=overrides,
        )


def rule_task(
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    queries: Sequence[Query],
    rule: GalleryRule,
    convention: Convention,
) -> SearchTask:
    """Galleries by rule: all given scenes, or those of the query's own or of the other cameras; never its own scene.

    Raises DatasetError where a camera rule meets scenes without cameras.
    """
    cameras = np.array([-1 if scene.camera is None else scene.camera for scene in scenes])
    if rule != "all" and (cameras < 0).any():
        raise DatasetError(
            f"gallery {rule}: the dataset names no cameras; take it out of evaluate.gallery and evaluate.also"
        )
    numbers = {scene.scene_id: number for number, scene in enumerate(scenes)}
    own = np.array([numbers[query.scene_id] for query in queries], np.int64)
    galleries = None
    if rule != "all":
        same = {camera: np.flatnonzero(cameras == camera) for camera in np.unique(cameras)}
        other = {camera: np.flatnonzero(cameras != camera) for camera in np.unique(cameras)}
        chosen = same if rule == "same_camera" else other
        galleries = [chosen[cameras[scene]] for scene in own]
    return SearchTask(
        name=rule,
        convention=convention,
        queries=tuple(queries),
        rows=np.arange(len(queries)),
        scenes=tuple(scenes),
        galleries=galleries,
        excluded=own,
        positives=_labelled_positives(scenes, annotations, queries, each_box=convention == "labels"),
    )


def listed_task(
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    queries: Sequence[Query],
    gallery: Gallery,
    index_scenes: Sequence[Scene],
    convention: Convention,
) -> SearchTask:
    """Galleries that a protocol file lists, by rows of ``index_scenes``. Positives are its rows under ``protocol``, the
    labels of the listed scenes under ``labels``."""
    numbers = {scene.scene_id: number for number, scene in enumerate(scenes)}
    renumber = np.array([numbers.get(scene.scene_id, -1) for scene in index_scenes], np.int64)
    query_rows = {query.query_id: row for row, query in enumerate(queries)}
    rows = np.array([query_rows[query_id] for query_id in gallery.query_ids], np.int64)
    chosen = tuple(queries[row] for row in rows)
    if convention == "labels":
        positives = _labelled_positives(scenes, annotations, chosen, each_box=True)
    else:
        counts = [len(part) for part in gallery.positive_scenes]
        positives = Positives(
            np.repeat(np.arange(len(rows)), counts),
            renumber[np.concatenate(gallery.positive_scenes)] if counts else np.empty(0, np.int64),
            np.concatenate(gallery.positive_boxes) if counts else np.empty((0, 4), np.float32),
        )
    return SearchTask(
        name=gallery.name,
        convention=convention,
        queries=chosen,
        rows=rows,
        scenes=tuple(scenes),
        galleries=[renumber[part] for part in gallery.scenes],
        excluded=None,
        positives=positives,
    )


def _labelled_positives(
    scenes: Sequence[Scene], annotations: Mapping[str, Annotations], queries: Sequence[Query], *, each_box: bool
) -> Positives:
    """Boxes labelled with the query's identity; of several in one scene the first alone unless ``each_box``."""
    places: dict[int, list[tuple[int, NDArray[np.float32]]]] = {query.identity: [] for query in queries}
    for number, scene in enumerate(scenes):
        persons = annotations[scene.scene_id]
        seen = set()
        for identity, box in zip(persons.identities.tolist(), persons.boxes, strict=True):
            if identity in places and (each_box or identity not in seen):
                places[identity].append((number, box))
                seen.add(identity)
    found = [(row, *place) for row, query in enumerate(queries) for place in places[query.identity]]
    return Positives(
        np.array([row for row, _, _ in found], np.int64),
        np.array([number for _, number, _ in found], np.int64),
        np.array([box for _, _, box in found], np.float32).reshape(-1, 4),
    )
