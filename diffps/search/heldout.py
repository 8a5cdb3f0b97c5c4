"""Held-out identities as a calibration needs them, from what a head found in annotated scenes."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.metrics.matching import IOU_THRESHOLD, mutual_matches
from diffps.records import UNLABELLED, Annotations, Scene
from diffps.search.openset import HeldOut


def held_out_searches(
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    boxes: NDArray[np.float32],
    embeddings: NDArray[np.floating],
    box_scenes: NDArray[np.integer],
) -> HeldOut:
    """Detections ``boxes`` (N, 4) with ``embeddings`` (N, D) in ``box_scenes`` (N,), which are numbers of ``scenes``.
    Every detected person who has a name is a query.

    A detection is the person whose annotated box it overlaps best, if each is the other's best and the overlap is at
    least 0.5; else it is nobody known.
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
    asked = identities != UNLABELLED
    return HeldOut(
        embeddings=embeddings,
        scenes=box_scenes,
        identities=identities,
        seen_identities=np.concatenate([np.empty(0, np.int64), *seen_identities]),
        seen_scenes=np.concatenate([np.empty(0, np.int64), *seen_scenes]),
        queries=embeddings[asked],
        query_identities=identities[asked],
        query_scenes=box_scenes[asked].reshape(-1, 1),
        scene_count=len(scenes),
    )
