"""One page that shows what was run, how good it is, and what the cache saved."""

from collections.abc import Sequence
from pathlib import Path

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job, others: Sequence[Path] = ()) -> None:
    """Write results/report/{index.html, summary.txt}, and beside the head <its name>-similarity.json: the threshold for
    ``false_match_rate``. ``others``: folders of runs to stand beside this one. Raises DiffPSError where results are
    missing."""
    from cache.files import remove, write_text
    from cache.sealed import write_json
    from stages.features.opening import open_store
    from stages.page.compose import compose, summary
    from stages.page.evidence import Evidence
    from stages.page.html import render
    from stages.page.searches import similarity
    from stages.places import REPORT, similarity_file
    from stages.together import begin, finish

    evidence = Evidence(params, open_store(runtime.store), job)
    page, threshold = REPORT / "index.html", similarity_file(Path(params.evaluate.head))
    html = render(compose(evidence, others))
    pairs = similarity(evidence)
    if pairs is None:
        remove(threshold)
    else:
        write_json(threshold, pairs.as_json())
    begin(REPORT)
    lines = [*summary(evidence), f"page: {page} ({len(html.encode()) / 1e6:.1f} MB)"]
    write_text(REPORT / "summary.txt", "\n".join(lines) + "\n")
    write_text(page, html)
    finish(REPORT, ("index.html", "summary.txt"), {})
    for line in lines:
        job.say(line)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What the page would be made from."""
    from stages.places import EVALUATE, REPORT, SWEEP, TRAIN

    config = params.report
    wanted = [EVALUATE / "metrics.json", TRAIN / "metrics.json", TRAIN / "losses.csv", SWEEP / "table.parquet"]
    state = ", ".join(f"{path} ({'there' if path.exists() else 'not yet'})" for path in wanted)
    return f"report: {config.queries} rankings and {config.scenes} scenes from {state} -> {REPORT / 'index.html'}"
