"""Where the store lies, and what the parameters want of it: sizes before anything runs, recipes afterwards."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.errors import CheckpointError, DatasetError, DiffPSError
from diffps.records import Split
from diffps.taps import LATENT_STRIDE, TapSpec, map_name, standard_taps
from stages.index import INDEX_FOLDER
from stages.job import Job
from stages.recipes import stored_map

if TYPE_CHECKING:
    from cache import ArraySpec, FeatureStore
    from cache.budget import Budget, DiskRates
    from cache.status import GroupStatus
    from stages.params import Params

# For planning before the data is here.
PUBLISHED: dict[str, dict[Split, int]] = {
    "prw": {"train": 5704, "test": 6112},
    "cuhk-sysu": {"train": 11206, "test": 6978},
}
MEASURED_IMAGES = 4


def store_root(job: Job) -> Path:
    """``runtime.store``; below the original repository in DVC's temporary experiment folders, which set DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", "")) / job.runtime.store


def image_counts(params: "Params") -> dict[Split, int]:
    """Images per split: of the index if it is this dataset's, else what is drawn or published. Raises DatasetError."""
    import json

    from diffps.datasets.tables import read_scenes

    config = params.index
    if config.dataset == "streets":
        return {"train": config.streets.train_scenes, "test": config.streets.test_scenes}
    report = INDEX_FOLDER / "report.json"
    if report.is_file() and json.loads(report.read_text()).get("dataset") == config.dataset:
        counts: dict[Split, int] = {}
        for scene in read_scenes(INDEX_FOLDER):
            counts[scene.split] = counts.get(scene.split, 0) + 1
        return counts
    if config.dataset not in PUBLISHED:
        raise DatasetError(f"index.dataset {config.dataset}: its size is known once `diffps index` has run")
    return PUBLISHED[config.dataset]


