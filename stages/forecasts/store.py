"""What the store will cost, whether it fits, and after how many epochs it pays."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cache.budget import Budget, DiskRates, break_even
from diffps.errors import DiffPSError
from diffps.taps import FeatureName
from stages.features.reading import Reading
from stages.forecasts.size import budget, feature_bytes, image_counts, sizes_or_standard
from stages.forecasts.speed import Speed
from stages.params import Params, override
from stages.text import duration, size


@dataclass(frozen=True, kw_only=True, slots=True)
class StorePlan:
    """A budget with what it is held against; ``speed`` is None where nobody knows.

    An epoch of training reads ``images`` of ``image_bytes`` each; there will be ``epochs``.
    """

    budget: Budget
    free: int
    speed: Speed | None
    disk: DiskRates
    images: int
    image_bytes: int
    epochs: int

    def lines(self) -> Iterator[str]:
        """For people."""
        planned = self.budget
        by_group: dict[str, list[int]] = {}
        for array in planned.arrays:
            entry = by_group.setdefault(array.spec.group.path, [0, 0])
            entry[0] = array.images
            entry[1] += array.nbytes(planned.shard)
        for path, (images, nbytes) in by_group.items():
            yield f"{path:32} {images:7} images  {size(nbytes):>10}  {size(nbytes / max(1, images)):>10} an image"
        moments, passes = self._counts()
        yield f"{'all':32} {passes:7} passes  {size(planned.nbytes):>10}  {planned.files} files"
        verdict = "fits" if planned.nbytes <= self.free else "DOES NOT FIT"
        yield f"free: {size(self.free)} ({verdict})"
        yield f"training reads {size(self.image_bytes)} of an image"
        read, write = self.disk.read, self.disk.write
        yield f"disk: writes {size(write)}/s, reads {size(read)}/s; all of it in {duration(planned.nbytes / read)}"
        if self.speed is None:
            yield "hours: no rate known; give --rate IMAGES_PER_SECOND, or --measure to run the backbone on blanks"
            return
        vae, unet = self.speed.vae, self.speed.unet
        fill = moments * (vae or 0.0) + passes * unet + planned.nbytes / write
        if vae is not None:
            rates = f"VAE {vae:.3g} s an image, UNet {unet:.3g} s a pass"
        else:
            rates = f"{1 / unet:.3g} images a second, VAE and UNet together"
            if passes > moments:
                rates += "; the VAE's share is unknown and counted at every timestep"
        yield f"encode and extract: {duration(fill)} ({rates})"
        if not self.images:
            yield "break-even: there are no training images"
            return
        live, cached = self.images * ((vae or 0.0) + unet), self.images * self.image_bytes / read
        pays = break_even(fill, live, cached)
        if pays is None:
            yield "break-even: never; this disk reads slower than this machine recomputes: do not cache (source: live)"
        else:
            yield (
                f"break-even: after {pays:.1f} epochs of {self.images} images, {pays / self.epochs:.2f} trainings of "
                f"{self.epochs} epochs; an epoch's features come {live / cached:.1f} times as fast"
            )

    def _counts(self) -> tuple[int, int]:
        """Images through the VAE and passes of the UNet, over all splits, views and timesteps."""
        groups = {array.spec.group: array.images for array in self.budget.arrays}
        passes = sum(images for group, images in groups.items() if group.timestep is not None)
        return sum(groups.values()) - passes, passes


def plan_store(params: Params, shard: int, free: int, speed: Speed | None, disk: DiskRates) -> StorePlan:
    """What the parameters will cost, in shards of ``shard`` images on a disk with ``free`` bytes left."""
    encode, extract = params.encode, params.extract
    counts, sizes = image_counts(params.index), sizes_or_standard(encode, extract)
    images = counts.get("train", 0)
    return StorePlan(
        budget=budget(counts, encode, extract, shard, sizes),
        free=free,
        speed=speed,
        disk=disk,
        images=min(images, params.train.scenes or images),
        image_bytes=sum(feature_bytes(Reading.of(params.train, extract), encode, sizes).values()),
        epochs=int(params.train.epochs),
    )


def what_fits(params: Params, shard: int, disk: int) -> list[tuple[str, int]]:
    """(change, bytes) of the changes to the parameters that fit on ``disk`` bytes, mildest first."""
    read = {FeatureName.parse(name).tap for name in params.train.taps.names}
    used = [tap for tap in params.extract.taps if tap in read]
    height, width = params.encode.canvas
    no_flips = {"encode.views": ["identity"], "train.flip": "feature"}
    smaller = [
        (f"canvas {side[0]} x {side[1]}", {"encode.canvas": side})
        for fraction in (0.8, 0.6, 0.4)
        if (side := [max(64, round(length * fraction / 64) * 64) for length in (height, width)])
    ]
    single: list[tuple[str, dict[str, Any]]] = [
        ("only the taps train reads", {"extract.taps": used}),
        ("only train.timestep", {"extract.timesteps": [params.train.timestep]}),
        ("encoding int8", {"extract.encoding": "int8"}),
        ("no flips (train.flip feature)", no_flips),
        ("encoding int8, no flips", {"extract.encoding": "int8", **no_flips}),
        ("encoding project:64", {"extract.encoding": "project:64"}),
        ("encoding project:64, no flips", {"extract.encoding": "project:64", **no_flips}),
        *smaller,
    ]
    counts, sizes = image_counts(params.index), sizes_or_standard(params.encode, params.extract)

    now = budget(counts, params.encode, params.extract, shard, sizes).nbytes
    fitting: list[tuple[str, int]] = []
    for label, changes in single:
        try:
            changed = override(params, changes, "what fits")
            nbytes = budget(counts, changed.encode, changed.extract, shard, sizes).nbytes
        except (DiffPSError, ValueError):
            continue  # a change these parameters cannot take, such as more components than a tap has channels
        if nbytes < now and nbytes <= disk and nbytes not in dict(fitting).values():
            fitting.append((label, nbytes))
    return fitting
