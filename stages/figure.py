"""One of the paper's figures, or one of ours, from stored results and features: PNG and SVG."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job, name: str) -> None:
    """Write results/figures/<name>.png and .svg, numbered where there are several; with ``similarity`` also the
    threshold beside the head.

    Raises ConfigError for an unknown name, NotThereError where an earlier stage has to run first.
    """
    from pathlib import Path

    from cache.sealed import write_json
    from diffps.figures.render import save
    from stages.features.opening import open_store
    from stages.page.evidence import Evidence
    from stages.page.figures import make
    from stages.page.searches import similarity
    from stages.places import FIGURES, similarity_file
    from stages.together import add

    evidence = Evidence(params, open_store(runtime.store), job)
    pictures, written = make(name, evidence), list[Path]()
    for index, picture in enumerate(pictures, start=1):
        stem = name if len(pictures) == 1 else f"{name}-{index}"
        written += save(picture, FIGURES, stem)
        job.say("wrote " + " and ".join(map(str, written[-2:])))
    add(FIGURES, [path.name for path in written], "figure")
    if name == "similarity" and (pairs := similarity(evidence)) is not None:
        write_json(similarity_file(Path(params.evaluate.head)), pairs.as_json())
