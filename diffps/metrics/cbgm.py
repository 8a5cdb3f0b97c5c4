"""Context bipartite graph matching (SeqNet): the people around the query must also be found around the match."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diffps.metrics.scan import Overrides
from diffps.metrics.similarity import exact_unit_rows


def context_overrides(
    ranking: NDArray[np.int64],
    contexts: Sequence[NDArray[np.floating]],
    embeddings: NDArray[np.floating],
    scenes: NDArray[np.integer],
) -> Overrides:
    """Similarities revised for the scenes of the k1 most similar detections of each query.

    ``ranking`` (Q, k1): indices of detections, -1 for none. ``contexts``: for each query (c, D), its own embedding
    first, then those of the most confident other people in its scene; at most k2 rows. ``embeddings`` (N, D) and
    ``scenes`` (N,) of the detections.

    In each scene the context is matched one to one with the detections so that the summed similarity is greatest; the
    detection matched with the query gets that sum as its similarity.
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
                detections.append(inside[matched[0]])
                values.append(similarities[persons, matched].sum())
        starts.append(len(detections))
    return Overrides(np.array(starts, np.int64), np.array(detections, np.int64), np.array(values, np.float64))
