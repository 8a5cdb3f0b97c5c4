"""From results to the page's content: what stands where, and in which words."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from diffps.backbone.builtin import MAPS_NOTE
from diffps.figures.sheets import Chart, Sheet
from diffps.figures.similarity import histogram
from stages.page.content import Headline, Page, Score, Section, Table
from stages.page.cost import Cost, cost_chart, count_text, measure_cost, size_text, store_table, time_text
from stages.page.evidence import Evidence, NotThereError, Row
from stages.page.figures import TITLES, make
from stages.page.html import percent
from stages.settings import difference

COLOURS = "Colours of true boxes"
RECIPE = ("index", "encode", "extract", "train", "evaluate")
LEADS = {
    "ranking": "Whole scenes are searched: every result is a box the head found itself.",
    "ranking of true boxes": "The annotated boxes of whole scenes are searched; nothing had to be detected.",
    "similarity": "How to read a similarity: what pairs of one person score, and pairs of two.",
    "failures": "The three ways to be wrong: not seen, seen where nobody is, taken for somebody else.",
    "attention": "Where the text’s words find their match in the image.",
    "pca": "What the frozen backbone’s taps hold, before any head.",
    "frequency": "What the frequency refinement adds to the re-ID feature.",
    "semantics": "Which parts of a person the four words bring forward.",
    "timesteps": "Scores of heads trained on features at several noise levels.",
    "taps": "Scores of heads trained on several sets of taps.",
}
WARNINGS = {
    "builtin:random": (
        "The backbone has random weights. The attention maps mean nothing yet, and the features are those of a random "
        "network: this run shows that everything works, not how good the method is."
    ),
    "builtin:streets": f"The backbone is the small one that comes with this project. {MAPS_NOTE}",
}


SWEEP_COLUMNS = {
    "variant": "Variant",
    "changes": "Changes",
    "epochs": "Epochs",
    "detection_ap": "Detection AP",
    "map": "Mean AP",
    "top1": "Top-1",
    "map_diff": "Difference",
    "map_diff_se": "Error",
    "seconds": "Seconds",
    "parameters": "Parameters",
}


def compose(evidence: Evidence) -> Page:
    """The page's content. Raises NotThereError where nothing has been evaluated yet."""
    params = evidence.params
    cost = measure_cost(evidence)
    return Page(
        title=params.report.title,
        eyebrow=f"DiffPS · {params.index.dataset} · {params.encode.checkpoint}",
        lead=_lead(evidence),
        warnings=_warnings(evidence),
        headlines=_headlines(evidence),
        scores=_scores(evidence),
        precision_chart=_precisions(evidence),
        saving=cost.headlines(),
        saving_text=cost.text(),
        saving_chart=cost_chart(cost),
        sections=_sections(evidence, cost),
    )


def summary(evidence: Evidence) -> list[str]:
    """Scores and the cache in three lines for a terminal."""
    main, *others = _scores(evidence)
    cost = measure_cost(evidence)
    against = ", ".join(f"{score.name}: {percent(score.mean_precision)}" for score in others)
    paid = "" if cost.paid_after is None else f", paid for itself after {cost.paid_after:.1f} epochs"
    return [
        f"mAP {percent(main.mean_precision)}, top-1 {percent(main.top1)}, detection AP {percent(main.detection)}",
        f"mAP of the references: {against}",
        f"cache: {size_text(cost.nbytes)}, filled in {time_text(cost.seconds)}{paid}",
    ]


def _lead(evidence: Evidence) -> str:
    params = evidence.params
    height, width = params.encode.canvas
    scenes = [scene.split for scene in evidence.scenes.values()]
    steps = ", ".join(map(str, params.extract.timesteps))
    epochs = count_text(_trained(evidence)["epochs"], "epoch")
    trained_on = evidence.head_training.get("scenes", scenes.count("train"))
    return (
        f"A head trained for {epochs} on {count_text(trained_on, 'scene')}, searched in "
        f"{scenes.count('test'):,}. It reads features of a frozen diffusion backbone: {len(params.extract.taps)} taps "
        f"at timestep {steps}, canvas {width} × {height}, kept as {params.extract.encoding}."
    )


