"""The identity of a checkpoint's part: a digest of its config and its tensors, the same wherever and however it lies.

What re-saving with a newer library changes does not enter: defaults written out, versions, and tensors' former names.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from diffps.backbone.configs import DEFAULTS, REQUIRED, ConfigPart

# What changes without a change of values: canvases are chosen here, and weights have dtypes of their own.
_NOT_IDENTITY = ("transformers_version", "dtype", "torch_dtype", "sample_size")
# Tensors' names in the published files of SD 1.x and 2.x, and what diffusers and transformers call them now.
_FORMER_NAMES = (
    (re.compile(r"(\.attentions\.\d+)\.query\."), r"\1.to_q."),
    (re.compile(r"(\.attentions\.\d+)\.key\."), r"\1.to_k."),
    (re.compile(r"(\.attentions\.\d+)\.value\."), r"\1.to_v."),
    (re.compile(r"(\.attentions\.\d+)\.proj_attn\."), r"\1.to_out.0."),
    (re.compile(r"^text_model\."), ""),
    (re.compile(r"^encoder\.embed_tokens\.weight$"), "shared.weight"),  # T5 has it under both names
)
# Parts of which what is not known here says nothing of the values: tasks of T5, say.
_KNOWN_ALONE = ("pixart", "sd3", "t5")
NO_WEIGHT = "embeddings.position_ids"  # 0, 1, 2, …: once kept with the weights


def part_digest(
    part: ConfigPart, config: Mapping[str, Any], tensors: Iterable[tuple[str, str, Iterable[bytes]]]
) -> str:
    """SHA-256 over a part's complete ``config`` and its tensors, 16 hex digits; see :func:`tensor_digest`."""
    return tensor_digest(identity(part, config), tensors)


def tensor_digest(config: Mapping[str, Any], tensors: Iterable[tuple[str, str, Iterable[bytes]]]) -> str:
    """SHA-256 over a ``config`` and ``tensors``, 16 hex digits.

    ``tensors`` are (name, dtype and shape, bytes in pieces), in order of their names.
    """
    state = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, kind, pieces in tensors:
        state.update(f"{name} {kind}".encode())
        for piece in pieces:
            state.update(piece)
    return state.hexdigest()[:16]


def identity(part: ConfigPart, config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a complete ``config`` takes part in the digest.

    Null for a key that has no default here is the default of a newer library.
    """
    known = DEFAULTS[part]
    if part in _KNOWN_ALONE:
        return {key: config[key] for key in (*known, *REQUIRED[part])}
    return {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and key not in _NOT_IDENTITY and (value is not None or key in known)
    }


def current_name(name: str) -> str:
    """What diffusers and transformers call a tensor of a published file now, without the text encoder's own prefix."""
    for former, current in _FORMER_NAMES:
        name = former.sub(current, name)
    return name
