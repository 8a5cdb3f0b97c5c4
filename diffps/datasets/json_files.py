"""JSON that somebody else wrote: read as a whole or refused in one line."""

import json
from pathlib import Path
from typing import Any

from diffps.errors import DatasetError


def read_json(path: Path, dataset: str) -> Any:
    """The content of ``path``, in UTF-8, UTF-16 or UTF-32, with or without a byte order mark. Raises DatasetError for a
    file that is no JSON, is nested hundreds of levels deep, or has a key twice in one object."""
    try:
        return json.loads(path.read_bytes(), object_pairs_hook=_unique)
    except OSError as error:
        raise DatasetError(f"{dataset}: {path} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise DatasetError(f"{dataset}: {path} is nested too deeply for annotations") from None
    except ValueError as error:
        raise DatasetError(f"{dataset}: {path} is not a JSON file: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} is there twice in one object")
    return found
