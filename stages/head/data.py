"""What a head is trained on: scenes in order, persons in the canvas frame, identities held out."""

import hashlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from diffps.datasets.tables import read_annotations, read_scenes
from diffps.errors import ConfigError, DatasetError
from diffps.geometry import Canvas
from diffps.heads.sampling import Target
from diffps.records import UNLABELLED, Annotations
from diffps.schedule import Sample, SampleOrder
from stages.config_heads import TrainConfig

# Keeps the draws for the sample of scenes and for the held-out identities apart from those for the order of an epoch.
SCENES_STREAM, HOLDOUT_STREAM = 1_000_000_007, 1_000_000_009


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """Training scenes and their persons, boxes in the canvas frame, identities renumbered 0..``identities`` - 1.

    ``held_out``: scenes that show an identity held out (with its number in the dataset); no head is trained on them.
    """

    order: SampleOrder
    canvas: Canvas
    persons: Mapping[str, Annotations]
    identities: int
    held_out: Mapping[str, Annotations]
    mirror_features: bool

    def target(self, sample: Sample) -> Target:
        """The persons of a sample, mirrored where it is."""
        persons = self.persons[sample.scene_id]
        boxes = self.canvas.mirror(persons.boxes) if sample.mirrored else persons.boxes
        return Target(torch.from_numpy(boxes.copy()), torch.from_numpy(persons.identities))

    def digest(self) -> str:
        """Ten hex digits over everything a head learns from here."""
        found = hashlib.sha256(repr((self.canvas, self.order)).encode())
        for group in (self.persons, self.held_out):
            for scene_id, persons in group.items():
                found.update(scene_id.encode() + persons.boxes.tobytes() + persons.identities.tobytes())
        return found.hexdigest()[:10]


def training_set(config: TrainConfig, canvas: Canvas, index: Path, skipped: Collection[str] = ()) -> TrainingSet:
    """The training split of the index in folder ``index`` as section ``train`` wants it, without ``skipped`` scenes.

    Raises DatasetError or ConfigError.
    """
    listed = read_scenes(index, "train")
    scenes = {scene.scene_id: scene for scene in listed if scene.scene_id not in skipped}
    if not scenes:
        raise DatasetError(f"{index / 'images.parquet'} lists no readable training scenes: nothing to train on")
    annotations = read_annotations(index)
    persons = {
        scene_id: Annotations(
            canvas.to_canvas(annotations[scene_id].boxes, scenes[scene_id].size), annotations[scene_id].identities
        )
        for scene_id in _chosen(sorted(scenes), config)
    }
    held_out = _held_out(persons, config)
    if config.checkpoint == "best":
        check_searchable(held_out)
    kept = {scene_id: found for scene_id, found in persons.items() if scene_id not in held_out}
    if len(kept) < config.batch:
        raise ConfigError(
            f"train: {len(kept)} scenes are left to train on (holdout {config.holdout} takes {len(held_out)}), "
            f"fewer than one batch of {config.batch}: lower train.holdout or train.batch"
        )
    kept, identities = _renumbered(kept)
    order = SampleOrder(tuple(kept), config.batch, config.data_seed, config.flip != "none")
    return TrainingSet(order, canvas, kept, identities, held_out, config.flip == "feature")


def held_out_people(config: TrainConfig, index: Path) -> dict[str, Annotations]:
    """Scenes of the training split that no head under ``config`` is trained on, boxes in the scene frame, nobody but
    the held-out identities with a name."""
    annotations = read_annotations(index)
    chosen = _chosen(sorted(scene.scene_id for scene in read_scenes(index, "train")), config)
    return _held_out({scene_id: annotations[scene_id] for scene_id in chosen}, config)


def _chosen(scene_ids: list[str], config: TrainConfig) -> list[str]:
    if config.scenes is None:
        return scene_ids
    if config.scenes > len(scene_ids):
        raise ConfigError(f"train.scenes {config.scenes}: the index has {len(scene_ids)} training scenes")
    drawn = np.random.default_rng([config.data_seed, SCENES_STREAM]).permutation(len(scene_ids))[: config.scenes]
    return [scene_ids[i] for i in sorted(drawn)]


def _held_out(persons: Mapping[str, Annotations], config: TrainConfig) -> dict[str, Annotations]:
    """The scenes of the held-out identities, other persons in them made unlabelled."""
    labelled = _labels(persons)
    count = math.ceil(config.holdout * len(labelled))
    chosen = np.random.default_rng([config.data_seed, HOLDOUT_STREAM]).permutation(labelled)[:count]
    return {
        scene_id: Annotations(found.boxes, np.where(np.isin(found.identities, chosen), found.identities, UNLABELLED))
        for scene_id, found in persons.items()
        if np.isin(found.identities, chosen).any()
    }


def check_searchable(held_out: Mapping[str, Annotations]) -> None:
    """Raises ConfigError where no identity can be searched for in a second scene."""
    seen = np.concatenate([np.empty(0, np.int64), *(np.unique(found.identities) for found in held_out.values())])
    identities, scenes = np.unique(seen[seen != UNLABELLED], return_counts=True)
    if not (scenes > 1).any():
        raise ConfigError(
            f"train.holdout: none of the {len(identities)} identities held out is seen in two scenes, so there is "
            "nothing to judge the best checkpoint by; hold out more, or set train.checkpoint: last"
        )


def _renumbered(persons: Mapping[str, Annotations]) -> tuple[dict[str, Annotations], int]:
    labelled = _labels(persons)

    def number(identities: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.where(identities == UNLABELLED, UNLABELLED, np.searchsorted(labelled, identities)).astype(np.int64)

    numbered = {name: Annotations(found.boxes, number(found.identities)) for name, found in persons.items()}
    return numbered, len(labelled)


def _labels(persons: Mapping[str, Annotations]) -> NDArray[np.int64]:
    everyone = np.concatenate([np.empty(0, np.int64), *(found.identities for found in persons.values())])
    return np.unique(everyone[everyone != UNLABELLED])
