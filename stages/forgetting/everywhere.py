"""Forgetting in the whole project: results, then the store, then the index, by which the rest is found."""

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from cache.files import clear_temporaries, write_folder
from cache.forget import forget
from cache.layout import ZARR
from cache.rows import splits
from cache.sealed import seal_folder
from cache.traces import Traces, find_removed, find_traces
from diffps.datasets.tables import read_scenes, write_index
from diffps.records import Scene, Split
from stages.features.opening import open_store
from stages.forgetting.chosen import SPLITS, Chosen
from stages.forgetting.galleries import in_galleries
from stages.forgetting.reindex import without
from stages.forgetting.remembered import Memory, fitted, memories, others
from stages.job import Job, Runtime
from stages.places import ENCODED, EXTRACTED, INDEX, INPUTS
from stages.text import size
from stages.together import json_content

KEPT = (
    "beyond this project: photographs and their annotations, other data sets, backups, exported features, DVC's cache "
    "(`dvc gc --workspace`) and git's history still have what they had"
)


def forget_everywhere(
    parts: Sequence[Chosen], head: Path, runtime: Runtime, job: Job, *, heads: bool, dry: bool
) -> None:
    """Take all images of ``parts`` out of everything, or with ``dry`` say what would be; ``head`` is the one scored."""
    scenes = _indexed_scenes()
    chosen = reduce(Chosen.joined, parts).with_copies(scenes)
    store = open_store(runtime.store)
    found = [
        find_traces(store.root, split, scene_ids=chosen.names, digests=chosen.digests, dataset=store.dataset)
        for split in splits(store.root)
    ]
    names = {name.scene_id for traces in found for name in traces.names if name.dataset == store.dataset}
    called = replace(chosen, names=chosen.names | names - {scene.scene_id for scene in scenes})
    _forget(called, found, head, runtime, job, heads=heads, dry=dry)


def removed_images(runtime: Runtime) -> list[Traces]:
    """What the store still holds of images that the index has no longer; nothing where there is no index, or
    ``runtime.keep_removed`` is set."""
    store = open_store(runtime.store)
    if runtime.keep_removed or not (INDEX / "images.parquet").is_file() or not store.dataset:
        return []
    scenes = read_scenes(INDEX)
    return [
        traces
        for split in splits(store.root)
        if not (
            traces := find_removed(
                store.root, split, {scene.digest for scene in scenes if scene.split == split}, store.dataset
            )
        ).nothing
    ]


def forget_removed(found: Sequence[Traces], head: Path, runtime: Runtime, job: Job) -> None:
    """Take what :func:`removed_images` found out of everything."""
    there = _indexed_scenes()  # an image that moved to the other split is not to be lost there
    names = frozenset(name.scene_id for traces in found for name in traces.names) - {each.scene_id for each in there}
    digests = frozenset(digest for traces in found for digest in traces.digests) - {each.digest for each in there}
    gone: set[Split] = {split for split in SPLITS for traces in found if traces.split == split}
    chosen = Chosen(names=names, paths=frozenset(), digests=digests, splits=frozenset(gone))
    _forget(chosen, found, head, runtime, job, heads=False, dry=False)


def _forget(
    chosen: Chosen,
    found: Sequence[Traces],
    head: Path,
    runtime: Runtime,
    job: Job,
    *,
    heads: bool,
    dry: bool,
) -> None:
    store = open_store(runtime.store)
    remembered = [*memories(chosen, head, heads=heads), *in_galleries(chosen)]
    remembered += [memory for traces in found for memory in fitted(store.root, traces.fitted, heads=heads)]
    remembered += list(others(chosen, [memory.path for memory in remembered]))
    would = "would forget" if dry else "forgets"
    for traces in found:
        if not traces.nothing:
            job.say(
                f"{store.root}: {would} {len(traces.rows)} images of {traces.split}, {size(traces.nbytes)} in "
                f"{len(traces.arrays)} arrays"
            )
    for memory in remembered:
        job.say(f"{memory.path}: {would if memory.forget else 'CANNOT forget, --heads deletes it'} ({memory.why})")
    indexed = _indexed(chosen)
    if indexed:
        job.say(f"{INDEX}: {would} {indexed} images")
    _tell_of_others(chosen, found, store.root, job)
    if not (indexed or remembered or any(not traces.nothing for traces in found)):
        job.say("forget: nothing here remembers them")
    if not dry:
        _act(store.root, chosen, found, remembered, runtime, indexed=bool(indexed))
    job.say(KEPT)


def _act(
    root: Path,
    chosen: Chosen,
    found: Sequence[Traces],
    remembered: Sequence[Memory],
    runtime: Runtime,
    *,
    indexed: bool,
) -> None:
    for memory in remembered:
        if memory.forget is not None:
            memory.forget()
    for traces in found:
        forget(root, traces, manifests=[ENCODED, EXTRACTED, INPUTS], takeover=runtime.takeover)
    for parent in (Path("data"), Path("results")):
        for folder in (parent, *(path for path in parent.glob("*") if path.is_dir())):
            if folder.is_dir():
                clear_temporaries(folder)
    if indexed:
        named = without(INDEX, json_content(INDEX / "report.json", "index"), chosen.names, chosen.digests)

        def write(folder: Path) -> None:
            write_index(named, folder)
            seal_folder(folder)

        write_folder(INDEX, write)


def _indexed(chosen: Chosen) -> int:
    """Images of the index that are meant."""
    return sum(scene.scene_id in chosen.names or scene.digest in chosen.digests for scene in _indexed_scenes())


def _indexed_scenes() -> list[Scene]:
    """None where there is no index."""
    return read_scenes(INDEX) if (INDEX / "images.parquet").is_file() else []


def _tell_of_others(chosen: Chosen, found: Sequence[Traces], root: Path, job: Job) -> None:
    """Names that mean nothing here, and stores that are not looked into."""
    stored = {name.scene_id for traces in found for name in traces.names}
    for name in sorted(chosen.strange - stored):
        job.say(f"{name}: neither the index nor the store has an image of this name")
    for place in sorted(Path("data").glob(f"*/{ZARR}")):
        if place.parent.resolve() != root.resolve():
            job.say(f"{place.parent}: is another store and is left as it is; --set runtime.store={place.parent}")
