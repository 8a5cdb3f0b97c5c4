"""Make the demo's backbone from drawn streets. Not part of `dvc repro`: its result comes with the package."""

from diffps.pretraining.config import PretrainConfig
from stages.job import Job, Runtime


def run(config: PretrainConfig, runtime: Runtime, job: Job) -> None:
    """Train into models/streets and measure on scenes never seen into results/pretrain; goes on where it stopped.

    Raises DivergedError, StoppedError.
    """
    from pathlib import Path

    from stages.devices import choose_device
    from stages.pretraining.measure import write_report
    from stages.pretraining.phases import FOLDER, WORK, finished, train

    device = choose_device(runtime)
    if finished(config):
        job.say(f"{FOLDER} is trained by this recipe")
    else:
        train(config, job, device)
    write_report(config, FOLDER, WORK / "untrained", Path("results/pretrain"), job)


def dry_run(config: PretrainConfig, runtime: Runtime, job: Job) -> str:
    """What would be made and how long it takes."""
    from stages.pretraining.phases import FOLDER, WORK, finished

    if finished(config):
        return f"pretrain: {FOLDER} is there; would measure it"
    megabytes = config.scenes * 18 / 1000
    return (
        f"pretrain: would draw {config.scenes} scenes ({megabytes:.0f} MB of latents and masks in {WORK}), train the "
        f"VAE for {config.vae_steps} and the UNet for {config.steps} steps into {FOLDER}: about an hour on two cores"
    )
