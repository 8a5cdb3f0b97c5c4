"""Context bipartite graph matching (SeqNet): the people around the query must also be found around the match."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diffps.metrics.counting import Overrides
from diffps.metrics.matching import box_iou
from diffps.metrics.similarity import exact_unit_rows

Value = Literal["max", "sum"]
SAME_PERSON_IOU = 0.4  # above it a detection is the query itself, not its context (the detector's own NMS bound)


def context_overrides(
    ranking: NDArray[np.int64],
    contexts: Sequence[NDArray[np.floating]],
    embeddings: NDArray[np.floating],
    scenes: NDArray[np.integer],
    value: Value = "max",
) -> Overrides:
    """Similarities revised for the scenes of the k1 most similar detections of each query.

    ``ranking`` (Q, k1): indices of detections, -1 for none. ``contexts``: for each query (c, D) as
    :func:`query_context` gives them. ``embeddings`` (N, D) and ``scenes`` (N,) of the detections.

    In each scene the context is matched one to one with the detections so that the summed similarity is greatest. The
    detection matched with the query gets the largest similarity among the matched pairs, SeqNet's rule, or with
    ``value`` ``sum`` their sum, which leaves the scale of cosines. A query left unmatched, where its scene shows fewer
    people than its context has, changes nothing there.
    """
    rows = exact_unit_rows(embeddings, "detection embeddings").astype(np.float64)
    order = np.argsort(scenes, kind="stable")
    sorted_scenes = np.asarray(scenes)[order]
    starts, detections, values = [0], [], []
    for top, context in zip(ranking, contexts, strict=True):
        wide = exact_unit_rows(context, "query context").astype(np.float64)
        for scene in np.unique(np.asarray(scenes)[top[top >= 0]]):
            low, high = np.searchsorted(sorted_scenes, [scene, scene + 1])
            inside = order[low:high]
            similarities = wide @ rows[inside].T
            persons, matched = linear_sum_assignment(similarities, maximize=True)
            if len(persons) and persons[0] == 0:
                pairs = similarities[persons, matched]
                detections.append(inside[matched[0]])
                values.append(pairs.max() if value == "max" else pairs.sum())
        starts.append(len(detections))
    return Overrides(np.array(starts, np.int64), np.array(detections, np.int64), np.array(values, np.float64))


def query_context(
    box: NDArray[np.floating],
    embedding: NDArray[np.floating],
    boxes: NDArray[np.floating],
    scores: NDArray[np.floating],
    embeddings: NDArray[np.floating],
    k2: int,
) -> NDArray[np.floating]:
    """At most ``k2`` embeddings (c, D): the query's own, then those of the most confident other people in its scene.

    ``box`` (4,) and ``embedding`` (D,) of the query; ``boxes`` (n, 4), ``scores`` (n,) and ``embeddings`` (n, D) of the
    detections in its scene. Of equal scores the first detection counts.
    """
    query_box = np.asarray(box, np.float32)
    others = [
        d for d, other in enumerate(np.asarray(boxes, np.float32)) if box_iou(other, query_box) <= SAME_PERSON_IOU
    ]
    strongest = sorted(others, key=lambda d: -scores[d])[: k2 - 1]
    return np.concatenate([embedding[None], embeddings[strongest]])
