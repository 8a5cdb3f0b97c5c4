"""Held-out identities as a calibration needs them, from what a head found in annotated scenes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.metrics.matching import IOU_THRESHOLD, mutual_matches
from diffps.records import UNLABELLED, Annotations, Query, Scene
from diffps.search.openset import HeldOut


def held_out_searches(
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    boxes: NDArray[np.float32],
    embeddings: NDArray[np.floating],
    box_scenes: NDArray[np.integer],
    queries: Sequence[Query],
    query_embeddings: NDArray[np.floating],
) -> HeldOut:
    """Detections ``boxes`` (N, 4) with ``embeddings`` (N, D) in ``box_scenes`` (N,), numbers of ``scenes``, and
    ``queries`` with their embeddings (Q, D).

    A detection is the person whose annotated box it overlaps best, if each is the other's best and the overlap is at
    least 0.5; else it is nobody known. Queries without a name are left out.
    """
    identities = np.full(len(boxes), UNLABELLED, np.int64)
    seen_identities, seen_scenes = [], []
    for number, scene in enumerate(scenes):
        truth = annotations[scene.scene_id]
        rows = np.flatnonzero(box_scenes == number)
        matches, _ = mutual_matches(truth.boxes, np.ascontiguousarray(boxes[rows], np.float32), IOU_THRESHOLD)
        found = matches >= 0
        identities[rows[found]] = truth.identities[matches[found]]
        named = truth.identities[truth.identities != UNLABELLED]
        seen_identities.append(named)
        seen_scenes.append(np.full(len(named), number))
    numbers = {scene.scene_id: number for number, scene in enumerate(scenes)}
    asked = [row for row, query in enumerate(queries) if query.identity != UNLABELLED]
    return HeldOut(
        embeddings=embeddings,
        scenes=box_scenes,
        identities=identities,
        seen_identities=np.concatenate([np.empty(0, np.int64), *seen_identities]),
        seen_scenes=np.concatenate([np.empty(0, np.int64), *seen_scenes]),
        queries=query_embeddings[asked],
        query_identities=np.array([queries[row].identity for row in asked], np.int64),
        query_scenes=np.array([numbers[queries[row].scene_id] for row in asked], np.int64).reshape(-1, 1),
        scene_count=len(scenes),
    )
