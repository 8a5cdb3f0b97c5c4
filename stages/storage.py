"""Where the store lies, and what the parameters want of it: sizes before anything runs, recipes afterwards."""

import os
from collections.abc import Iterable, Iterator
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A budget with what it is held against. ``rate``: backbone passes per second, None where nobody knows."""

    budget: "Budget"
    free: int
    rate: float | None
    disk: "DiskRates"
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
        passes = sum(a.images for a in _first_of_groups(budget) if a.spec.group.timestep is not None)
        yield f"{'all':32} {passes:7} passes  {size(budget.nbytes):>10}  {budget.files} files"
        verdict = "fits" if budget.nbytes <= self.free else "DOES NOT FIT"
        yield f"free: {size(self.free)} ({verdict})"
        read, write = self.disk.read, self.disk.write
        kept = budget.nbytes / max(1, passes)
        yield f"disk: writes {size(write)}/s, reads {size(read)}/s; all of it in {hours(budget.nbytes / read)}"
        if self.rate is None:
            yield "hours: no rate known; give --rate PASSES_PER_SECOND, or --measure to run it on blanks"
            return
        total = passes * (1 / self.rate + kept / write)
        yield f"extraction: {hours(total)} at {self.rate:.3g} passes a second"
        pays = break_even(1 / self.rate, kept / write, kept / read)
        if pays is None:
            yield "break-even: never; this disk reads slower than this machine recomputes: do not cache (source: live)"
        else:
            yield (
                f"break-even: after {pays:.1f} epochs, {pays / self.epochs:.2f} trainings of {self.epochs} epochs; "
                f"from then on an epoch is {kept and read / kept / self.rate:.1f} times as fast"
            )


def plan(params: "Params", job: Job, rate: float | None, measure: bool, disk: int | None) -> Plan:
    """What the parameters will cost here. ``rate`` None: measured now, or else what the store's receipts say."""
    from cache.budget import measure_disk
    from cache.files import free_bytes

    root = store_root(job)
    if rate is None:
        rate = measure_rate(params, job) if measure else recorded_rate(root)
    free = free_bytes(root) if disk is None else disk
    epochs = int(params.train.epochs)
    return Plan(budget=budget(params), free=free, rate=rate, disk=measure_disk(root), epochs=epochs)


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


def recorded_rate(root: Path) -> float | None:
    """Backbone passes per second over everything the store's receipts record; None without any."""
    from cache import FeatureStore

    groups = [group for group in FeatureStore(root).status() if group.group.timestep is not None and group.seconds > 0]
    return sum(group.passes for group in groups) / sum(group.seconds for group in groups) if groups else None


def measure_rate(params: "Params", job: Job) -> float:
    """Backbone passes per second on blank latents, in extraction's batches, after one. Raises CheckpointError."""
    import time

    import numpy as np
    import torch

    from diffps.backbone.latents import NoiseKey
    from stages.devices import choose_device
    from stages.passes import Pass, PassRunner, unet_batch

    setting = Pass(params, store_root(job))
    device = choose_device(job.runtime)
    batch = unet_batch(job.runtime, device.type)
    runner = PassRunner(setting, device, job.runtime.compile)
    height, width = (side // LATENT_STRIDE for side in params.encode.canvas)
    channels = 2 * int(setting.checkpoint.config("vae")["latent_channels"])
    blank = (NoiseKey("0" * 64, "identity"), np.zeros((height, width, channels), np.float32))
    timestep = params.extract.timesteps[0]
    try:
        while True:
            try:
                list(runner.features([blank] * batch, timestep, batch))
                break
            except torch.OutOfMemoryError:  # extraction halves its batches too
                if batch == 1:
                    raise
                batch //= 2
        rounds = -(-MEASURED_IMAGES // batch)
        start = time.perf_counter()
        for _ in range(rounds):
            list(runner.features([blank] * batch, timestep, batch))
        return rounds * batch / (time.perf_counter() - start)
    finally:
        runner.close()


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


def _first_of_groups(budget: "Budget") -> Iterable[Any]:
    return {array.spec.group: array for array in budget.arrays}.values()


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
