"""Seconds of the backbone: measured on blanks, or as the store's receipts tell."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cache import FeatureStore
from cache.status import GroupStatus
from diffps.backbone.latents import NoiseKey
from diffps.taps import LATENT_STRIDE
from stages.devices import choose_device
from stages.features.backbone import PassRunner, unet_batch, vae_batch
from stages.features.plan import PassPlan
from stages.job import Runtime

MEASURED_IMAGES = 4


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds the VAE takes for an image and the UNet for a pass. ``vae`` None: only their sum is known, ``unet``."""

    vae: float | None
    unet: float


def recorded_speed(root: Path) -> Speed | None:
    """Over everything the store's receipts record; None unless they tell of the passes and of the moments, if any."""

    def average(groups: Iterable[GroupStatus]) -> float | None:
        timed = [group for group in groups if group.seconds > 0]
        return sum(group.seconds for group in timed) / sum(group.passes for group in timed) if timed else None

    groups = FeatureStore(root).status()
    moments = [group for group in groups if group.group.timestep is None]
    vae = average(moments) if moments else 0.0  # priors that start from the image have none
    unet = average(group for group in groups if group.group.timestep is not None)
    return None if vae is None or unet is None else Speed(vae, unet)


def measure_speed(plan: PassPlan, runtime: Runtime) -> Speed:
    """On blank images and latents, in the batches of encode and extract. Raises CheckpointError."""
    device, encode = choose_device(runtime), plan.encode

    def vae_seconds() -> float:
        encoder = plan.prior.open_encoder(device, encode.dtype)
        batch = runtime.vae_batch or vae_batch(encode.frame, device.type)
        return _seconds_each(lambda count: encoder.moments(torch.zeros(count, 3, *encode.canvas)).cpu(), batch)

    channels, shape = plan.prior.latent_channels, (*encode.canvas, 3)
    vae = 0.0
    if channels is not None:
        vae = vae_seconds()  # its model is gone before the UNet comes
        shape = (encode.canvas[0] // LATENT_STRIDE, encode.canvas[1] // LATENT_STRIDE, 2 * channels)
    blank = (NoiseKey("0" * 64, "identity"), np.zeros(shape, np.float32))
    timestep, batch = plan.extract.timesteps[0], unet_batch(runtime, device.type)
    runner = PassRunner(plan, device, runtime.compile)
    try:
        return Speed(vae, _seconds_each(lambda count: list(runner.features([blank] * count, timestep, count)), batch))
    finally:
        runner.close()


def _seconds_each(run: Callable[[int], object], batch: int) -> float:
    """Seconds an image takes in ``run``, which is told the size of its batch, after a first one."""
    while True:
        try:
            run(batch)
            break
        except torch.OutOfMemoryError:  # encode and extract halve their batches too
            if batch == 1:
                raise
            batch //= 2
    rounds = -(-MEASURED_IMAGES // batch)
    start = time.perf_counter()
    for _ in range(rounds):
        run(batch)
    return (time.perf_counter() - start) / (rounds * batch)
