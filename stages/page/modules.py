"""What the head owes to its learned modules, and what stands behind its scores, as sections."""

from typing import Any

from diffps.metrics.failures import LabelRecall, SearchCauses
from stages.page.content import Section, Table, change, share
from stages.page.evidence import Evidence
from stages.page.failures import kinds_of_detections

NAMES = {
    "dgrpn": "DGRPN, which guides proposals by the word’s map",
    "msfrn": "MSFRN, which refines frequencies",
    "sfan": "SFAN, which weighs parts by words",
}
OWED = (
    "Each module is taken out of the trained head and the same features are searched again; nothing is trained anew, "
    "so no scatter between trainings enters. Changes are of mean AP, with their standard error over the queries: a "
    "loss says that the head owes something to the module."
)


def causes_section(evidence: Evidence) -> list[Section]:
    """Where undefined and zero scores come from, what the detections show, and who was found."""
    scores = evidence.scores
    sentences = []
    if "causes" in scores:
        sentences += SearchCauses(**scores["causes"]).sentences(evidence.params.evaluate.score_threshold)
    if evidence.is_annotated and not evidence.params.evaluate.gt_boxes:
        sentences.append(kinds_of_detections(evidence))
    detection = scores["detection"]
    if evidence.is_annotated and "unlabelled" in detection:
        recall = LabelRecall(
            labelled=detection["labelled"],
            unlabelled=detection["unlabelled"],
            recall_labelled=_number(detection["recall_labelled"]),
            recall_unlabelled=_number(detection["recall_unlabelled"]),
        )
        sentences.append(recall.sentence(evidence.foreign))
    lead = " ".join(filter(None, sentences))
    return [Section(anchor="causes", title="Behind the scores", lead=lead)] if lead else []


def modules_section(evidence: Evidence) -> list[Section]:
    """Knock-outs and learned scalars of the scored head; nothing where it was scored without."""
    tables = []
    found = evidence.scores.get("knock_outs", {})
    if found:
        columns = {"map": "Mean AP", "top1": "Top-1"}
        if evidence.is_annotated:
            columns["detection_ap"] = "Detection AP"
        rows = [
            [
                NAMES.get(name, name.upper()),
                change(scores.get("map_diff"), scores.get("map_diff_se")),
                *(share(scores.get(key)) for key in columns),
            ]
            for name, scores in found.items()
        ]
        tables.append(Table(caption="Taken out", columns=["Module", "Change", *columns.values()], rows=rows))
    learned = [
        [module.upper(), name, value]
        for module, values in evidence.scores.get("learned", {}).items()
        for name, value in _flat(values)
    ]
    if learned:
        tables.append(Table(caption="Learned scalars", columns=["Module", "Scalar", "Value"], rows=learned))
    lead = OWED if found else "What the modules’ scalars came to in training."
    return [Section(anchor="modules", title="Modules", lead=lead, tables=tables)] if tables else []


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        found += _flat(value, label) if isinstance(value, dict) else [(label, value)]
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
