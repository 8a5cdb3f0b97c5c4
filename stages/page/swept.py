"""The sweep as a section: every head, the means over seeds, and the main effects of what was varied."""

from typing import Any

from stages.head.identity import difference
from stages.page.content import Cell, Section, Table, change, share
from stages.page.evidence import Evidence, Json
from stages.page.provenance import without_paths
from stages.page.scores import plain_section
from stages.text import count, duration, size

COLUMNS = {
    "variant": "Variant",
    "changes": "Changes",
    "epochs": "Epochs",
    "image_bytes": "Bytes an image",
    "detection_ap": "Detection AP",
    "map": "Mean AP",
    "top1": "Top-1",
    "map_mean": "Mean of seeds",
    "map_se": "Its error",
    "map_diff": "Difference",
    "seconds": "Training",
    "parameters": "Parameters",
}
ALONE = " Each variant was trained once: errors count the queries, not how far two trainings of one variant differ."


def sweep_section(evidence: Evidence) -> list[Section]:
    """Nothing where no head of a sweep is scored."""
    rows = evidence.sweep
    if not rows:
        return []
    kept = {name: label for name, label in COLUMNS.items() if any(row.get(name) is not None for row in rows)}
    if len({row.get("epochs") for row in rows}) == 1 and _shorter(evidence):
        kept.pop("epochs", None)
    if not evidence.is_annotated:
        kept.pop("detection_ap", None)
    several = any(row.get("map_se") is not None for row in rows)
    if not several:
        kept.pop("map_mean", None)
    tables = [
        Table(
            caption=f"{len(rows)} heads trained from the cache",
            columns=list(kept.values()),
            rows=[[_cell(name, row) for name in kept] for row in rows],
        ),
        *_effects(evidence.effects),
    ]
    lead = "Press a heading to sort. Differences are to the first variant, with their standard error."
    lead += f" {evidence.effects['basis']}" if evidence.effects else "" if several else ALONE
    sentences = [*_shorter(evidence), *_outdated(evidence)]
    return [Section(anchor="sweep", title="Sweep", lead=lead, sentences=sentences, tables=tables)]


def _cell(column: str, row: Json) -> Any:
    value = row[column]
    match column:
        case _ if value is None:
            return None
        case "detection_ap" | "map" | "top1" | "map_mean":
            return share(value)
        case "map_diff":
            return change(value, row.get("map_diff_se"))
        case "map_se":
            return Cell(value, f"{100 * value:.1f} points")
        case "image_bytes":
            return Cell(value, size(value))
        case "seconds":
            return Cell(value, duration(value))
        case "parameters":
            return Cell(value, f"{value:,}")
        case _:
            return value


def _shorter(evidence: Evidence) -> list[str]:
    """Why these scores are others than the page's, where the heads were not trained as long."""
    found, here = {row["epochs"] for row in evidence.sweep}, evidence.training.get("epochs")
    if here is None or found <= {here, None}:
        return []
    epochs = sorted(each for each in found if each is not None)
    told = count(epochs[0], "epoch") if len(epochs) == 1 else f"{epochs[0]} to {count(epochs[-1], 'epoch')}"
    return [
        f"These heads were trained for {told}, the one this page is about for {here}: their scores compare with each "
        "other, not with the numbers above."
    ]


def _outdated(evidence: Evidence) -> list[str]:
    """What must be known where variants are changes of other parameters than those of today."""
    then, now = evidence.sweep_base, plain_section(evidence.params.train)
    now["source"] = then.get("source")  # live and cached features are the same
    if not then or then == now:
        return []
    said = without_paths(difference(then, now))
    return [
        f"These heads are changes of other parameters than today’s (train.{said}): they do not compare with this run, "
        "and diffps sweep trains them anew."
    ]


def _effects(found: Json) -> list[Table]:
    rows: list[list[Any]] = [
        [
            f"{effect['factor']}: {effect['level']} against {effect['reference']}",
            change(effect["change"], effect["error"]),
            "above twice its error" if effect["notable"] else "within twice its error",
        ]
        for effect in found.get("effects", [])
    ]
    if not rows:
        return []
    columns = ["Effect", "Change of mean AP", "Judged"]
    if all(effect["error"] is None for effect in found["effects"]):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return [Table(caption="Main effects", columns=columns, rows=rows)]
