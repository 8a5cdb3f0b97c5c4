"""What extract leaves for those who read: manifests of their inputs, and whose weights the features are from."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache import explain_difference
from cache.errors import RecipeError
from cache.sealed import read_json, write_json
from diffps.errors import CheckpointError
from diffps.records import Scene, Split
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.arrays import images_of
from stages.features.known_weights import are_known, keep_known, local_files
from stages.features.plan import PassPlan
from stages.features.priors import prior_of
from stages.features.reading import Reading
from stages.places import INPUTS, checkpoint_record, inputs_manifest


def write_inputs(reading: Reading, plan: PassPlan, scenes: Sequence[Scene]) -> None:
    """Manifests of exactly the arrays that train and evaluate read; nothing where the pass lacks the timestep."""
    if reading.timestep not in plan.extract.timesteps:
        return
    read: dict[str, Split] = {"train": "train", "evaluate": "test"}
    for section, split in read.items():
        images = images_of(scenes, split)
        if images:
            found = [plan.specs(split, view, reading.timestep) for view in reading.views(split)]
            specs = [specs[name] for specs in found for name in reading.names]
            plan.store.write_manifest(inputs_manifest(section), specs, {split: images}, INPUTS)


def record_checkpoint(plan: PassPlan) -> None:
    """Write down which weights the pass was made with: as the parameters name them, and their digests."""
    path = checkpoint_record(plan.extract.name)
    found = {"named": _named(plan.encode, plan.extract), "digests": dict(plan.prior.digests())}
    if _recorded(path) != found:
        write_json(path, found)
    keep_known(plan.extract.name, local_files([plan.encode.checkpoint, plan.extract.unet]))


def weights_of(encode: EncodeConfig, extract: ExtractConfig) -> dict[str, Any]:
    """Who the weights are that the features come from: digests by part, as extract wrote them down for these names,
    else of the files; names where there is neither."""
    recorded = _recorded(checkpoint_record(extract.name))
    if "digests" in recorded and recorded.get("named") == _named(encode, extract):
        found: dict[str, Any] = recorded["digests"]
        return found
    try:
        return dict(prior_of(encode, extract.unet).digests())
    except CheckpointError:
        return dict(_named(encode, extract))


def check_checkpoint(encode: EncodeConfig, extract: ExtractConfig) -> None:
    """Raises RecipeError where the sections name other weights than extract last did, and those are not the same; and
    where other weights lie there now. Files that did not change are not read; without weights at hand nothing is
    compared."""
    path = checkpoint_record(extract.name)
    recorded = _recorded(path)
    if not recorded:
        return
    differing = explain_difference(_named(encode, extract), recorded.get("named", recorded))
    if differing and weights_of(encode, extract) != recorded.get("digests"):
        raise RecipeError(
            f"{path}: the features were made under other params ({'; '.join(differing)}); run `diffps extract`, which "
            "computes nothing where the weights are the same"
        )
    files = local_files([encode.checkpoint, extract.unet])
    if differing or "digests" not in recorded or not files or are_known(extract.name, files):
        return
    try:
        found = dict(prior_of(encode, extract.unet).digests())
    except CheckpointError:
        return
    if changed := explain_difference(found, recorded["digests"]):
        raise RecipeError(
            f"{path}: the features were made by other weights than lie at {extract.unet or encode.checkpoint} now "
            f"({'; '.join(changed)}); run `diffps encode` and `diffps extract`"
        )
    keep_known(extract.name, files)


def _recorded(path: Path) -> Mapping[str, Any]:
    """``named`` and ``digests``; names alone where an older version wrote it, nothing where none has."""
    return read_json(path, "`diffps extract`") if path.is_file() else {}


def _named(encode: EncodeConfig, extract: ExtractConfig) -> dict[str, str | None]:
    return {
        "encode.checkpoint": encode.checkpoint,
        "encode.revision": encode.revision,
        **{f"encode.{key}": value for key in ("variant", "hub") if (value := getattr(encode, key)) is not None},
        "extract.unet": extract.unet,
    }
