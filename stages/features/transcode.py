"""Every tap a pass keeps, written again under another encoding, without the UNet."""

from collections.abc import Sequence
from dataclasses import replace

from cache import ArraySpec, FeatureStore
from cache.errors import NotCachedError
from cache.transcode import cached_images, transcode
from diffps.records import Scene
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.arrays import pass_work
from stages.features.bases import BasisFit, basis_sample
from stages.features.plan import PassPlan
from stages.job import Job


def transcode_pass(
    encode: EncodeConfig,
    extract: ExtractConfig,
    store: FeatureStore,
    scenes: Sequence[Scene],
    encoding: str,
    source: str,
    job: Job,
    *,
    takeover: bool,
) -> None:
    """Write the taps' arrays under ``encoding`` from those under ``source``, and the manifests heads read them by.

    From float16 the arrays are what ``diffps extract --set extract.encoding=...`` would write and have the same ids:
    byte for byte where the UNet computes in half precision; where it computes in float32 a value may be one step of
    the encoding off, and the receipts say ``transcoded_from``. From a coarser ``source`` the recipe says so: heads can
    be trained on the arrays, but extraction refuses to go on with them. What is there already stays.

    Raises NotCachedError naming the first array or image that ``source`` lacks; CacheError, CheckpointError.
    """
    old = PassPlan(encode, replace(extract, encoding=source), store)
    new = PassPlan(encode, replace(extract, encoding=encoding), store)
    pairs = list(zip(pass_work(old, scenes), pass_work(new, scenes), strict=True))
    sources: dict[str, ArraySpec] = {}
    for work, _ in pairs:
        for spec in _taps(old, work.specs):
            sources[spec.path] = _complete(store, spec, work.images)
    if unfitted := new.unfitted(extract.timesteps):
        job.say(f"transcode: fitting the bases of {encoding} on training images")
        for timestep in unfitted:
            _fit(store, old, new, scenes, timestep)
        pairs = list(zip(pass_work(old, scenes), pass_work(new, scenes), strict=True))
    total = sum(len(_taps(old, work.specs)) * len(work.images) for work, _ in pairs)
    with job.track("transcode", total, "images") as tracker:
        for work, wanted in pairs:
            made = {}
            for before, after in zip(_taps(old, work.specs), _taps(new, wanted.specs), strict=True):
                spec = transcode(store, sources[before.path], after.encoding, tracker.advance, takeover=takeover)
                made[spec.name] = spec
            for path, specs in wanted.manifests.items():
                found = [made.get(spec.name, spec) for spec in specs]
                store.write_manifest(path, found, {work.place.split: work.images}, wanted.folder)


def current_names(store: FeatureStore, spec: ArraySpec, scenes: Sequence[Scene]) -> list[str]:
    """Scene ids of the images that ``spec`` holds, as the index calls them now; all where ``scenes`` is empty."""
    there = cached_images(store, spec)
    indexed = {(scene.scene_id, scene.digest) for scene in scenes if scene.split == spec.group.split}
    return [scene for scene, digest in there if not scenes or (scene, digest) in indexed]


def _taps(plan: PassPlan, specs: Sequence[ArraySpec]) -> list[ArraySpec]:
    """The grid taps among a pass's arrays; maps are the same under every encoding."""
    table = plan.prior.taps
    return [spec for spec in specs if table[str(spec.recipe["tap"])].kind == "grid"]


def _complete(store: FeatureStore, spec: ArraySpec, images: Sequence[tuple[str, str]]) -> ArraySpec:
    """``spec`` as it lies in the store, over all of ``images``. Raises NotCachedError, RecipeError."""
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


def _fit(store: FeatureStore, old: PassPlan, new: PassPlan, scenes: Sequence[Scene], timestep: int) -> None:
    """Fit the missing bases on the stored features of the images, and the positions, that extraction would take."""
    sample = basis_sample(scenes, new.extract.seed)
    specs = old.specs(sample[0].split, "identity", timestep)
    for tap in new.without_basis(timestep):
        reader, fit = store.reader([specs[tap]]), BasisFit(new.extract.seed)
        for scene in sample:
            if reader.has(scene.scene_id, specs[tap].name):
                fit.add(reader.read_float(scene.scene_id, specs[tap].name))
        new.keep_basis(tap, timestep, fit.basis(new.extract.encoding))