def budget(params: "Params") -> "Budget":
    """Everything encode and extract keep. Sizes are the checkpoint's, or SD 2.1's where it is not here yet."""
    from cache import ArraySpec, GroupKey, parse_encoding, tap_name
    from cache.budget import Budget, PlannedArray

    encode, extract = params.encode, params.extract
    table, latent_channels = _sizes(params)
    height, width = encode.canvas
    arrays = []

    def add(group: GroupKey, name: str, stride: int, channels: int, encoding: str, images: int) -> None:
        shape = (height // stride, width // stride, channels)
        arrays.append(PlannedArray(ArraySpec(group, name, shape, parse_encoding(encoding), {}), images))

    for split, images in image_counts(params).items():
        for view in encode.views_of(split):
            add(GroupKey(split, view, "latent"), "moments", LATENT_STRIDE, 2 * latent_channels, "float32", images)
            for timestep in extract.timesteps:
                group = GroupKey(split, view, "pass", timestep)
                for tap in (table[name] for name in extract.taps):
                    if tap.kind == "grid":
                        name = tap_name(tap.id, parse_encoding(extract.encoding))
                        add(group, name, tap.stride, tap.channels, extract.encoding, images)
                        continue
                    for word in extract.words:
                        name = stored_map(map_name(tap.id, word), extract.head)
                        add(group, name, tap.stride, 1, "float32", images)
    return Budget(arrays=arrays, shard=params.runtime.shard)


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds the VAE takes for an image and the UNet for a pass. ``vae`` None: only their sum is known, ``unet``."""

    vae: float | None
    unet: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A budget with what it is held against; ``speed`` is None where nobody knows.

    An epoch of training reads ``images`` of ``image_bytes`` each; there will be ``epochs``.
    """

    budget: "Budget"
    free: int
    speed: Speed | None
    disk: "DiskRates"
    images: int
    image_bytes: int
    epochs: int

    def lines(self) -> Iterator[str]:
        """For people."""
        from cache.budget import break_even

        budget = self.budget
        by_group: dict[str, list[int]] = {}
        for array in budget.arrays:
            entry = by_group.setdefault(array.spec.group.path, [0, 0])
            entry[0] = array.images
            entry[1] += array.nbytes(budget.shard)
        for path, (images, nbytes) in by_group.items():
            yield f"{path:32} {images:7} images  {size(nbytes):>10}  {size(nbytes / max(1, images)):>10} an image"
        moments, passes = self._counts()
        yield f"{'all':32} {passes:7} passes  {size(budget.nbytes):>10}  {budget.files} files"
        verdict = "fits" if budget.nbytes <= self.free else "DOES NOT FIT"
        yield f"free: {size(self.free)} ({verdict})"
        read, write = self.disk.read, self.disk.write
        yield f"disk: writes {size(write)}/s, reads {size(read)}/s; all of it in {hours(budget.nbytes / read)}"
        if self.speed is None:
            yield "hours: no rate known; give --rate IMAGES_PER_SECOND, or --measure to run the backbone on blanks"
            return
        vae, unet = self.speed.vae, self.speed.unet
        fill = moments * (vae or 0.0) + passes * unet + budget.nbytes / write
        if vae is not None:
            rates = f"VAE {vae:.3g} s an image, UNet {unet:.3g} s a pass"
        else:
            rates = f"{1 / unet:.3g} images a second, VAE and UNet together"
            if passes > moments:
                rates += "; the VAE's share is unknown and counted at every timestep"
        yield f"encode and extract: {hours(fill)} ({rates})"
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


def plan(params: "Params", job: Job, rate: float | None, measure: bool, disk: int | None) -> Plan:
    """What the parameters will cost here. ``rate``: whole images per second, through VAE and UNet; None: measured now,
    or else what the store's receipts say."""
    from cache.budget import measure_disk
    from cache.files import free_bytes

    root = store_root(job)
    if rate is not None:
        speed: Speed | None = Speed(None, 1 / rate)
    else:
        speed = measure_speed(params, job) if measure else recorded_speed(root)
    planned = budget(params)
    images = image_counts(params).get("train", 0)
    return Plan(
        budget=planned,
        free=free_bytes(root) if disk is None else disk,
        speed=speed,
        disk=measure_disk(root),
        images=min(images, params.train.scenes or images),
        image_bytes=_bytes_read(params, planned),
        epochs=int(params.train.epochs),
    )


def _bytes_read(params: "Params", planned: "Budget") -> int:
    """Bytes of what training reads of an image: its taps, in one view and at one timestep."""
    from cache import GroupKey
    from cache.budget import image_bytes
    from stages.extract import stored_name

    extract = params.extract
    group = GroupKey("train", "identity", "pass", extract.timesteps[0])  # as large as any other
    names = {stored_name(name, extract.encoding, extract.head) for name in params.train.taps.names}
    return sum(image_bytes(a.spec) for a in planned.arrays if a.spec.group == group and a.spec.name in names)


def what_fits(params: "Params", disk: int) -> list[tuple[str, int]]:
    """(change, bytes) of the changes to the parameters that fit on ``disk`` bytes, mildest first."""
    from stages.params import override

    read = set(params.train.taps.names)
    used = [tap for tap in params.extract.taps if any(name == tap or name.startswith(f"{tap}.") for name in read)]
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
    now = budget(params).nbytes
    fitting: list[tuple[str, int]] = []
    for label, changes in single:
        try:
            nbytes = budget(override(params, changes, "what fits")).nbytes
        except (DiffPSError, ValueError):
            continue  # a change these parameters cannot take, such as more components than a tap has channels
        if nbytes < now and nbytes <= disk and nbytes not in dict(fitting).values():
            fitting.append((label, nbytes))
    return fitting


def recorded_speed(root: Path) -> Speed | None:
    """Over everything the store's receipts record; None unless they tell of both the VAE and the UNet."""
    from cache import FeatureStore

    def average(groups: "Iterable[GroupStatus]") -> float | None:
        timed = [group for group in groups if group.seconds > 0]
        return sum(group.seconds for group in timed) / sum(group.passes for group in timed) if timed else None

    groups = FeatureStore(root).status()
    vae = average(group for group in groups if group.group.timestep is None)
    unet = average(group for group in groups if group.group.timestep is not None)
    return None if vae is None or unet is None else Speed(vae, unet)


def measure_speed(params: "Params", job: Job) -> Speed:
    """On blank images and latents, in the batches of encode and extract. Raises CheckpointError."""
    import numpy as np
    import torch

    from diffps.backbone.frozen import torch_dtype
    from diffps.backbone.latents import LatentEncoder, NoiseKey
    from stages.devices import choose_device
    from stages.encode import vae_batch
    from stages.passes import Pass, PassRunner, unet_batch

    setting = Pass(params, store_root(job))
    runtime, device = job.runtime, choose_device(job.runtime)

    def encode() -> float:
        encoder = LatentEncoder(setting.checkpoint.load_vae(torch_dtype(params.encode.dtype)), device)
        batch = runtime.vae_batch or vae_batch(params.encode.frame, device.type)
        return _seconds_each(lambda size: encoder.moments(torch.zeros(size, 3, *params.encode.canvas)).cpu(), batch)

    vae = encode()  # its model is gone before the UNet comes
    height, width = (side // LATENT_STRIDE for side in params.encode.canvas)
    channels = 2 * int(setting.checkpoint.config("vae")["latent_channels"])
    blank = (NoiseKey("0" * 64, "identity"), np.zeros((height, width, channels), np.float32))
    timestep, batch = params.extract.timesteps[0], unet_batch(runtime, device.type)
    runner = PassRunner(setting, device, runtime.compile)
    try:
        return Speed(vae, _seconds_each(lambda size: list(runner.features([blank] * size, timestep, size)), batch))
    finally:
        runner.close()


def _seconds_each(run: Callable[[int], object], batch: int) -> float:
    """Seconds an image takes in ``run``, which is told the size of its batch, after a first one."""
    import time

    import torch

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


def wanted_arrays(params: "Params", root: Path) -> list["ArraySpec"]:
    """Every array encode and extract keep for these parameters, with its recipe. Loads the checkpoint's text side."""
    from stages.passes import Pass
    from stages.recipes import moments_spec

    setting = Pass(params, root)
    splits: tuple[Split, Split] = ("train", "test")
    specs = []
    for split in splits:
        for view in params.encode.views_of(split):
            specs.append(moments_spec(params.encode, setting.checkpoint, split, view))
            for timestep in params.extract.timesteps:
                specs += setting.specs(split, view, timestep).values()
    return specs


def repairs(params: "Params", root: Path, damaged: "Iterable[ArraySpec]") -> tuple[list[list[str]], list["ArraySpec"]]:
    """Arguments of the commands that write ``damaged`` arrays again once withdrawn, in their order; and the arrays
    that these parameters make under no encoding or head."""
    from cache import CacheError
    from stages.params import override

    left = {spec.path: spec for spec in damaged}

    def claim(changes: dict[str, Any]) -> set[str]:
        """Take what the changed parameters want out of ``left``; the stages that write it."""
        wanted = wanted_arrays(override(params, changes, "repair"), root)
        mine = [spec.path for spec in wanted if spec.path in left and left[spec.path].id == spec.id]
        return {_stage(left.pop(path)) for path in mine}

    plain = [[stage] for stage in sorted({_stage(spec) for spec in left.values()})]
    changed: list[list[str]] = []
    try:
        stages = claim({})
        for key, value in sorted({_choice(spec) for spec in left.values() if _stage(spec) == "extract"}, key=str):
            if claim({key: value}):
                changed.append(["extract", "--set", f"{key}={value}"])
    except (DiffPSError, CacheError):  # such as a checkpoint that is not here: the stages say it themselves
        return plain, []
    # The parameters' own extraction comes last: it names what training reads.
    commands = [["encode"], *changed, ["extract"]]
    return [command for command in commands if len(command) > 1 or command[0] in stages], list(left.values())


def _stage(spec: "ArraySpec") -> str:
    return "encode" if spec.group.timestep is None else "extract"


def _choice(spec: "ArraySpec") -> tuple[str, Any]:
    """The parameter by which arrays of one pass lie side by side: a map's head, a tap's encoding."""
    return ("extract.head", spec.recipe["head"]) if "head" in spec.recipe else ("extract.encoding", spec.encoding.name)


def explain(params: "Params", store: "FeatureStore") -> Iterator[str]:
    """For each array the parameters want and the store lacks: the nearest one it has, and the fields that differ."""
    from cache import explain_difference

    def stem(name: str) -> str:
        return name.partition("@")[0]

    there = {spec.path: spec for spec in store.arrays()}
    for spec in wanted_arrays(params, store.root):
        found = there.get(spec.path)
        if found is not None and found.id == spec.id:
            continue
        same = [
            other
            for other in there.values()
            if (other.group.split, other.group.view) == (spec.group.split, spec.group.view)
            and stem(other.name) == stem(spec.name)
        ]
        if not same:
            yield f"{spec.path}: the store has no {spec.name} for {spec.group.split}/{spec.group.view}"
            continue
        fewest = min((explain_difference(spec.full_recipe, other.full_recipe) for other in same), key=len)
        told = [line for line in fewest if not line.startswith("name:")]  # the encoding or head that it says
        yield f"{spec.path}: differs from what is there in {'; '.join(told)}"


def size(nbytes: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.1f} GB" if nbytes < 10_000 else f"{nbytes / 1000:,.1f} TB"


def hours(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _sizes(params: "Params") -> tuple[dict[str, TapSpec], int]:
    """Taps of the checkpoint's UNet and the channels of its latents."""
    from diffps.backbone.checkpoint import load_checkpoint
    from diffps.taps import check_taps

    try:
        checkpoint = load_checkpoint(params.encode.checkpoint, params.encode.revision, params.extract.unet)
    except CheckpointError:
        return standard_taps(), 4
    check_taps(params.extract.taps, checkpoint.taps)
    return checkpoint.taps, int(checkpoint.config("vae")["latent_channels"])
