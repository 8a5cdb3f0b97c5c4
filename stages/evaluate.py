"""Search the test gallery with a trained head and score it."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Score the head at ``evaluate.head`` into results/evaluate, shown what it was trained on.

    Raises CheckpointError, DatasetError, CacheError; ConfigError where its features are not at hand.
    """
    from pathlib import Path

    from stages.devices import choose_device
    from stages.features.source import open_source
    from stages.head.saved import check_features, load_head, reading_of
    from stages.images import ImageFolder
    from stages.places import EVALUATE
    from stages.search.evaluation import evaluate_head
    from stages.together import index_folder

    config, head = params.evaluate, Path(params.evaluate.head)
    searcher = load_head(head)
    reading, images = reading_of(head, searcher, params.extract), ImageFolder.of(params.index)
    device = choose_device(runtime)
    with open_source(
        reading, "test", config.source, encode=params.encode, extract=params.extract, images=images, runtime=runtime
    ) as source:
        check_features(head, searcher, source)
        evaluate_head(config, searcher, source, index_folder(), images, EVALUATE, device, job, params.encode.words)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read, searched and written."""
    from diffps.datasets.tables import read_queries, read_scenes
    from stages.places import EVALUATE
    from stages.together import index_folder

    config = params.evaluate
    scenes, queries = len(read_scenes(index_folder(), "test")), len(read_queries(index_folder()))
    return (
        f"evaluate: head {config.head} on {scenes} test scenes ({config.source} features), {queries} queries, "
        f"gallery {config.gallery}, convention {config.convention} -> {EVALUATE}"
    )
