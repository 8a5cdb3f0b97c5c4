"""Heads scored over one reading of the gallery: several side by side, or one with all that is told of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cache.files import write_json, write_text
from diffps.cards import NO_CARD, with_scores
from diffps.features import FeatureSource
from diffps.knockouts import knock_outs
from diffps.metrics.baselines import chance_level
from diffps.metrics.failures import SearchCauses
from diffps.metrics.galleries import SearchTask
from diffps.metrics.search import SearchScores
from diffps.model import PersonSearcher
from stages.config_heads import EvaluateConfig
from stages.head.identity import index_digest
from stages.head.saved import head_digest
from stages.images import ImageFolder
from stages.job import Job
from stages.search.doubts import doubts
from stages.search.gallery import SearchSet, open_task, read_search_set
from stages.search.inference import search_gallery
from stages.search.insides import Gates, knock_out_metrics
from stages.search.main_scores import write_precision, write_scores
from stages.search.scoring import defined, rank, score_colours, score_head, search_metrics
from stages.search.tables import Detected
from stages.together import begin, content, finish, sealed_head

WRITTEN = ("detections.parquet", "metrics.json", "per_query.parquet", "queries.parquet", "ranking.parquet")


class Evaluation(NamedTuple):
    """What one head detected, how queries rank it, and the content of its metrics.json."""

    detected: Detected
    ranked: SearchScores
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
    metrics: ``detection`` (ap, recall, precision, ap_small, ap_labelled, recall_labelled, ...), ``search`` (map, top1,
    top5, top10, recall, queries, queries_without_positives, gallery, ...) and ``causes`` (:class:`SearchCauses`).
    """
    results = {}
    for name, detected in search_gallery(config, searchers, source, test, device, job).items():
        results[name] = _score(config, task, test, detected, folders[name])
        write_json(folders[name] / "metrics.json", results[name].metrics)
    return results


def finish_evaluation(folder: Path, head: Path, more: Sequence[str] = ()) -> None:
    """Say that what lies in ``folder`` are the scores of ``head`` on this index: until then nothing of it is read."""
    finish(folder, (*WRITTEN, *more), {"head": sealed_head(head), "index": index_digest()})


def evaluate_head(
    config: EvaluateConfig,
    searcher: PersonSearcher,
    source: FeatureSource,
    index: Path,
    images: ImageFolder,
    folder: Path,
    device: torch.device,
    job: Job,
    words: Sequence[str] = (),
) -> None:
    """Score the head of ``config.head`` on the test split of ``index`` into ``folder``. ``words``: those of its SFAN.

    Beside what :func:`evaluate_heads` writes: the galleries of ``config.also``, chance, the colours of ``images``, the
    head's learned scalars, and its scores with each module taken out; coco.json, embeddings.npy, scores.json,
    precision.csv, and the head's card.
    """
    test = read_search_set(index)
    tasks = {str(name): open_task(name, config.convention, test, index) for name in (config.gallery, *config.also)}
    task = tasks[str(config.gallery)]
    searcher.to(device).eval()
    gates, out = Gates(searcher, test), knock_outs(searcher) if config.knock_outs else {}
    found = search_gallery(config, {"": searcher, **out}, source, test, device, job, gates.look)
    # True boxes are nobody's detections: a search is not shown them.
    made_by = "" if config.gt_boxes else head_digest(Path(config.head))
    detected, ranked, metrics = _score(config, task, test, found.pop(""), folder, made_by)
    metrics["learned"] = gates.learned(words)
    metrics["knock_outs"] = {
        name: knock_out_metrics(config, task, test, without, ranked) for name, without in found.items()
    }
    metrics["also"] = {
        str(name): search_metrics(config, tasks[str(name)], rank(config, tasks[str(name)], test, detected))
        for name in config.also
    }
    metrics["chance"] = defined(chance_level(task, detected.boxes, detected.scenes))
    if config.baseline:
        metrics["baseline"] = score_colours(task, test, images, job)
    persons = sum(len(test.annotations[scene.scene_id].boxes) for scene in test.scenes)
    metrics["doubts"] = doubts(metrics, len(detected.boxes), persons, config.score_threshold)
    detected.write_exchange(folder, test)
    write_json(folder / "metrics.json", metrics)
    write_scores(metrics, folder)
    write_precision(folder)
    _write_card(Path(config.head), metrics, folder)
    more = ("card.md", "coco.json", "embeddings.npy", "precision.csv", "scores.json")
    finish_evaluation(folder, Path(config.head), more)
    job.say(_line(metrics), **metrics)
    for sentence in SearchCauses(**metrics["causes"]).sentences(config.score_threshold):
        job.say(f"evaluate: {sentence}")
    for sentence in metrics["doubts"]:
        job.say(f"evaluate: {sentence}")


def _score(
    config: EvaluateConfig, task: SearchTask, test: SearchSet, detected: Detected, folder: Path, made_by: str = ""
) -> Evaluation:
    ranked = rank(config, task, test, detected)
    begin(folder)
    return Evaluation(detected, ranked, score_head(config, task, test, detected, ranked, folder, made_by))


def _write_card(head: Path, metrics: Mapping[str, Any], folder: Path) -> None:
    """The head's card with these scores, for whoever hands it on: its folder is what train wrote and stays that."""
    card = head / "README.md"
    text = content(card, "train").getvalue().decode() if card.is_file() else NO_CARD
    write_text(folder / "card.md", with_scores(text, metrics))


def _line(metrics: Mapping[str, Any]) -> str:
    search, detection = metrics["search"], metrics["detection"]
    alone = search["queries_without_positives"]
    queries = f"{search['queries'] - alone} queries" + (f" ({alone} more have nobody to find)" if alone else "")
    return (
        f"evaluate: mAP {_percent(search['map'])}, top-1 {_percent(search['top1'])} of {queries} "
        f"(chance {_percent(metrics['chance']['map'])}); detection AP {_percent(detection['ap'])}, "
        f"recall {_percent(detection['recall'])}"
    )


def _percent(value: float | None) -> str:
    """Without labelled persons to be found a score is undefined."""
    return "undefined" if value is None else f"{value:.1%}"
