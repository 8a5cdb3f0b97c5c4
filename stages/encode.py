"""Run the VAE once over every image and keep the moments: whatever is read from the UNet later starts from these.

A prior without a VAE has none, and starts from the images.
"""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Write the words' embeddings, the missing moments and their manifests.

    Raises CheckpointError, ImageError, CacheError; StoppedError when asked to stop, after the shard at hand.
    """
    from functools import partial

    from diffps.backbone.builtin.topology import check_unseen
    from diffps.backbone.stable_diffusion import StableDiffusion
    from diffps.datasets.tables import read_scenes
    from stages.features.arrays import latent_work
    from stages.features.backbone import latent_computer
    from stages.features.complete import write_missing
    from stages.features.opening import open_store
    from stages.features.priors import prior_of
    from stages.features.words import write_words
    from stages.images import ImageFolder
    from stages.places import ENCODED
    from stages.together import index_folder

    config, images = params.encode, ImageFolder.of(params.index)
    prior = prior_of(config)
    scenes = read_scenes(index_folder())
    if params.index.dataset == "streets" and isinstance(prior, StableDiffusion):
        check_unseen(prior.checkpoint.folder, params.index.streets.seed)
    write_words(prior, config.words, config.text_encoder)
    store = open_store(runtime.store)
    if prior.latent_channels is None:
        ENCODED.mkdir(parents=True, exist_ok=True)  # an output of the stage all the same
        job.say(f"encode: {prior.name} reads images as they are, so there are no moments to store")
        return
    work = latent_work(config, prior, scenes, images)
    write_missing("encode", store, work, partial(latent_computer, config, images), runtime, job, prior.check_tensors)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read and written."""
    from stages.forecasts.size import budget, image_counts, moments_only, sizes_or_standard
    from stages.places import WORDS
    from stages.text import size

    config, counts = params.encode, image_counts(params.index)
    sizes = sizes_or_standard(config, params.extract)
    if sizes.latent_channels is None:
        return f"encode: {config.checkpoint} reads images as they are, so there are no moments to store"
    planned = moments_only(budget(counts, config, params.extract, runtime.shard, sizes))
    views = sum(array.images for array in planned.arrays)
    height, width = config.canvas
    return (
        f"encode: {sum(counts.values())} images, {views} with views, by {config.checkpoint} on {height} x {width} "
        f"-> moments, {size(planned.nbytes)} where none lie yet; {WORDS} ({', '.join(config.words)})"
    )
