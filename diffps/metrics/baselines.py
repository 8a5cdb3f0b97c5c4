"""What a score has to be compared with: ranking by chance, and by the colours in a box."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffps.metrics.galleries import SearchTask

STRIPS = 6  # horizontal, from head to feet
BINS = (8, 4, 4)  # of hue, saturation and value
CHANCE_RUNS = 5
CHANCE_SIZE = 8  # dimensions of the random embeddings; any number ranks by chance


def chance_level(
    task: SearchTask, boxes: NDArray[np.floating], scenes: NDArray[np.integer], seed: int = 0
) -> dict[str, float]:
    """map, top1, top5, top10 of ranking the same detections by random embeddings, averaged over five runs."""
    rng = np.random.default_rng(seed)
    runs = [
        task.score(
            rng.normal(size=(len(task.queries), CHANCE_SIZE)), rng.normal(size=(len(boxes), CHANCE_SIZE)), boxes, scenes
        ).summary()
        for _ in range(CHANCE_RUNS)
    ]
    return {name: float(np.mean([run[name] for run in runs])) for name in ("map", "top1", "top5", "top10")}


def colour_histograms(image: NDArray[np.uint8], boxes: NDArray[np.floating]) -> NDArray[np.float32]:
    """Embeddings (n, D) of boxes (n, 4) in an RGB image (H, W, 3): HSV histograms of horizontal strips, root-scaled.

    The square root makes their cosine the Bhattacharyya coefficient. A strip without pixels stays zero.
    """
    size = int(np.prod(BINS))
    histograms = np.zeros((len(boxes), STRIPS, size), np.float32)
    for row, (x1, y1, x2, y2) in enumerate(np.asarray(boxes, np.float64)):
        edges = np.linspace(y1, y2, STRIPS + 1).round().astype(int).clip(min=0)
        crop = image[edges[0] : edges[-1], max(0, round(x1)) : max(0, round(x2))]
        if not crop.size:
            continue
        hsv = np.asarray(Image.fromarray(crop).convert("HSV"), np.int64) * BINS // 256
        cells = np.ravel_multi_index((hsv[..., 0], hsv[..., 1], hsv[..., 2]), BINS)
        for strip, (top, bottom) in enumerate(pairwise(edges - edges[0])):
            inside = cells[top:bottom].ravel()
            if len(inside):
                histograms[row, strip] = np.bincount(inside, minlength=size) / len(inside)
    return np.sqrt(histograms).reshape(len(boxes), STRIPS * size)
