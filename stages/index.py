"""Read a dataset as it lies on disk and write it as Parquet: every later stage starts from these files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.errors import ImageError
from stages.config_data import IndexConfig
from stages.job import Job, Runtime, StoppedError
from stages.params import Params
from stages.places import INDEX

if TYPE_CHECKING:
    from diffps.records import SearchIndex
HASHING_THREADS = 8  # reading waits for the disk, so more threads than cores pay


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Write data/index/*.parquet and report.json. Raises DatasetError, and ImageError for a file that is no image
    unless ``runtime.skip_unreadable``: then its scene stays, with a size that holds its boxes."""
    from diffps.datasets.tables import write_index

    index = read_dataset(params.index, job, skip_unreadable=runtime.skip_unreadable)
    write_index(index, INDEX)
    for line in describe(index.report):
        job.say(line)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read and written."""
    config = params.index
    root = Path(config.root)
    state = "is there" if root.is_dir() else "will be drawn" if config.dataset == "streets" else "is MISSING"
    return f"index: {config.dataset} at {root} ({state}) -> {INDEX}/*.parquet, report.json"


def read_dataset(config: IndexConfig, job: Job, *, skip_unreadable: bool = False) -> "SearchIndex":
    """The dataset that ``config`` names, read and checked; the published counts, where there are any, in its report."""
    from diffps.datasets import cuhk_sysu, own, prw, streets
    from diffps.datasets.files import ImageFacts, measure_images

    def measure(paths: Sequence[Path]) -> list[ImageFacts]:
        with job.track("index", len(paths), "images") as tracker:

            def measured(nbytes: int) -> None:
                tracker.advance(1, nbytes)
                if job.stopping:
                    raise StoppedError("index: stopped; nothing was written, the same command starts over")

            try:
                return measure_images(paths, HASHING_THREADS, measured, keep_unreadable=skip_unreadable)
            except ImageError as error:
                way_out = "" if skip_unreadable else ", or set runtime.skip_unreadable=true to leave it out"
                raise ImageError(f"{error}; restore it{way_out}") from error

    root = Path(config.root)
    if config.dataset == "streets":
        streets.draw(config.streets, root)
    readers = {
        "streets": prw.read_prw,
        "prw": prw.read_prw,
        "cuhk-sysu": cuhk_sysu.read_cuhk_sysu,
        "folder": own.read_folder,
        "coco": own.read_coco,
    }
    published = {"prw": prw.PUBLISHED, "cuhk-sysu": cuhk_sysu.PUBLISHED}.get(config.dataset)
    default = cuhk_sysu.DEFAULT_MIN_BOX if config.dataset == "cuhk-sysu" else (0, 0)
    min_box = default if config.min_box is None else config.min_box
    index = _sized(readers[config.dataset](root, measure=measure, min_box=min_box))
    report = {**index.report, "dataset": config.dataset} | ({"published": published} if published else {})
    return replace(index, report=report)


def _sized(index: "SearchIndex") -> "SearchIndex":
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


def describe(report: Mapping[str, Any]) -> list[str]:
    """The report as lines for people: a line for each split and for the rest, published counts beside what was read."""
    from diffps.datasets.files import summarise

    published = report.get("published", {})
    lines = []
    for split in ("train", "test"):
        known = published.get(split, {})
        parts = [
            f"{count} {name.replace('_', ' ')}" + (f" (published {known[name]})" if name in known else "")
            for name, count in report[split].items()
        ]
        lines.append(f"index: {split}: {', '.join(parts)}")
    queries = f"{report['queries']} queries" + (f" (published {published['queries']})" if published else "")
    rest = [f"boxes below {' x '.join(map(str, report['min_box']))} pixels dropped", queries]
    rest += [f"gallery {name}: {count} queries" for name, count in report.get("galleries", {}).items()]
    rest += [f"gallery {name} is not there" for name in report.get("galleries_missing", ())]
    lines.append(f"index: {', '.join(rest)}")
    if unreadable := report.get("unreadable"):
        lines.append(f"index: {len(unreadable)} images cannot be read and will be skipped: {summarise(unreadable)}")
    for gallery, found in report.get("oddities", {}).items():
        lines += [
            f"index: gallery {gallery}: {name.replace('_', ' ')}: rows {', '.join(map(str, rows))}"
            for name, rows in found.items()
            if rows
        ]
    return lines
