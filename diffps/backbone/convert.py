"""Make safetensors of pickled weights: ``python -m diffps.backbone.convert FILE``.

FILE is a .bin, .ckpt, .pt or .pth, or the .bin.index.json of several. torch's restricted unpickler reads them: it
builds tensors and containers, and runs nothing that a file might name.
"""

import json
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.backbone.weights import PICKLES, read_json
from diffps.durable import sync
from diffps.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

_INDEX = ".bin.index.json"


def convert(path: Path) -> list[Path]:
    """Write the tensors of ``path`` beside it, under the name by which a folder in diffusers' layout knows them.

    Raises CheckpointError for a file that holds more than tensors, or whose place is taken.
    """
    if path.name.endswith(_INDEX):
        return _convert_shards(path)
    if path.suffix not in PICKLES:
        raise CheckpointError(f"{path}: expected a file in {', '.join(PICKLES)}, or {_INDEX}")
    return [_convert(path)]


def _convert_shards(index: Path) -> list[Path]:
    found = read_json(index)
    places = found.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(place, str) for place in places.values()):
        raise CheckpointError(f"{index}: it has no weight_map of names")
    written = [_convert(index.parent / Path(name).name) for name in sorted(set(places.values()))]
    found["weight_map"] = {tensor: _named(Path(place).name) for tensor, place in places.items()}
    target = index.with_name(_named(index.name.removesuffix(".index.json")) + ".index.json")
    target.write_text(json.dumps(found, indent=2) + "\n")
    return [*written, target]


def _convert(path: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    target = path.with_name(_named(path.name))
    if target.exists():
        raise CheckpointError(f"{target} is there already; move it away to have it written anew")
    try:
        with warnings.catch_warnings(action="ignore"):  # about how to load what is refused here
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except Exception as error:  # the unpickler raises whatever a damaged file leads it to
        raise CheckpointError(
            f"{path}: not read, for it is damaged or holds more than tensors; look for a release in safetensors"
        ) from error
    partial = target.with_suffix(".partial")
    save_file(_tensors(path, loaded), partial, {"format": "pt"})
    sync(partial)
    partial.replace(target)
    sync(target.parent)
    return target


def _tensors(path: Path, loaded: Any) -> "dict[str, Tensor]":
    import torch

    if isinstance(loaded, dict) and isinstance(loaded.get("state_dict"), dict):
        loaded = loaded["state_dict"]
    entries = loaded.items() if isinstance(loaded, dict) else ()
    found = {name: value for name, value in entries if isinstance(value, torch.Tensor)}
    if not found or not all(isinstance(name, str) for name in found):
        raise CheckpointError(f"{path}: holds no tensors by name")
    return {name: value.detach().clone().contiguous() for name, value in found.items()}


def _named(name: str) -> str:
    """pytorch_model.bin is what transformers call model.safetensors."""
    stem = Path(name).stem
    return (
        f"model{stem.removeprefix('pytorch_model')}.safetensors"
        if stem.startswith("pytorch_model")
        else f"{stem}.safetensors"
    )


def main() -> int:
    """Convert what the command line names; 2 where that fails."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 0 if len(sys.argv) > 1 else 2
    try:
        for name in sys.argv[1:]:
            for written in convert(Path(name)):
                print(f"wrote {written}")
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
