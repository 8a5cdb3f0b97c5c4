"""Search the test gallery with a trained head and score it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Score the head at ``evaluate.head`` into results/evaluate, shown what it was trained on.

    Raises CheckpointError, DatasetError, CacheError; ConfigError where its features are not at hand.
    """
    from diffps.metrics.baselines import chance_level
    from diffps.model import PersonSearcher
    from stages.devices import choose_device
    from stages.features.source import open_source
    from stages.files import write_json
    from stages.head.saved import check_features, reading_of
    from stages.places import EVALUATE, INDEX, images_root
    from stages.search.evaluation import evaluate_heads
    from stages.search.gallery import open_task, read_search_set
    from stages.search.scoring import defined, rank, score_colours, search_metrics

    config, head = params.evaluate, Path(params.evaluate.head)
    searcher = PersonSearcher.from_pretrained(head)
    test, images, device = read_search_set(INDEX), images_root(params.index.root), choose_device(runtime)
    tasks = {str(name): open_task(name, config.convention, test, INDEX) for name in (config.gallery, *config.also)}
    task = tasks[str(config.gallery)]
    reading = reading_of(head, searcher, params.extract)
    with open_source(
        reading,
        "test",
        config.source,
        encode=params.encode,
        extract=params.extract,
        images=images,
        runtime=runtime,
    ) as source:
        check_features(head, searcher, source)
        found = evaluate_heads(config, {"": searcher}, source, test, task, {"": EVALUATE}, device, job)
    detected, metrics = found[""]
    metrics["also"] = {
        str(name): search_metrics(config, tasks[str(name)], rank(config, tasks[str(name)], test, detected))
        for name in config.also
    }
    metrics["chance"] = defined(chance_level(task, detected.boxes, detected.scenes))
    if config.baseline:
        metrics["baseline"] = score_colours(task, test, images, job)
    detected.write_exchange(EVALUATE, test)
    write_json(EVALUATE / "metrics.json", metrics)
    _write_card(head, metrics)
    job.say(_line(metrics), **metrics)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read, searched and written."""
    from diffps.datasets.tables import read_queries, read_scenes
    from stages.places import EVALUATE, INDEX

    config = params.evaluate
    scenes, queries = len(read_scenes(INDEX, "test")), len(read_queries(INDEX))
    return (
        f"evaluate: head {config.head} on {scenes} test scenes ({config.source} features), {queries} queries, "
        f"gallery {config.gallery}, convention {config.convention} -> {EVALUATE}"
    )


def _write_card(head: Path, metrics: Mapping[str, Any]) -> None:
    """The head's card with these scores, for whoever hands it on: its folder is what train wrote and stays that."""
    from diffps.cards import NO_CARD, with_scores
    from stages.files import replace_text
    from stages.places import EVALUATE

    card = head / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else NO_CARD
    replace_text(EVALUATE / "card.md", with_scores(text, metrics))


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
