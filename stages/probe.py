"""Every tap at every timestep, ranked from one pass before a byte is stored. Not part of `dvc repro`."""

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Write results/probe: table.parquet, words.parquet, redundancy.parquet, summary.txt, and sets to paste and train.

    What was probed before is not probed again. Raises CheckpointError, ImageError, ConfigError, DatasetError;
    StoppedError when asked to stop, after the scenes at hand.
    """
    from pathlib import Path

    from cache.lock import StoreLock
    from diffps.backbone.builtin.topology import check_unseen
    from diffps.backbone.stable_diffusion import StableDiffusion
    from diffps.datasets.tables import read_annotations, read_scenes
    from stages.cluster import cluster
    from stages.images import ImageFolder
    from stages.places import PROBE
    from stages.probing.finish import write_results
    from stages.probing.gather import check_memory, gather
    from stages.probing.setting import plan_probe, read_probe_file, without_control
    from stages.together import index_folder

    config, images, index = read_probe_file(Path(params.probe.file)), ImageFolder.of(params.index), index_folder()
    plans = plan_probe(config, params.encode, params.extract, read_scenes(index), read_annotations(index))
    prior = plans[0].unet.prior
    if params.index.dataset == "streets" and isinstance(prior, StableDiffusion):
        check_unseen(prior.checkpoint.folder, params.index.streets.seed)
    for limit in (*plans[0].sample.limits, *without_control(config, plans)):
        job.say(f"probe: {limit}")
    for plan in plans:
        job.say(f"probe {plan.unet.encode.checkpoint}: {len(plan.reads.taps)} taps, {check_memory(plan, runtime)}")
    with StoreLock(PROBE / "lock.json", takeover=runtime.takeover):
        with cluster(runtime) as client:
            for plan in plans:
                gather(plan, images, runtime, job, client)
        for line in write_results(plans, config, params.train.taps, images):
            job.say(line)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be probed, and what it takes."""
    from pathlib import Path

    from diffps.datasets.tables import read_annotations, read_scenes
    from stages.places import PROBE
    from stages.probing.gather import check_memory
    from stages.probing.setting import plan_probe, read_probe_file, without_control
    from stages.together import index_folder

    config, index = read_probe_file(Path(params.probe.file)), index_folder()
    plans = plan_probe(config, params.encode, params.extract, read_scenes(index), read_annotations(index))
    sample = plans[0].sample
    lines = [
        f"probe: {len(sample.scenes)} scenes, {sum(map(len, sample.boxes))} persons, t = "
        f"{', '.join(map(str, config.timesteps))} -> {PROBE}; no feature is stored",
        *sample.limits,
        *without_control(config, plans),
    ]
    lines += [
        f"  {plan.unet.encode.checkpoint}: {len(plan.reads.taps)} taps and {len(plan.reads.maps)} word maps, "
        f"{check_memory(plan, runtime)}, parts in {plan.folder}"
        for plan in plans
    ]
    return "\n".join(lines)
