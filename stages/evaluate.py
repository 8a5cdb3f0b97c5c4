"""Search the test gallery with a trained head and score it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diffps.errors import ConfigError
from stages.files import replace_text, write_json
from stages.index import INDEX_FOLDER
from stages.job import Job

if TYPE_CHECKING:
    from diffps.features import FeatureSource
    from diffps.metrics.galleries import SearchTask
    from diffps.model import PersonSearcher
    from stages.params import Params
    from stages.scoring import SearchSet
    from stages.sources import Source

FOLDER = Path("results/evaluate")


@dataclass(frozen=True, kw_only=True, slots=True)
class CBGMConfig:
    """Context bipartite graph matching over the scenes of the ``k1`` most similar detections, with the query and the
    ``k2`` - 1 most confident other people of its scene. SeqNet's values: 10, 3 for CUHK-SYSU; 30, 4 for PRW.
    ``value``: the match gets the largest similarity among the matched pairs (SeqNet's rule) or their sum."""

    k1: int
    k2: int
    value: Literal["max", "sum"] = "max"

    def __post_init__(self) -> None:
        if self.k1 < 1 or self.k2 < 1:
            raise ConfigError(f"cbgm.k1 {self.k1}, cbgm.k2 {self.k2}: must be at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``evaluate`` of params.yaml.

    ``gallery``: all, same_camera or cross_camera; or one that the dataset lists (CUHK-SYSU: 50 to 4000, occlusion,
    resolution). ``also``: further galleries, scored from the same detections into metrics.json. ``convention``: what
    counts as found, and where ground truth is read (see diffps.metrics.search). ``gt_boxes``: true boxes take the place
    of detections. ``score_threshold``: detections below it are not kept, neither ranked nor counted in AP. ``ranking``:
    how many of each query's most similar detections are written. ``baseline``: also score colour histograms of true
    boxes, which reads the images.
    """

    source: Literal["cached", "live"] = "cached"
    head: str = "results/train/head"
    convention: Literal["protocol", "labels"] = "protocol"
    gallery: str | int = "all"
    also: tuple[str | int, ...] = ()
    gt_boxes: bool = False
    cbgm: CBGMConfig | None = None
    score_threshold: float = 0.5
    ranking: int = 20
    batch: int = 4
    baseline: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.score_threshold < 1:
            raise ConfigError(f"evaluate.score_threshold {self.score_threshold}: must be in [0, 1)")
        if self.ranking < 1 or self.batch < 1:
            raise ConfigError(f"evaluate.ranking {self.ranking}, batch {self.batch}: must be at least 1")


def run(params: "Params", job: Job) -> None:
    """Score the head at ``evaluate.head`` into results/evaluate. Raises CheckpointError, DatasetError, CacheError."""
    from diffps.metrics.baselines import chance_level
    from diffps.model import PersonSearcher
    from stages.scoring import defined, open_task, rank, read_search_set, score_colours, search_metrics
    from stages.sources import open_source

    config = params.evaluate
    searcher = PersonSearcher.from_pretrained(config.head)
    _check_timestep(params)
    test = read_search_set(INDEX_FOLDER)
    task = open_task(config, test, INDEX_FOLDER)
    further = {str(name): open_task(config, test, INDEX_FOLDER, name) for name in config.also}
    with open_source(params, job, split="test", section="evaluate", names=searcher.taps.names) as source:
        _check_features(Path(config.head), searcher, source)
        found, metrics = _evaluate(params, job, {"head": searcher}, source, {"head": FOLDER}, test, task)["head"]
    metrics["also"] = {
        name: search_metrics(config, other, rank(config, other, test, found)) for name, other in further.items()
    }
    metrics["chance"] = defined(chance_level(task, found.boxes, found.scenes))
    if config.baseline:
        metrics["baseline"] = score_colours(task, test, Path(params.index.root), job)
    found.write_exchange(FOLDER, test)
    write_json(FOLDER / "metrics.json", metrics)
    _write_card(Path(config.head), metrics)
    job.say(_line(metrics), **metrics)


def dry_run(params: "Params", job: Job) -> str:
    """What would be read, searched and written."""
    from diffps.datasets.tables import read_queries, read_scenes

    config = params.evaluate
    scenes, queries = len(read_scenes(INDEX_FOLDER, "test")), len(read_queries(INDEX_FOLDER))
    return (
        f"evaluate: head {config.head} on {scenes} test scenes ({config.source} features), {queries} queries, "
        f"gallery {config.gallery}, convention {config.convention} -> {FOLDER}"
    )


def evaluate_searchers(
    params: "Params",
    job: Job,
    searchers: Mapping[str, "PersonSearcher"],
    source: "FeatureSource",
    folders: Mapping[str, Path],
) -> dict[str, dict[str, Any]]:
    """Score several heads over one reading of the gallery: each batch is read and expanded once.

    Head ``name`` writes detections, queries, ranking, per_query.parquet and metrics.json into ``folders[name]``; given
    back is each one's content of metrics.json: ``detection`` (ap, recall, precision, ap_small, ap_labelled,
    recall_labelled) and ``search`` (map, top1, top5, top10, recall, queries, queries_without_positives, gallery, ...).
    """
    from stages.scoring import open_task, read_search_set

    test = read_search_set(INDEX_FOLDER)
    task = open_task(params.evaluate, test, INDEX_FOLDER)
    results = _evaluate(params, job, searchers, source, folders, test, task)
    return {name: metrics for name, (_, metrics) in results.items()}


def _write_card(head: Path, metrics: Mapping[str, Any]) -> None:
    """The head's card with these scores, for whoever hands it on: its folder is what train wrote and stays that."""
    from diffps.cards import NO_CARD, with_scores

    card = head / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else NO_CARD
    replace_text(FOLDER / "card.md", with_scores(text, metrics))


def _check_timestep(params: "Params") -> None:
    """Raises ConfigError where the head says that it was trained at another timestep than it would be shown."""
    folder = Path(params.evaluate.head)
    trained = training_of(folder).get("training", {}).get("timestep")
    if trained is not None and trained != params.train.timestep:
        raise ConfigError(
            f"evaluate.head {folder}: was trained at timestep {trained}, train.timestep is {params.train.timestep}: "
            f"add --set train.timestep={trained}"
        )


def _check_features(folder: Path, searcher: "PersonSearcher", source: "Source") -> None:
    """Raises ConfigError where the head was trained on other features than those at hand."""
    from cache import explain_difference

    trained, shown = dict(searcher.shapes), {name: source.shapes[name] for name in searcher.shapes}
    differing = explain_difference(trained, shown)
    recipe = training_of(folder).get("recipe")
    if recipe is not None:
        differing = explain_difference(recipe, source.recipe) or differing
    if differing:
        raise ConfigError(
            f"evaluate.head {folder}: was trained on other features than those at hand ({'; '.join(differing)}): set "
            "encode and extract as they were then, or train a head on these"
        )


def training_of(folder: Path) -> dict[str, Any]:
    """What a head's folder says of its training: ``training`` (section train), ``recipe`` of its features, ``scenes``.

    Empty where there is no head, or one that was not trained by this program's stages."""
    from diffps.model import CONFIG_FILE

    path = folder / CONFIG_FILE
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")).get("training", {}) if path.exists() else {}
    return found


def _evaluate(
    params: "Params",
    job: Job,
    searchers: Mapping[str, "PersonSearcher"],
    source: "FeatureSource",
    folders: Mapping[str, Path],
    test: "SearchSet",
    task: "SearchTask",
) -> dict[str, tuple[Any, dict[str, Any]]]:
    from stages.devices import choose_device
    from stages.inference import search_gallery
    from stages.scoring import score_head

    results = {}
    device = choose_device(job.runtime)
    for name, found in search_gallery(params.evaluate, job, searchers, source, test, device).items():
        metrics = score_head(params.evaluate, task, test, found, folders[name])
        write_json(folders[name] / "metrics.json", metrics)
        results[name] = (found, metrics)
    return results


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
