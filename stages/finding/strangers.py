"""People that a head was not trained on, and what it finds of them: what a calibration is measured on."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from diffps.datasets.tables import read_annotations, read_scenes
from diffps.errors import ConfigError
from diffps.features import FeatureSource
from diffps.model import PersonSearcher
from stages.config_heads import EvaluateConfig, TrainConfig
from stages.head.data import held_out_people
from stages.job import Job
from stages.search.gallery import SearchSet
from stages.search.inference import search_gallery
from stages.search.tables import Detected


def strangers(train: TrainConfig, index: Path, people: Literal["held-out", "test"]) -> SearchSet:
    """The scenes that show them, without queries: of the test split, or those that ``train.holdout`` took out of
    training, in which nobody else has a name.

    Raises ConfigError where nobody was held out.
    """
    if people == "test":
        scenes = tuple(read_scenes(index, "test"))
        annotations = read_annotations(index)
    else:
        if not train.holdout:
            raise ConfigError(
                "train.holdout is 0, so no identity was kept from the head: train with a holdout, or calibrate in a "
                "folder of other people with --people test"
            )
        annotations = held_out_people(train, index)
        scenes = tuple(scene for scene in read_scenes(index, "train") if scene.scene_id in annotations)
    numbers = {scene.scene_id: number for number, scene in enumerate(scenes)}
    return SearchSet(scenes, {name: annotations[name] for name in numbers}, (), numbers, {})


def detect_strangers(
    config: EvaluateConfig,
    searcher: PersonSearcher,
    source: FeatureSource,
    found: SearchSet,
    device: torch.device,
    job: Job,
) -> Detected:
    """What the head detects in these scenes, as evaluate would."""
    return search_gallery(replace(config, gt_boxes=False), {"": searcher}, source, found, device, job)[""]
