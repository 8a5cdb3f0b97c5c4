"""Train one head on features; run again, it goes on where it stopped."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Train the head of section ``train`` into results/train. Raises DivergedError, the last good checkpoint kept;
    StoppedError when asked to stop; ConfigError, DatasetError or CacheError for what does not fit together."""
    from cache.lock import StoreLock
    from stages.devices import choose_device
    from stages.features.source import open_source, skipped_scenes
    from stages.features.words import read_words
    from stages.head.data import training_set
    from stages.head.identity import HeadIdentity
    from stages.head.loop import train_head
    from stages.head.run import HeadRun
    from stages.head.watching import tracked
    from stages.images import ImageFolder
    from stages.places import TRAIN
    from stages.together import index_folder

    train, encode, extract = params.train, params.encode, params.extract
    device, images = choose_device(runtime), ImageFolder.of(params.index)
    identity = HeadIdentity.of(params.index.dataset, train, encode, extract)
    source = open_source(
        identity.reading, "train", train.source, encode=encode, extract=extract, images=images, runtime=runtime
    )
    with StoreLock(TRAIN / "checkpoint" / "lock.json", takeover=runtime.takeover), source:
        data = training_set(train, encode.frame, index_folder(), skipped_scenes(source, job))
        words = None if train.model.sfan is None else read_words(encode.words)
        head = HeadRun(train, data, source, words, identity, TRAIN, device)
        with tracked(runtime.tracker, {"": TRAIN}) as watch:
            train_head(head, source, job, watch=watch)
    job.say(f"{TRAIN / 'head'}: written; mean loss of the last epoch {head.metrics()['loss']:.4f}")


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """Parameters and FLOPs per part, memory, steps, and the time expected from a few measured steps."""
    from stages.forecasts.training import forecast_training

    return forecast_training(params.train, params.encode, params.extract, runtime)
