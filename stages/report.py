"""One page that shows what was run, how good it is, and what the cache saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffps.errors import ConfigError
from stages.job import Job

if TYPE_CHECKING:
    from stages.params import Params

FOLDER = Path("results/report")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Section ``report``: what the page and the figures show.

    ``queries`` rankings with ``results`` first answers each; ``scenes`` test scenes for maps and features;
    ``false_match_rate``: the share of pairs of different persons that the similarity threshold lets through.
    """

    title: str = "Person search"
    queries: int = 8
    results: int = 8
    scenes: int = 3
    false_match_rate: float = 0.01

    def __post_init__(self) -> None:
        for name in ("queries", "results", "scenes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"report.{name} {getattr(self, name)}: must be at least 1")
        if not 0 < self.false_match_rate < 1:
            raise ConfigError(f"report.false_match_rate {self.false_match_rate}: must lie between 0 and 1")


def run(params: "Params", job: Job) -> None:
    """Write results/report/{index.html, summary.txt}, and beside the head <its name>-similarity.json: the threshold for
    ``false_match_rate``. Raises DiffPSError where results are missing."""
    from stages.files import replace_text, write_json
    from stages.page.compose import compose, summary
    from stages.page.evidence import Evidence
    from stages.page.html import render
    from stages.page.searches import similarity

    evidence = Evidence(params, job)
    page = FOLDER / "index.html"
    html = render(compose(evidence))
    FOLDER.mkdir(parents=True, exist_ok=True)
    pairs = similarity(evidence)
    if pairs is None:
        similarity_file(params).unlink(missing_ok=True)
    else:
        write_json(similarity_file(params), pairs.as_json())
    lines = [*summary(evidence), f"page: {page} ({len(html.encode()) / 1e6:.1f} MB)"]
    replace_text(FOLDER / "summary.txt", "\n".join(lines) + "\n")
    replace_text(page, html)
    for line in lines:
        job.say(line)


def dry_run(params: "Params", job: Job) -> str:
    """What the page would be made from."""
    from stages.page.evidence import EVALUATE, SWEEP, TRAIN

    config = params.report
    wanted = [EVALUATE / "metrics.json", TRAIN / "metrics.json", TRAIN / "losses.csv", SWEEP / "table.parquet"]
    state = ", ".join(f"{path} ({'there' if path.exists() else 'not yet'})" for path in wanted)
    return f"report: {config.queries} rankings and {config.scenes} scenes from {state} -> {FOLDER / 'index.html'}"


def similarity_file(params: "Params") -> Path:
    """Where the threshold for a head's similarities lies: beside its folder, for everybody who reads its scores."""
    head = Path(params.evaluate.head)
    return head.with_name(f"{head.name}-similarity.json")
