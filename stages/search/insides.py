"""What a trained head owes to its learned modules: scores without each, and the numbers it has learned."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from diffps.features import Feature
from diffps.knockouts import gate_ranges, learned_scalars, widest
from diffps.metrics.galleries import SearchTask
from diffps.metrics.paired import paired_difference
from diffps.metrics.search import SearchScores
from diffps.model import PersonSearcher
from diffps.records import Scene
from stages.config_heads import EvaluateConfig
from stages.search.gallery import SearchSet
from stages.search.inference import select
from stages.search.scoring import defined, detection_metrics, rank
from stages.search.tables import Detected


class Gates:
    """Least and greatest factor of each of a head's gates, over the queries' scenes and their boxes."""

    def __init__(self, searcher: PersonSearcher, test: SearchSet) -> None:
        self._searcher, self._test = searcher, test
        self._ranges: list[dict[str, tuple[float, float]]] = []

    def look(self, batch: Sequence[Scene], features: Mapping[str, Feature]) -> None:
        """Take in a batch of scenes with its expanded features."""
        asked = [row for row, scene in enumerate(batch) if scene.scene_id in self._test.queries_in]
        if not asked:
            return
        device = next(self._searcher.parameters()).device
        boxes = []
        for scene in (batch[row] for row in asked):
            found = np.stack([self._test.queries[query].box for query in self._test.queries_in[scene.scene_id]])
            boxes.append(torch.from_numpy(self._searcher.canvas.to_canvas(found, scene.size)).to(device))
        part = {name: select(feature, asked) for name, feature in features.items()}
        self._ranges.append(gate_ranges(self._searcher, part, boxes))

    def learned(self, words: Sequence[str]) -> dict[str, Any]:
        """Learned scalars by module, with ``gate_min`` and ``gate_max`` where it has a gate. ``words``: those that SFAN
        compares with; numbered where they are not known."""
        found = learned_scalars(self._searcher, words or None)
        for name, (low, high) in widest(self._ranges).items():
            found[name] |= {"gate_min": low, "gate_max": high}
        return found


def knock_out_metrics(
    config: EvaluateConfig, task: SearchTask, test: SearchSet, without: Detected, whole: SearchScores
) -> dict[str, Any]:
    """map, top1 and detection_ap of a head ``without`` a module; ``map_diff`` to the ``whole`` head, paired query by
    query, and its standard error over the queries."""
    ranked = rank(config, task, test, without)
    summary = ranked.summary()
    detection = detection_metrics(test, without.boxes, without.scores, without.scenes)
    change = paired_difference([(_precisions(task, whole), _precisions(task, ranked))])
    return {
        **defined({"map": summary["map"], "top1": summary["top1"]}),
        "detection_ap": detection["ap"],
        "map_diff": change.get("map_diff"),
        "map_diff_se": change.get("map_diff_se"),
    }


def _precisions(task: SearchTask, scores: SearchScores) -> dict[str, float]:
    pairs = zip(task.queries, scores.average_precision.tolist(), strict=True)
    return {query.query_id: precision for query, precision in pairs if not np.isnan(precision)}
