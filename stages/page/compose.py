"""From results to the page's content: what stands where, and in which words."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from diffps.backbone.builtin import MAPS_NOTE
from diffps.figures.curves import loss_charts
from diffps.figures.sheets import Chart, Sheet
from stages.head.identity import difference
from stages.page import probed
from stages.page.against import against_sections
from stages.page.content import Page, Section, Table, share
from stages.page.cost import Cost, cost_chart, measure_cost, store_table
from stages.page.dataset import data_section
from stages.page.evidence import Evidence, Json, NotThereError
from stages.page.figures import FIGURES
from stages.page.introduction import TASK, data_name, example, is_drawn, title
from stages.page.modules import causes_section, modules_section
from stages.page.provenance import provenance_section, without_paths
from stages.page.scores import (
    judged,
    plain_section,
    precision_chart,
    quality_note,
    references,
    score_headlines,
    trained_section,
)
from stages.page.swept import sweep_section
from stages.text import count, duration, percent, placeless, size

TRUE_BOXES = "The annotated boxes of whole scenes are searched; nothing had to be detected."
RECIPE = ("index", "encode", "extract", "train", "evaluate")
WARNINGS = {
    "builtin:random": (
        "The backbone has random weights. The attention maps mean nothing yet, and the features are those of a random "
        "network: this run shows that everything works, not how good the method is."
    ),
    "builtin:streets": f"The backbone is the small one that comes with this project. {MAPS_NOTE}",
}


def compose(evidence: Evidence, others: Sequence[Path] = ()) -> Page:
    """The page's content; ``others`` are folders of runs to stand beside this one. Raises NotThereError where nothing
    has been evaluated yet, ConfigError for a folder without results."""
    params = evidence.params
    cost = measure_cost(evidence)
    return Page(
        title=title(evidence),
        eyebrow=f"DiffPS · {data_name(evidence)} · {without_paths(placeless(params.encode.checkpoint))}",
        task=TASK,
        example=example(evidence),
        lead=_lead(evidence),
        warnings=_warnings(evidence),
        quality="How good it is on drawn streets" if is_drawn(evidence) else "How good it is",
        quality_note=quality_note(evidence),
        headlines=score_headlines(evidence),
        precision_chart=precision_chart(evidence),
        saving=cost.headlines(),
        saving_text=cost.text(),
        saving_chart=cost_chart(cost),
        sections=_sections(evidence, cost, others),
    )


def summary(evidence: Evidence) -> list[str]:
    """Scores and the cache in three lines for a terminal."""
    scores, cost = evidence.scores, measure_cost(evidence)
    main = [f"mAP {percent(scores['search']['map'])}", f"top-1 {percent(scores['search']['top1'])}"]
    if evidence.is_annotated:
        main.append(f"detection AP {percent(scores['detection']['ap'])}")
    against = ", ".join(f"{name}: {percent(value)}" for name, value in references(evidence).items())
    filled = "–" if cost.seconds is None else duration(cost.seconds)
    paid = "" if cost.paid_after is None else f", paid for itself after {cost.paid_after:.1f} epochs"
    return [
        ", ".join(main),
        f"mAP of the references: {against}",
        f"cache: {size(cost.nbytes)}, filled in {filled}{paid}",
    ]


def _lead(evidence: Evidence) -> str:
    params = evidence.params
    height, width = params.encode.canvas
    scenes = [scene.split for scene in evidence.scenes.values()]
    steps = ", ".join(map(str, params.extract.timesteps))
    epochs = count(trained_section(evidence)["epochs"], "epoch")
    trained_on = evidence.head_training.get("scenes", scenes.count("train"))
    return (
        f"The head, the small network that is trained here, learned from {count(trained_on, 'scene')} in {epochs} and "
        f"then searched {scenes.count('test'):,} others. It never sees pixels: it reads features of a frozen backbone, "
        f"computed once and kept on disk, here {count(len(params.extract.taps), 'tap')} at timestep {steps} of images "
        f"of {width} × {height} pixels, as {params.extract.encoding}."
    )


def _warnings(evidence: Evidence) -> list[str]:
    found = [WARNINGS[name] for name in (evidence.params.encode.checkpoint,) if name in WARNINGS]
    found += [f"{sentence[0].upper()}{sentence[1:]}." for sentence in evidence.scores.get("doubts", [])]
    given = {name: value for name, value in plain_section(evidence.params.train).items() if name != "source"}
    trained = {name: value for name, value in trained_section(evidence).items() if name != "source"}
    if trained != given:
        found.append(
            "The head was not trained as the parameters now say (train."
            f"{without_paths(difference(trained, given))}). The recipe below is the head’s."
        )
    return found


def _sections(evidence: Evidence, cost: Cost, others: Sequence[Path]) -> list[Section]:
    params = evidence.params
    figures: dict[str, Section] = {}
    for name, figure in FIGURES.items():
        try:
            pictures = figure.make(evidence)
        except NotThereError as error:
            evidence.job.say(f"left out of the page: {error}")
            continue
        figures[name] = Section(
            anchor=name,
            title=figure.title,
            lead=TRUE_BOXES if name == "ranking" and params.evaluate.gt_boxes else figure.lead,
            sheets=[picture for picture in pictures if isinstance(picture, Sheet)],
            charts=[picture for picture in pictures if isinstance(picture, Chart)],
        )
    if "probe" in figures:
        sentences, tables = probed.sentences(evidence), probed.tables(evidence)
        figures["probe"] = replace(figures["probe"], sentences=sentences, tables=tables)
    first = [figures.pop(name) for name in ("ranking", "failures") if name in figures]
    return [
        *first,
        *causes_section(evidence),
        *against_sections(evidence, others),
        *_galleries(evidence),
        *modules_section(evidence),
        *_training(evidence),
        *figures.values(),
        *sweep_section(evidence),
        *data_section(evidence),
        _store(evidence),
        provenance_section(evidence),
        _recipe(evidence),
    ]


def _galleries(evidence: Evidence) -> list[Section]:
    scores = evidence.scores
    if not scores.get("also"):
        return []
    galleries = {scores["search"].get("gallery", "all"): scores["search"], **scores["also"]}
    columns = {"map": "Mean AP", "top1": "Top-1", "top5": "Top-5", "top10": "Top-10", "queries": "Queries"}
    rows = [
        [name, *(judged(found) if column == "queries" else share(found.get(column)) for column in columns)]
        for name, found in galleries.items()
    ]
    table = Table(caption="The same detections", columns=["Gallery", *columns.values()], rows=rows)
    return [Section(anchor="galleries", title="Galleries", lead="Searched in other sets of scenes.", tables=[table])]


def _training(evidence: Evidence) -> list[Section]:
    parts = ("step", "total", "rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid")
    columns = {name: evidence.losses[name] for name in parts if name in evidence.losses}
    charts = loss_charts(columns) if "step" in columns else []
    if not charts:
        return []
    facts = evidence.training
    lead = count(facts.get("steps", len(columns["step"])), "step")
    lead += f", {facts['parameters']:,} trained parameters" if facts.get("parameters") else ""
    return [Section(anchor="training", title="Training", lead=lead + ".", charts=charts)]


def _store(evidence: Evidence) -> Section:
    table = store_table(evidence)
    return Section(
        anchor="store",
        title="Store",
        lead="What this head reads, by array. A fingerprint stands for everything that decides the bytes.",
        tables=[table] if table.rows else [],
    )


def _recipe(evidence: Evidence) -> Section:
    return Section(
        anchor="recipe",
        title="Recipe",
        lead="Every parameter of this run: the same values give the same results.",
        recipe={
            name: _flat(trained_section(evidence) if name == "train" else asdict(getattr(evidence.params, name)))
            for name in RECIPE
        },
    )


def _flat(section: Json) -> dict[str, str]:
    """Dotted names of every value in a section."""
    found: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, each in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), each)
        elif isinstance(value, tuple | list):
            found[prefix] = without_paths(", ".join(map(str, value))) or "none"
        else:
            found[prefix] = "none" if value is None else without_paths(placeless(str(value)))

    walk("", section)
    return found
