"""Which arrays a store has: a walk over their Zarr metadata, without reading a receipt or a shard."""

import re
from pathlib import Path
from typing import Any

from cache.errors import DamagedError, NotCachedError
from cache.files import read_json
from cache.foreign import METADATA
from cache.layout import ATTRIBUTE, BASIS, SCALES, ZARR, ArraySpec, GroupKey, spec_from_metadata
from cache.system import naming

_STEP = re.compile(r"t\d+")


def open_array(root: Path, path: str) -> ArraySpec:
    """Spec of the array at ``path`` below ``features.zarr``. Raises NotCachedError when there is none, DamagedError."""
    folder = root / ZARR / path
    with naming(folder, "read"):
        if not 4 <= len(path.split("/")) <= 5 or not (folder / "zarr.json").is_file():
            raise NotCachedError(f"{folder}: no such array; `diffps cache status` lists those there are")
    metadata = read_json(folder / "zarr.json")
    try:
        return spec_from_metadata(group_of(path)[0], metadata, folder)
    except KeyError as error:
        raise DamagedError(
            f"{folder}/zarr.json: has no {error} under {ATTRIBUTE}; this store did not write it"
        ) from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DamagedError(f"{folder}/zarr.json: is not what this store writes ({error}); {METADATA}") from error


def list_arrays(root: Path) -> list[ArraySpec]:
    """Specs of every array of the store, by path; empty when there is none."""
    return [open_array(root, folder.relative_to(root / ZARR).as_posix()) for folder in array_folders(root)]


def array_folders(root: Path) -> list[Path]:
    """Folders of every array, scales and bases left out, by path."""
    found = [folder for group in group_folders(root) for folder in folders(group)]
    named = [folder for folder in found if not folder.name.endswith((SCALES, BASIS))]
    return sorted(folder for folder in named if _is_array(folder))


def group_folders(root: Path) -> list[Path]:
    """Folders in which arrays may lie: those of latents, and those of passes at a timestep."""
    recipes = [r for split in folders(root / ZARR) for view in folders(split) for r in folders(view)]
    return recipes + [step for recipe in recipes for step in folders(recipe) if _STEP.fullmatch(step.name)]


def folders(parent: Path) -> list[Path]:
    """The folders in ``parent``, by name; none where it is not there. Raises FileError where it cannot be listed."""
    try:
        with naming(parent, "read"):
            return sorted(entry for entry in parent.iterdir() if entry.is_dir())
    except FileNotFoundError:
        return []


def group_of(path: str) -> tuple[GroupKey, str]:
    """Group and name of the array at ``path`` below ``features.zarr``."""
    split, view, recipe_id, *step, name = path.split("/")
    return GroupKey(split, view, recipe_id, int(step[0][1:]) if step else None), name


def _is_array(folder: Path) -> bool:
    try:
        metadata: Any = read_json(folder / "zarr.json")
    except FileNotFoundError:
        return False
    kind = metadata.get("node_type") if isinstance(metadata, dict) else None
    if kind not in ("array", "group"):
        raise DamagedError(f"{folder}/zarr.json: is neither an array's nor a group's metadata; {METADATA}")
    return bool(kind == "array")
