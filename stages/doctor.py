"""What this machine, the data, the head and the checkpoint are, and what does not go together, before hours are
spent."""

import os
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from diffps.errors import CheckpointError, ConfigError, DatasetError
from stages.config_data import EncodeConfig, ExtractConfig, IndexConfig
from stages.job import Job, Runtime
from stages.params import Params

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "zarr", "dvc")
PROBE_BYTES = 64 << 20


def run(params: Params, runtime: Runtime, job: Job) -> None:
    """Say what is there, line by line. Raises CheckpointError last, so that everything else has been said."""
    for line in (
        *software(),
        *_devices(params.encode, params.extract, runtime),
        *_disk(runtime),
        *_dataset(params.index),
        *_head(Path(params.evaluate.head), params.encode, params.extract),
    ):
        job.say(line)
    for line in _prior(params.encode, params.extract):
        job.say(line)


def installed(name: str) -> str | None:
    """The version of a package here, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def software(version_of: Callable[[str], str | None] = installed, package: str = "diffps") -> Iterator[str]:
    """Versions of what matters most, and a line for each that does not go with what ``package`` asks for."""
    yield "software: " + ", ".join(f"{name} {version_of(name) or 'MISSING'}" for name in PACKAGES)
    yield from _outside_requirements(version_of, package)
    try:
        from torchvision.ops import nms  # noqa: F401 - a mismatched build fails here, and takes diffusers down with it
    except (ImportError, RuntimeError) as error:
        versions = f"torchvision {version_of('torchvision')} does not go with torch {version_of('torch')}"
        yield f"PROBLEM: {versions} ({error}); install both in one command, from the same index"


def _outside_requirements(version_of: Callable[[str], str | None], package: str) -> Iterator[str]:
    """What the package asks for and the environment does not have."""
    from packaging.requirements import Requirement

    try:
        needed = requires(package) or ()
    except PackageNotFoundError:
        yield f"PROBLEM: {package} is not installed, so what it needs is not known; pip install -e ."
        return
    for requirement in map(Requirement, needed):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = version_of(requirement.name)
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            yield f"PROBLEM: {requirement} is needed, found {found or 'none'}; pip install '{requirement}'"


def _devices(encode: EncodeConfig, extract: ExtractConfig, runtime: Runtime) -> Iterator[str]:
    import torch

    from stages.devices import choose_device

    try:
        device = choose_device(runtime).type
    except ConfigError as error:
        device = "none"
        yield f"PROBLEM: {error}"
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPU threads"
    yield f"device: {device}, {threads} (runtime.device, runtime.threads)"
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield f"  cuda:{number}: {torch.cuda.get_device_name(number)}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free"
    for section, dtype in (("encode", encode.dtype), ("extract", extract.dtype)):
        if device == "cpu" and dtype != "float32":
            yield f"PROBLEM: {section}.dtype {dtype} is slow on a CPU; set {section}.dtype=float32"


def _disk(runtime: Runtime) -> Iterator[str]:
    from cache import CacheError
    from cache.budget import measure_disk
    from cache.system import free_bytes
    from stages.places import store_root
    from stages.text import size

    root = store_root(runtime.store)
    try:
        rates = measure_disk(root, PROBE_BYTES)
    except CacheError as error:
        yield f"PROBLEM: {error}"
        return
    speed = f"writes {size(rates.write)}/s, reads {size(rates.read)}/s"
    yield f"disk: {size(free_bytes(root))} free for {root}, {speed}; `diffps cache plan` says what is needed"


def _dataset(config: IndexConfig) -> Iterator[str]:
    """Annotation files are read to their end; images are not opened."""
    from stages.dataset.read import read_annotations_alone
    from stages.places import images_root

    root, name = images_root(config.root), f"dataset: {config.dataset} at {config.root}"
    if not root.is_dir():
        missing = f"PROBLEM: dataset {config.dataset}: no folder {config.root}; put it there, or set index.root"
        yield name if config.dataset == "streets" else missing
        return
    try:
        index = read_annotations_alone(config, root)
    except DatasetError as error:
        yield f"PROBLEM: {error}"
        return
    boxes = sum(len(each.boxes) for each in index.annotations.values())
    yield f"{name}, {len(index.scenes)} images, {boxes} boxes, {len(index.queries)} queries"


def _head(folder: Path, encode: EncodeConfig, extract: ExtractConfig) -> Iterator[str]:
    """The head of ``evaluate.head`` where there is one, and whose features it was trained on."""
    from diffps.backbone.locate import at_hand
    from diffps.model import PersonSearcher
    from stages.features.inputs import weights_of
    from stages.features.recipes import start_of
    from stages.head.saved import reading_of, training_of

    if not folder.exists() or not at_hand(encode.checkpoint, encode.revision, encode.hub):
        return
    try:
        searcher = PersonSearcher.from_pretrained(folder)
        reading = reading_of(folder, searcher, extract)
    except CheckpointError as error:
        yield f"PROBLEM: {error}"
        return
    canvas = f"{searcher.canvas.height} x {searcher.canvas.width}"
    yield f"head: {folder} reads {len(reading.names)} features at t = {reading.timestep} on a canvas of {canvas}"
    if searcher.canvas != encode.frame:
        yield f"PROBLEM: {folder} was trained on a canvas of {canvas}, encode.canvas is {list(encode.canvas)}"
    recipe = training_of(folder).get("recipe", {})
    trained = {**(start_of(recipe) if recipe else {}), **recipe}
    for part, digest in weights_of(encode, extract).items():
        if trained.get(part, digest) != digest:
            yield f"PROBLEM: {folder} was trained on features of other weights: {part} {trained[part]}, here {digest}"


def _prior(encode: EncodeConfig, extract: ExtractConfig) -> Iterator[str]:
    from diffps.backbone.locate import at_hand, is_hub_id
    from stages.features.priors import prior_of
    from stages.forecasts.operations import operations

    fetched = encode.hub is not None or is_hub_id(encode.checkpoint)
    if fetched and not at_hand(encode.checkpoint, encode.revision, encode.hub):
        wanted = encode.hub or encode.checkpoint
        revision = f" --revision {encode.revision}" if encode.revision else ""
        raise CheckpointError(
            f"checkpoint {encode.checkpoint}: not on this machine; `diffps encode` fetches {wanted} from the hub (some "
            f"5 GB for Stable Diffusion), or put it there: `hf download {wanted}{revision} --local-dir "
            f"{encode.checkpoint}`"
        )
    prior = prior_of(encode, extract.unet)
    prior.check_tensors()
    yield from prior.describe(extract.conditions)
    missing = [tap for tap in extract.taps if tap not in prior.taps]
    yield f"PROBLEM: this model lacks {', '.join(missing)}" if missing else "  every tap of extract.taps is there"
    if not missing:
        yield from (f"  {line}" for line in operations(encode, extract))
