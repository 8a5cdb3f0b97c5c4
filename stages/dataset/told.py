"""What was read, for people: counts beside the published ones, and the block of what is plausible and what is not."""

from collections.abc import Iterator, Mapping
from typing import Any

from diffps.datasets.files import summarise
from diffps.datasets.findings import Finding, from_json, lines
from diffps.datasets.plausible import too_little
from diffps.records import SearchIndex


def describe(index: SearchIndex) -> Iterator[str]:
    """The whole report as lines: counts, then findings (fine, repaired, doubtful, refused), then what is too little."""
    for line in counts(index.report):
        yield f"index: {line}"
    findings = findings_of(index)
    yield "index: plausibility"
    for line in lines(findings) or ["fine  nothing that was looked at contradicts anything else"]:
        yield f"  {line}"
    for line in too_little(index.scenes, index.annotations):
        yield f"index: WARNING: {line}"


def findings_of(index: SearchIndex) -> tuple[Finding, ...]:
    """What the reader noticed."""
    report: Mapping[str, Any] = index.report
    return from_json(report.get("findings", ()))


def counts(report: Mapping[str, Any]) -> Iterator[str]:
    """A line for each split and for the rest, published counts beside what was read."""
    published = report.get("published", {})
    for split in ("train", "test"):
        known = published.get(split, {})
        parts = [
            f"{count} {name.replace('_', ' ')}" + (f" (published {known[name]})" if name in known else "")
            for name, count in report[split].items()
        ]
        yield f"{split}: {', '.join(parts)}"
    queries = f"{report['queries']} queries" + (f" (published {published['queries']})" if published else "")
    rest = [f"boxes below {' x '.join(map(str, report['min_box']))} pixels dropped", queries]
    rest += [f"gallery {name}: {count} queries" for name, count in report.get("galleries", {}).items()]
    rest += [f"gallery {name} is not there" for name in report.get("galleries_missing", ())]
    yield ", ".join(rest)
    if unreadable := report.get("unreadable"):
        yield f"{len(unreadable)} images cannot be read and will be skipped: {summarise(unreadable)}"
    for gallery, found in report.get("oddities", {}).items():
        for name, rows in found.items():
            if rows:
                yield f"gallery {gallery}: {name.replace('_', ' ')}: rows {', '.join(map(str, rows))}"
