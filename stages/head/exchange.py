"""A head as ONNX: ``diffps head export``."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cache.files import write_folder
from diffps.errors import CheckpointError, ConfigError
from diffps.exported import write_onnx
from diffps.model import PersonSearcher
from stages.head.saved import head_digest, load_head, training_of
from stages.head.travel import find_head

Write = Callable[[PersonSearcher, Path, Mapping[str, Any]], None]


def export_head(name: str, into: Path, write: Write = write_onnx) -> Path:
    """Write detect.onnx and embed.onnx of a head, a folder or a hub id, into a folder that is not there yet; they say
    ``canvas``, the ``head``'s digest and ``reading``, what it is fed. Raises CheckpointError, and ConfigError without
    the extra ``onnx``."""
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ConfigError("head export: needs onnx and onnxscript; pip install 'diffps[onnx]'")
    if into.exists() and (not into.is_dir() or any(into.iterdir())):
        raise CheckpointError(f"{into}: is there already; name another folder, or delete it")
    folder = find_head(name)
    searcher = load_head(folder)
    facts = {"head": head_digest(folder), "reading": training_of(folder).get("reading", {})}
    write_folder(into, lambda place: write(searcher, place, facts))
    return into
