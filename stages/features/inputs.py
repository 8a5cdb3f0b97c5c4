"""What extract leaves for those who read: manifests of their inputs, and which checkpoint the features are from."""

import json
from collections.abc import Sequence
from pathlib import Path

from cache import explain_difference
from cache.errors import RecipeError
from cache.files import write_json
from diffps.records import Scene, Split
from stages.config_data import EncodeConfig, ExtractConfig
from stages.features.arrays import images_of
from stages.features.plan import PassPlan
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


def record_checkpoint(encode: EncodeConfig, extract: ExtractConfig) -> None:
    """Write down which weights the pass was made with, as the parameters name them."""
    path = checkpoint_record(extract.name)
    if _recorded(path) != _named(encode, extract):
        write_json(path, _named(encode, extract))


def check_checkpoint(encode: EncodeConfig, extract: ExtractConfig) -> None:
    """Raises RecipeError where the sections name other weights than extract last did: only it can tell whether they
    are."""
    path = checkpoint_record(extract.name)
    recorded = _recorded(path)
    differing = [] if recorded is None else explain_difference(_named(encode, extract), recorded)
    if differing:
        raise RecipeError(
            f"{path}: the features were made under other params ({'; '.join(differing)}); run `diffps extract`, which "
            "computes nothing where the weights are the same"
        )


def _recorded(path: Path) -> dict[str, str | None] | None:
    if not path.is_file():
        return None
    found: dict[str, str | None] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _named(encode: EncodeConfig, extract: ExtractConfig) -> dict[str, str | None]:
    return {
        "encode.checkpoint": encode.checkpoint,
        "encode.revision": encode.revision,
        **({} if encode.variant is None else {"encode.variant": encode.variant}),
        "extract.unet": extract.unet,
    }
