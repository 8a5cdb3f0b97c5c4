"""The identity of a checkpoint's part: a digest of its config and its tensors, the same wherever and however it lies.

What re-saving with a newer library changes does not enter: defaults written out, versions, and tensors' former names.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffps.backbone.configs import DEFAULTS, ConfigPart
from diffps.errors import CheckpointError

_MAX_HEADER = 100_000_000  # bytes; the safetensors format's own limit
# What changes without a change of values: canvases are chosen here, and weights have dtypes of their own.
_NOT_IDENTITY = ("transformers_version", "dtype", "torch_dtype", "sample_size")
# Tensors' names in the published files of SD 1.x and 2.x, and what diffusers and transformers call them now.
_FORMER_NAMES = (
    (re.compile(r"(\.attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(\.attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(\.attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(\.attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
    (re.compile(r"^text_model\."), ""),
)
_NO_WEIGHT = "embeddings.position_ids"  # 0, 1, 2, …: once kept with the weights


def part_digest(part: ConfigPart, config: Mapping[str, Any], files: list[Path]) -> str:
    """SHA-256 over a part's complete ``config`` and the tensors of its safetensors ``files``, 16 hex digits."""
    state = hashlib.sha256(json.dumps(identity(part, config), sort_keys=True).encode())
    _hash_tensors(files, state)
    return state.hexdigest()[:16]


def identity(part: ConfigPart, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a complete ``config`` takes part in the digest.

    Null for a key that has no default here is the default of a newer library.
    """
    known = DEFAULTS[part]
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in _NOT_IDENTITY and (value is not None or key in known)
    }


def one_line(error: BaseException) -> str:
    """What a library's error says, on one line, not too long."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _hash_tensors(files: list[Path], state: "hashlib._Hash") -> None:
    """Feed every tensor of the ``files`` to ``state`` in order of their names, straight from the files."""
    places: dict[str, tuple[Path, str, int, int]] = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                if size > _MAX_HEADER:
                    raise ValueError(f"a header of {size} bytes")
                header: dict[str, Any] = json.loads(stream.read(size))
                header.pop("__metadata__", None)
                for name, entry in header.items():
                    key = _current_name(name)
                    start, stop = (8 + size + offset for offset in entry["data_offsets"])
                    places[key] = (file, f"{key} {entry['dtype']} {entry['shape']}", start, stop)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{file}: not a safetensors file ({one_line(error)})") from error
    places.pop(_NO_WEIGHT, None)
    for _, (file, what, start, stop) in sorted(places.items()):
        state.update(what.encode())
        with file.open("rb") as stream:
            stream.seek(start)
            while start < stop:
                block = stream.read(min(1 << 22, stop - start))
                if not block:
                    raise CheckpointError(f"{file}: cut short in tensor {what}; fetch it again")
                state.update(block)
                start += len(block)


def _current_name(name: str) -> str:
    for former, current in _FORMER_NAMES:
        name = former.sub(current, name)
    return name
