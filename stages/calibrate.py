"""What a head's similarities mean: measured on people it was not trained on, and kept beside it."""

from typing import Literal

from stages.job import Job, Runtime
from stages.params import Params

People = Literal["held-out", "test"]


def run(params: Params, runtime: Runtime, job: Job, people: People) -> None:
    """Calibrate the head of ``evaluate.head`` on the identities that ``train.holdout`` kept from it, or on the test
    split's, which are then no longer to be scored as an open set.

    Raises CalibrationError where they are too few; ConfigError, DatasetError and CacheError for what does not fit.
    """
    from pathlib import Path

    from diffps.model import PersonSearcher
    from diffps.search.heldout import held_out_searches
    from stages.devices import choose_device
    from stages.features.source import open_source
    from stages.finding.strangers import detect_strangers, strangers
    from stages.head.calibrated import calibrations_of, keep_calibrations, said_of
    from stages.head.saved import check_features, reading_of
    from stages.head.travel import find_head
    from stages.images import ImageFolder
    from stages.places import INDEX

    head = find_head(params.evaluate.head)
    found = strangers(params.train, INDEX, people)
    searcher = PersonSearcher.from_pretrained(head)
    reading, device = reading_of(head, searcher, params.extract), choose_device(runtime)
    with open_source(
        reading,
        "train" if people == "held-out" else "test",
        params.evaluate.source,
        encode=params.encode,
        extract=params.extract,
        images=ImageFolder.of(params.index),
        runtime=runtime,
    ) as source:
        check_features(head, searcher, source)
        detected = detect_strangers(params.evaluate, searcher, source, found, device, job)
    records = calibrations_of(
        held_out_searches(found.scenes, found.annotations, detected.boxes, detected.embeddings, detected.scenes)
    )
    where = {"dataset": params.index.dataset, "people": people, "identities": records[0].identities}
    path = keep_calibrations(Path(head), records, where)
    for line in said_of(records):
        job.say(line)
    job.say(f"{path}: written")
