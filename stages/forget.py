"""Forget images: nothing of them, and of who is on them, stays in the project."""

from pathlib import Path

from stages.config_data import IndexConfig
from stages.job import Job, Runtime


def run(
    index: IndexConfig,
    head: Path,
    runtime: Runtime,
    job: Job,
    images: tuple[str, ...] = (),
    *,
    person: str = "",
    folder: str = "",
    heads: bool = False,
    dry: bool = False,
) -> None:
    """Take ``images``, all of ``person`` and all below ``folder`` out of results, store and index, in this order: run
    again after a kill, the same command finds the rest. With ``heads`` what learned from them goes too; else it is
    named. ``dry``: only say what would go. ``head``: the one that was scored.

    Raises ConfigError where nobody and nothing is meant; LockedError while a stage writes the store.
    """
    from diffps.datasets.tables import read_annotations, read_scenes
    from diffps.errors import ConfigError
    from stages.forgetting.chosen import by_folder, by_name, by_person
    from stages.forgetting.everywhere import forget_everywhere
    from stages.places import images_root
    from stages.together import index_folder

    root, tables = images_root(index.root), index_folder()
    scenes = read_scenes(tables)
    parts = [by_name(images, scenes, root)] if images else []
    if folder:
        parts.append(by_folder(folder, scenes, root))
    if person:
        parts.append(by_person(person, scenes, read_annotations(tables), index, root))
    if not parts:
        raise ConfigError("forget: whom? Name images, or give --person NAME or --folder FOLDER")
    forget_everywhere(parts, head, runtime, job, heads=heads, dry=dry)
