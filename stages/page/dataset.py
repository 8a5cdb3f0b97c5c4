"""The data on the page: what was read, and what of it is plausible and what is not."""

from collections.abc import Mapping

from diffps.datasets.findings import from_json
from stages.page.content import Section, Table
from stages.page.evidence import Evidence

CHECKED = (
    "What the index found when it read fields against each other, annotations against files, split against split and "
    "image against image. Repaired: read as what was meant. Doubtful: read as it stands. Refused: not read. "
    "Labelled boxes are those whose identity is known; foreign ones are test boxes of persons of the training split."
)
PLAUSIBLE = "Nothing that was looked at contradicts anything else."


def data_section(evidence: Evidence) -> list[Section]:
    """Counts by split, and the block of plausibility; nothing where the index does not say."""
    report = evidence.index_report
    splits = {name: report[name] for name in ("train", "test") if isinstance(report.get(name), Mapping)}
    keys = list(dict.fromkeys(key for counts in splits.values() for key in counts))
    found = from_json(report.get("findings", ()))
    tables = []
    if keys:
        rows = [[key.replace("_", " "), *(counts.get(key) for counts in splits.values())] for key in keys]
        tables.append(Table(caption="What was read", columns=["Count", *splits], rows=rows))
    if found:
        lines = [[finding.kind, finding.line] for finding in found]
        tables.append(Table(caption="Plausibility", columns=["Kind", "Finding"], rows=lines))
    if not tables:
        return []
    said = [] if found or "findings" not in report else [PLAUSIBLE]
    return [Section(anchor="data", title="Data", lead=CHECKED, sentences=said, tables=tables)]
