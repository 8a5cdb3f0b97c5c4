"""Several heads scored over one reading of the gallery."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from diffps.features import FeatureSource
from diffps.metrics.galleries import SearchTask
from diffps.model import PersonSearcher
from stages.config_heads import EvaluateConfig
from stages.files import write_json
from stages.job import Job
from stages.search.gallery import SearchSet
from stages.search.inference import search_gallery
from stages.search.scoring import score_head
from stages.search.tables import Detected


class Evaluation(NamedTuple):
    """What one head detected, and the content of its metrics.json."""

    detected: Detected
    metrics: dict[str, Any]


def evaluate_heads(
    config: EvaluateConfig,
    searchers: Mapping[str, PersonSearcher],
    source: FeatureSource,
    test: SearchSet,
    task: SearchTask,
    folders: Mapping[str, Path],
    device: torch.device,
    job: Job,
) -> dict[str, Evaluation]:
    """Score every head; each batch of the gallery is read and expanded once.

    Head ``name`` writes detections, queries, ranking, per_query.parquet and metrics.json into ``folders[name]``. Its
    metrics: ``detection`` (ap, recall, precision, ap_small, ap_labelled, recall_labelled) and ``search`` (map, top1,
    top5, top10, recall, queries, queries_without_positives, gallery, ...).
    """
    results = {}
    for name, detected in search_gallery(config, searchers, source, test, device, job).items():
        metrics = score_head(config, task, test, detected, folders[name])
        write_json(folders[name] / "metrics.json", metrics)
        results[name] = Evaluation(detected, metrics)
    return results
