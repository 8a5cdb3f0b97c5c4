"""One of the paper's figures, or one of ours, from stored results and features: PNG and SVG."""

from pathlib import Path
from typing import TYPE_CHECKING

from stages.job import Job
from stages.page.figures import make
from stages.report import similarity_file

if TYPE_CHECKING:
    from stages.params import Params

FOLDER = Path("results/figures")


def run(params: "Params", job: Job, name: str) -> None:
    """Write results/figures/<name>.png and .svg, numbered where there are several; with ``similarity`` also the
    threshold beside the head.

    Raises ConfigError for an unknown name, NotThereError where an earlier stage has to run first.
    """
    from diffps.figures.render import save
    from stages.files import write_json
    from stages.page.evidence import Evidence
    from stages.page.searches import similarity

    evidence = Evidence(params, job)
    pictures = make(name, evidence)
    for index, picture in enumerate(pictures, start=1):
        stem = name if len(pictures) == 1 else f"{name}-{index}"
        job.say("wrote " + " and ".join(str(path) for path in save(picture, FOLDER, stem)))
    if name == "similarity" and (pairs := similarity(evidence)) is not None:
        write_json(similarity_file(params), pairs.as_json())
