"""How well embeddings tell persons apart, each searching all the others."""

import numpy as np
from numpy.typing import NDArray

from diffps.records import UNLABELLED


def retrieval_map(embeddings: NDArray[np.float32], identities: NDArray[np.int64], scenes: NDArray[np.int64]) -> float:
    """Mean average precision of persons (n, d) searching one another; a person's own scene is no answer.

    Some identity is seen in two scenes.
    """
    similarity = embeddings @ embeddings.T
    precisions = []
    for query in np.flatnonzero(identities != UNLABELLED):
        others = np.flatnonzero(scenes != scenes[query])
        ranked = others[np.argsort(-similarity[query, others], kind="stable")]
        hits = np.flatnonzero(identities[ranked] == identities[query])
        if len(hits):
            precisions.append(np.mean(np.arange(1, len(hits) + 1) / (hits + 1)))
    return float(np.mean(precisions))
