"""Run the frozen UNet once over every image's latents and keep the taps and maps that were asked for."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Write the missing taps and maps, their manifests, and what train and evaluate read.

    Raises ConfigError, CheckpointError, PromptError, UnknownTapError, CacheError; StoppedError when asked to stop,
    after the shard at hand.
    """
    from functools import partial

    from diffps.datasets.tables import read_scenes
    from diffps.errors import ConfigError
    from stages.features.arrays import pass_work
    from stages.features.backbone import pass_computer
    from stages.features.bases import BASIS_IMAGES
    from stages.features.complete import write_missing
    from stages.features.inputs import record_checkpoint, write_inputs
    from stages.features.opening import open_store
    from stages.features.plan import PassPlan
    from stages.features.reading import Reading
    from stages.features.transcode import transcode_pass
    from stages.images import ImageFolder
    from stages.together import index_folder

    encode, extract, scenes = params.encode, params.extract, read_scenes(index_folder())
    if extract.transcode and extract.encoding != "float16":
        raise ConfigError(f"extract.encoding {extract.encoding}: extract.transcode makes encodings from float16 only")
    store, images = open_store(runtime.store), ImageFolder.of(params.index)
    plan = PassPlan(encode, extract, store)
    make_computer = partial(pass_computer, encode, extract, images)
    if plan.unfitted(extract.timesteps):
        job.say(f"extract: fitting the bases of {extract.encoding} on at most {BASIS_IMAGES} images")
        make_computer(runtime).fit(scenes)
    work = pass_work(plan, scenes, images)
    write_missing("extract", store, work, make_computer, runtime, job, plan.prior.check_tensors)
    for encoding in extract.transcode:
        transcode_pass(encode, extract, store, scenes, encoding, "float16", job, takeover=runtime.takeover)
    record_checkpoint(plan)
    write_inputs(Reading.of(params.train, extract), plan, scenes)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read and written."""
    from stages.forecasts.size import budget, image_counts, passes_only, sizes_or_standard
    from stages.text import size

    config, counts = params.extract, image_counts(params.index)
    sizes = sizes_or_standard(params.encode, config)
    passes = passes_only(budget(counts, params.encode, config, runtime.shard, sizes))
    encodings = ", ".join((config.encoding, *config.transcode))
    return (
        f"extract {config.name}: {len(config.taps)} taps and maps at t = {', '.join(map(str, config.timesteps))} under "
        f"{config.prompt!r} as {encodings} -> {size(passes.nbytes)} in {passes.files} files where none lie yet; "
        "`diffps cache plan` has the hours"
    )