def _trained(evidence: Evidence) -> Row:
    """Section train as the scored head was trained with it, which params need not say any more."""
    found: Row = evidence.head_training.get("training") or _plain(evidence.params.train)
    return found


def _plain(config: Any) -> Row:
    found: Row = json.loads(json.dumps(asdict(config)))
    return found


def _warnings(evidence: Evidence) -> list[str]:
    found = [WARNINGS[name] for name in (evidence.params.encode.checkpoint,) if name in WARNINGS]
    given = {name: value for name, value in _plain(evidence.params.train).items() if name != "source"}
    trained = {name: value for name, value in _trained(evidence).items() if name != "source"}
    if trained != given:
        found.append(
            f"The head {evidence.head} was not trained as the parameters now say (train.{difference(trained, given)}). "
            "The recipe below is the head’s."
        )
    return found


def _scores(evidence: Evidence) -> list[Score]:
    found = evidence.scores
    rows = [
        Score(
            name="This run",
            mean_precision=found["search"]["map"],
            top1=found["search"]["top1"],
            detection=found["detection"]["ap"],
            main=True,
        )
    ]
    rows += _without_guidance(evidence)
    for key, name in (("baseline", COLOURS), ("chance", "Chance")):
        entry = found.get(key)
        if entry is not None:
            rows.append(Score(name=name, mean_precision=entry.get("map"), top1=entry.get("top1")))
    return rows


def _without_guidance(evidence: Evidence) -> list[Score]:
    """The sweep's head without DGRPN; beside the sweep's own full head where both were trained for fewer epochs."""
    found = {row["changes"]: row for row in reversed(evidence.sweep)}
    without = found.get("model.dgrpn=null")
    if without is None or _trained(evidence)["model"]["dgrpn"] is None:
        return []
    rows: dict[str, Row | None] = {"Without DGRPN": without}
    ending = ""
    if without["epochs"] != _trained(evidence)["epochs"]:
        ending = f", {without['epochs']} epochs"
        rows = {"With DGRPN": found.get("as in params"), **rows}
    return [
        Score(name=name + ending, mean_precision=row["map"], top1=row["top1"], detection=row["detection_ap"])
        for name, row in rows.items()
        if row is not None
    ]


def _precisions(evidence: Evidence) -> Chart | None:
    values = np.array(list(evidence.precisions.values()))
    if not len(values):
        return None
    line = histogram("queries", values, np.linspace(0, 1, 11), density=False)
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    summary = f"Half of the queries lie between {low:.2f} and {high:.2f}, the median is {middle:.2f}."
    return Chart(
        flat=True,
        title="Queries by average precision",
        x_label="average precision",
        y_label="queries",
        lines=(line,),
        summary=summary,
    )


def _headlines(evidence: Evidence) -> list[Headline]:
    main, *others = _scores(evidence)
    value = main.mean_precision or 0.0
    ratios = {score.name: value / score.mean_precision for score in others if score.mean_precision}
    remarks = [
        f"{ratios[name]:.1f} × {short}"
        for name, short in (("Chance", "chance"), (COLOURS, "colours"))
        if name in ratios
    ]
    recall = evidence.scores["detection"].get("recall")
    queries = _judged(evidence.scores["search"])
    return [
        Headline(label="Mean AP", value=percent(main.mean_precision), remark=", ".join(remarks)),
        Headline(label="Top-1", value=percent(main.top1), remark=f"of {queries} queries" if queries else ""),
        Headline(
            label="Detection AP", value=percent(main.detection), remark=f"recall {percent(recall)}" if recall else ""
        ),
    ]


