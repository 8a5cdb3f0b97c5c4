"""One dataset of those that can be read, with its images measured."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from diffps.datasets import coco, cuhk_sysu, folder, movienet, posetrack, prw
from diffps.datasets.files import ImageFacts, Measure
from diffps.errors import ImageError
from diffps.records import SearchIndex
from stages.config_data import IndexConfig
from stages.dataset.known import KnownFiles
from stages.job import Job, StoppedError


def read_dataset(config: IndexConfig, root: Path, known: KnownFiles, job: Job, *, skip_unreadable: bool) -> SearchIndex:
    """The dataset that ``config`` names, in the folder ``root``.

    Its report says how it was read, and the published counts where there are any. Raises DatasetError; ImageError for a
    file that is no image unless ``skip_unreadable``; StoppedError.
    """

    def measure(paths: Sequence[Path]) -> list[ImageFacts]:
        with job.track("index", len(paths), "images") as tracker:

            def measured(nbytes: int) -> None:
                tracker.advance(1, nbytes)
                if job.stopping:
                    raise StoppedError("index: stopped; nothing was written, the same command starts over")

            try:
                return known.measure(paths, measured, keep_unreadable=skip_unreadable, max_pixels=config.max_pixels)
            except ImageError as error:
                way_out = "" if skip_unreadable else ", or set runtime.skip_unreadable=true to leave it out"
                raise ImageError(f"{error}; restore it{way_out}") from error

    index = _sized(_read(config, root, measure))
    published = {"prw": prw.PUBLISHED, "cuhk-sysu": cuhk_sysu.PUBLISHED}.get(config.dataset)
    report = {**index.report, "dataset": config.dataset} | ({"published": published} if published else {})
    return replace(index, report=report)


def read_annotations_alone(config: IndexConfig, root: Path) -> SearchIndex:
    """The dataset in ``root`` without opening an image: scenes have no size. Raises DatasetError."""
    return _read(config, root, lambda paths: [ImageFacts(0, 0, "") for _ in paths])


def _read(config: IndexConfig, root: Path, measure: Measure) -> SearchIndex:
    readers: dict[str, Any] = {
        "streets": prw.read_prw,
        "prw": prw.read_prw,
        "cuhk-sysu": cuhk_sysu.read_cuhk_sysu,
        "movienet": movienet.read_movienet,
        "posetrack": posetrack.read_posetrack,
        "folder": partial(folder.read_folder, identity=config.identity),
        "coco": partial(coco.read_coco, identity=config.identity),
    }
    default = cuhk_sysu.DEFAULT_MIN_BOX if config.dataset == "cuhk-sysu" else (0, 0)
    min_box = default if config.min_box is None else config.min_box
    index: SearchIndex = readers[config.dataset](root, measure=measure, min_box=min_box)
    return index


def _sized(index: SearchIndex) -> SearchIndex:
    """Scenes of unknown size get the smallest that holds their boxes, and stand in the report as unreadable."""
    unknown = {scene.scene_id for scene in index.scenes if not any(scene.size)}
    if not unknown:
        return index
    corners = {name: index.annotations[name].boxes[:, 2:].max(0, initial=1) for name in unknown}
    scenes = tuple(
        replace(scene, width=math.ceil(corners[scene.scene_id][0]), height=math.ceil(corners[scene.scene_id][1]))
        if scene.scene_id in unknown
        else scene
        for scene in index.scenes
    )
    return replace(index, scenes=scenes, report={**index.report, "unreadable": sorted(unknown)})
