"""VAE and UNet over a stretch of scenes, and nothing kept of them but parts."""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from diffps.errors import DivergedError
from diffps.probe.collect import Collector, People, fit_readouts
from diffps.probe.part import Part
from stages.cluster import own_device
from stages.features.backbone import LatentComputer, PassRunner, unet_batch
from stages.features.bases import Keyed
from stages.features.batches import chunks
from stages.features.shards import Skipped
from stages.images import ImageFolder
from stages.job import Runtime
from stages.probing.parts import ProbeState
from stages.probing.setting import ProbePlan, Stretch

log = logging.getLogger(__name__)

# Of a worker process: its models, and that they run one batch at a time, however many threads it has.
_probers: dict[Path, "Prober"] = {}
_alone = Lock()


class Prober:
    """The models of a plan on their device, over ``images``."""

    def __init__(self, plan: ProbePlan, images: ImageFolder, runtime: Runtime) -> None:
        self._plan = plan
        self._latents = LatentComputer(plan.unet.prior, plan.unet.encode, images, plan.sample.scenes, runtime)
        self._runner = PassRunner(plan.unet, self._latents.device, runtime.compile)
        self.batch = unet_batch(runtime, self._latents.device.type)
        self._readouts: dict[int, Mapping[str, Tensor]] = {}

    def close(self) -> None:
        """Take the hooks off the UNet."""
        self._runner.close()

    def probe(self, stretch: Stretch) -> int:
        """Probe a stretch at every timestep that lacks it, and keep the parts; the number of its scenes.

        The batch is halved where it does not fit. Raises ImageError, DivergedError.
        """
        states = {timestep: state_at(self._plan, timestep) for timestep in self._plan.timesteps}
        missing = [timestep for timestep, state in states.items() if not state.has(stretch)]
        while missing:
            try:
                for timestep, part in self._parts(stretch, missing).items():
                    states[timestep].keep(stretch, part)
                break
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch //= 2
                log.warning("out of memory: scenes %d to %d again in batches of %d", *_ends(stretch), self.batch)
                torch.cuda.empty_cache()
        return len(stretch.rows)

    def _parts(self, stretch: Stretch, timesteps: Sequence[int]) -> dict[int, Part]:
        plan = self._plan
        scenes = [plan.sample.scenes[row] for row in stretch.rows]
        found = list(self._latents.keyed([(scene.scene_id, "identity") for scene in scenes]))
        images = [(row, each) for row, each in zip(stretch.rows, found, strict=True) if not isinstance(each, Skipped)]
        return {timestep: self._part(images, timestep, stretch) for timestep in timesteps}

    def _part(self, images: Sequence[tuple[int, Keyed]], timestep: int, stretch: Stretch) -> Part:
        plan = self._plan
        readouts = None if stretch.phase == "fit" else self._readouts_at(timestep)
        shapes = {**plan.reads.taps, **plan.reads.maps}
        collector = Collector(shapes, plan.reads.maps, plan.frame, plan.rules, readouts)
        for batch in chunks(images, self.batch):
            people = [People(plan.sample.scenes[row].scene_id, plan.sample.boxes[row]) for row, _ in batch]
            collector.add(self._runner.tensors([image for _, image in batch], timestep, self.batch), people)
        part = collector.take()
        part.rows["scenes"] = np.array([row for row, _ in images], np.int64)
        check_finite(part, plan.unet.extract.dtype)
        return part

    def _readouts_at(self, timestep: int) -> Mapping[str, Tensor]:
        if timestep not in self._readouts:
            self._readouts[timestep] = fit_readouts(state_at(self._plan, timestep).sums(), self._plan.reads.taps)
        return self._readouts[timestep]


def check_finite(part: Part, dtype: str) -> None:
    """Raise DivergedError for features that overflowed in ``dtype``; other numbers of a part may be none."""
    for name, values in (*part.sums.items(), *part.rows.items()):
        feature, _, kind = name.rpartition("/")
        if kind in ("all", "vectors") and not np.isfinite(values).all():
            raise DivergedError(
                f"{feature}: NaN or infinity in {dtype}; set extract.dtype to bfloat16 or float32, which have more "
                "range"
            )


def probe_on_worker(plan: ProbePlan, images: ImageFolder, runtime: Runtime, folder: Path, stretch: Stretch) -> int:
    """:meth:`Prober.probe` in a worker process of a cluster that sees the same files. The models of the plan asked
    last are kept."""
    # Only workers have distributed loaded anyway.
    from distributed import get_worker

    os.chdir(folder)
    with _alone:
        if plan.folder not in _probers:
            while _probers:
                _probers.popitem()[1].close()
            device = own_device(runtime.device, get_worker().name)
            _probers[plan.folder] = Prober(plan, images, replace(runtime, device=device))
        return _probers[plan.folder].probe(stretch)


def state_at(plan: ProbePlan, timestep: int) -> ProbeState:
    """The parts of a plan at one timestep."""
    return ProbeState(plan.folder / f"t{timestep}")


def _ends(stretch: Stretch) -> tuple[int, int]:
    return stretch.rows[0] + 1, stretch.rows[-1] + 1