def _sections(evidence: Evidence, cost: Cost) -> list[Section]:
    params = evidence.params
    figures: dict[str, Section] = {}
    for name, title in TITLES.items():
        try:
            pictures = make(name, evidence)
        except NotThereError as error:
            evidence.job.say(f"left out of the page: {error}")
            continue
        figures[name] = Section(
            anchor=name,
            title=title,
            lead=LEADS["ranking of true boxes" if name == "ranking" and params.evaluate.gt_boxes else name],
            sheets=[picture for picture in pictures if isinstance(picture, Sheet)],
            charts=[picture for picture in pictures if isinstance(picture, Chart)],
        )
    first = [figures.pop("ranking")] if "ranking" in figures else []
    return [
        *first,
        *_galleries(evidence),
        *_training(evidence),
        *figures.values(),
        *_sweep(evidence),
        _store(evidence),
        _recipe(evidence),
    ]


def _judged(search: Row) -> int:
    """Queries with somebody to find: those that means are over."""
    return int(search.get("queries", 0)) - int(search.get("queries_without_positives", 0))


def _galleries(evidence: Evidence) -> list[Section]:
    scores = evidence.scores
    if not scores.get("also"):
        return []
    galleries = {scores["search"].get("gallery", "all"): scores["search"], **scores["also"]}
    columns = {"map": "Mean AP", "top1": "Top-1", "top5": "Top-5", "top10": "Top-10", "queries": "Queries"}
    rows = [
        [name, *(_judged(found) if column == "queries" else found.get(column) for column in columns)]
        for name, found in galleries.items()
    ]
    table = Table(caption="The same detections", columns=["Gallery", *columns.values()], rows=rows)
    return [Section(anchor="galleries", title="Galleries", lead="Searched in other sets of scenes.", tables=[table])]


def _training(evidence: Evidence) -> list[Section]:
    from diffps.figures.curves import loss_charts

    parts = ("step", "total", "rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid")
    columns = {name: evidence.losses[name] for name in parts if name in evidence.losses}
    charts = loss_charts(columns) if "step" in columns else []
    if not charts:
        return []
    facts = evidence.training
    seconds = facts.get("seconds")
    lead = count_text(facts.get("steps", len(columns["step"])), "step")
    lead += f" in {time_text(seconds)}" if seconds else ""
    lead += f", {facts['parameters']:,} trained parameters" if facts.get("parameters") else ""
    return [Section(anchor="training", title="Training", lead=lead + ".", charts=charts)]


def _sweep(evidence: Evidence) -> list[Section]:
    rows = evidence.sweep
    if not rows:
        return []
    kept = {
        name: label for name, label in SWEEP_COLUMNS.items() if len({str(row.get(name)) for row in rows} - {"None"})
    }
    table = Table(
        caption=f"{len(rows)} heads trained from the cache",
        columns=list(kept.values()),
        rows=[[row[name] for name in kept] for row in rows],
    )
    lead = "Press a heading to sort. Differences are to the first variant, with their standard error."
    return [Section(anchor="sweep", title="Sweep", lead=lead, tables=[table])]


def _store(evidence: Evidence) -> Section:
    table = store_table(evidence)
    return Section(
        anchor="store",
        title="Store",
        lead="What lies on disk, by array. Identifiers are fingerprints of everything that decides the bytes.",
        tables=[table] if table.rows else [],
    )


def _recipe(evidence: Evidence) -> Section:
    return Section(
        anchor="recipe",
        title="Recipe",
        lead="Every parameter of this run: the same values give the same results.",
        recipe={
            name: _flat(_trained(evidence) if name == "train" else asdict(getattr(evidence.params, name)))
            for name in RECIPE
        },
    )


def _flat(section: Row) -> dict[str, str]:
    """Dotted names of every value in a section."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, each in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), each)
        elif isinstance(value, tuple | list):
            found[prefix] = ", ".join(map(str, value)) or "none"
        else:
            found[prefix] = "none" if value is None else str(value)

    walk("", section)
    return found
