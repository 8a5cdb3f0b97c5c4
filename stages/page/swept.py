"""The sweep as a section: every head, the means over seeds, and the main effects of what was varied."""

from typing import Any

from stages.head.identity import difference
from stages.page.content import Section, Table
from stages.page.evidence import Evidence, Json
from stages.page.provenance import without_paths
from stages.page.scores import plain_section

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
    "map_diff_se": "Error",
    "seconds": "Seconds",
    "parameters": "Parameters",
}
ALONE = " Each variant was trained once: errors count the queries, not how far two trainings of one variant differ."


def sweep_section(evidence: Evidence) -> list[Section]:
    """Nothing where no head of a sweep is scored."""
    rows = evidence.sweep
    if not rows:
        return []
    kept = {name: label for name, label in COLUMNS.items() if any(row.get(name) is not None for row in rows)}
    if not evidence.is_annotated:
        kept.pop("detection_ap", None)
    several = any(row.get("map_se") is not None for row in rows)
    if not several:
        kept.pop("map_mean", None)
    tables = [
        Table(
            caption=f"{len(rows)} heads trained from the cache",
            columns=list(kept.values()),
            rows=[[row[name] for name in kept] for row in rows],
        ),
        *_effects(evidence.effects),
    ]
    lead = "Press a heading to sort. Differences are to the first variant, with their standard error."
    lead += f" {evidence.effects['basis']}" if evidence.effects else "" if several else ALONE
    return [Section(anchor="sweep", title="Sweep", lead=lead, sentences=_outdated(evidence), tables=tables)]


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
            effect["change"],
            effect["error"],
            "above twice its error" if effect["notable"] else "",
        ]
        for effect in found.get("effects", [])
    ]
    if not rows:
        return []
    return [Table(caption="Main effects on mean AP", columns=["Effect", "Change", "Error", ""], rows=rows)]
