"""Every tap the parameters keep, written again under another encoding, without the UNet."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from diffps.taps import standard_taps
from stages.index import INDEX_FOLDER
from stages.job import Job

if TYPE_CHECKING:
    from cache import ArraySpec, FeatureStore
    from diffps.records import Scene
    from stages.params import Params
    from stages.passes import Pass


def run(params: "Params", job: Job, encoding: str, source: str = "float16") -> None:
    """Write the taps' arrays under ``encoding`` from those under ``source``, and the manifests heads read them by.

    From float16 the arrays are what ``diffps extract --set extract.encoding=...`` would write and have the same ids:
    byte for byte where the UNet computes in half precision; where it computes in float32 a value may be one step of
    the encoding off, and the receipts say ``transcoded_from``. From a coarser ``source`` the recipe says so: heads can
    be trained on the arrays, but extraction refuses to go on with them. What is there already stays.

    Raises NotCachedError naming the first array or image that ``source`` lacks; CacheError, CheckpointError.
    """
    from cache import FeatureStore
    from cache.transcode import transcode
    from diffps.datasets.tables import read_scenes
    from stages.extract import extraction_groups
    from stages.params import override
    from stages.passes import Pass
    from stages.storage import store_root

    store = FeatureStore(store_root(job))
    scenes = read_scenes(INDEX_FOLDER)
    old = Pass(override(params, {"extract.encoding": source}, "transcode"), store.root)
    new = Pass(override(params, {"extract.encoding": encoding}, "transcode"), store.root)
    groups = list(zip(extraction_groups(old, scenes), extraction_groups(new, scenes), strict=True))
    sources: dict[str, ArraySpec] = {}
    for group, _ in groups:
        for spec in _taps(group.specs):
            sources[spec.path] = _complete(store, spec, group.images)
    if unfitted := new.unfitted(*params.extract.timesteps):
        job.say(f"transcode: fitting the bases of {encoding} on training images")
        for timestep in unfitted:
            _fit(store, old, new, scenes, timestep)
        groups = list(zip(extraction_groups(old, scenes), extraction_groups(new, scenes), strict=True))
    total = sum(len(_taps(group.specs)) * len(group.images) for group, _ in groups)
    with job.track("transcode", total, "images") as tracker:
        for group, wanted in groups:
            made = {}
            for before, after in zip(_taps(group.specs), _taps(wanted.specs), strict=True):
                source_spec, takeover = sources[before.path], job.runtime.takeover
                spec = transcode(store, source_spec, after.encoding, tracker.advance, takeover=takeover)
                made[spec.name] = spec
            for path, specs in wanted.manifests.items():
                found = [made.get(spec.name, spec) for spec in specs]
                store.write_manifest(path, found, {group.place.split: group.images})


def _taps(specs: "Sequence[ArraySpec]") -> "list[ArraySpec]":
    """The grid taps among a pass's arrays; maps are the same under every encoding."""
    table = standard_taps()
    return [spec for spec in specs if spec.name.rpartition("@")[0] in table]


def _complete(store: "FeatureStore", spec: "ArraySpec", images: "Sequence[tuple[str, str]]") -> "ArraySpec":
    """``spec`` as it lies in the store, over all of ``images``. Raises NotCachedError, RecipeError."""
    from cache.errors import NotCachedError
    from cache.transcode import cached_images

    command = f"`diffps extract --set extract.encoding={spec.encoding.name}` makes it"
    try:
        found = store.array(spec.path)
    except NotCachedError:
        raise NotCachedError(f"{spec.path}: not in the store, so nothing can be made from it; {command}") from None
    store.reader([spec])  # refuses what is of another recipe
    there = set(cached_images(store, found))
    missing = next((scene for scene, digest in images if (scene, digest) not in there), None)
    if missing is not None:
        raise NotCachedError(f"{spec.path}: lacks image {missing!r}; {command}")
    return found


def current_names(store: "FeatureStore", spec: "ArraySpec") -> list[str]:
    """Scene ids of the images that ``spec`` holds, as the index calls them now; every name where there is no index."""
    from cache.transcode import cached_images
    from diffps.datasets.tables import read_scenes

    there = cached_images(store, spec)
    if not INDEX_FOLDER.is_dir():
        return [scene for scene, _ in there]
    indexed = {(scene.scene_id, scene.digest) for scene in read_scenes(INDEX_FOLDER) if scene.split == spec.group.split}
    return [scene for scene, digest in there if (scene, digest) in indexed]


def _fit(store: "FeatureStore", old: "Pass", new: "Pass", scenes: "Sequence[Scene]", timestep: int) -> None:
    """Fit the missing bases on the stored features of the images, and the positions, that extraction would take."""
    from stages.extract import basis_sample
    from stages.passes import BasisFit

    seed = new.params.extract.seed
    sample = basis_sample(scenes, seed)
    specs = old.specs(sample[0].split, "identity", timestep)
    for tap in new.without_basis(timestep):
        reader, fit = store.reader([specs[tap]]), BasisFit(seed)
        for scene in sample:
            if reader.has(scene.scene_id, specs[tap].name):
                fit.add(reader.read_float(scene.scene_id, specs[tap].name))
        new.keep_basis(tap, timestep, fit)
