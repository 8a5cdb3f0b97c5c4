"""Arrays that another program laid out in its own way: read through zarr-python, and held to their receipts."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.checksum import crc32c
from cache.errors import DamagedError

METADATA = "delete the file and run the stage again, which writes it anew"


class ForeignArray:
    """One Zarr array as zarr-python sees it, which shows a missing file as fill value."""

    def __init__(self, folder: Path, dtype: np.dtype[Any]) -> None:
        import zarr

        self._folder, self._dtype = folder, dtype
        try:
            self._array: Any = zarr.open_array(str(folder), mode="r")
        except Exception as error:  # every part of the metadata has its own
            raise DamagedError(f"{folder}/zarr.json: cannot be read ({error}); {METADATA}") from error

    def read(self, row: int, expected: int | None) -> NDArray[Any]:
        """One image, little-endian; ``expected`` is the CRC-32C of its values, None where that is not known: then a
        missing file is damage, whatever the fill value. Raises DamagedError without what to do about it."""
        missing = next((file for file in self._files(row) if not file.is_file()), None)
        try:
            values = np.ascontiguousarray(self._array[row], self._dtype)
        except Exception as error:  # every codec has its own
            raise DamagedError(f"{self._folder}: {error}") from error
        found = crc32c(values)
        if missing is not None and found != expected:
            raise DamagedError(f"{missing}: is missing")
        if expected is not None and found != expected:
            raise DamagedError(f"{self._folder}: checksum {found:08x}, receipt {expected:08x}")
        return values

    def _files(self, row: int) -> list[Path]:
        grid = self._array.shards or self._array.chunks
        places = [range(-(-length // step)) for length, step in zip(self._array.shape[1:], grid[1:], strict=True)]
        keys = (self._array.metadata.encode_chunk_key((row // grid[0], *place)) for place in itertools.product(*places))
        return [self._folder / key for key in keys]


def why_foreign(metadata: Mapping[str, Any], folder: Path) -> str:
    """Empty for the layout :mod:`cache.layout` writes, else what is different. Raises DamagedError for no layout."""
    try:
        return _why_foreign(metadata)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise DamagedError(f"{folder}/zarr.json: is no array's metadata ({error!r}); {METADATA}") from error


def _why_foreign(metadata: Mapping[str, Any]) -> str:
    keys = metadata["chunk_key_encoding"]
    codecs = metadata["codecs"]
    if keys["name"] != "default" or keys.get("configuration", {}).get("separator", "/") != "/":
        return f"chunk keys {keys}"
    if [codec["name"] for codec in codecs] != ["sharding_indexed"]:
        return f"codecs {[codec['name'] for codec in codecs]}"
    inner = codecs[0]["configuration"]
    names = [codec["name"] for codec in inner["codecs"]]
    if names not in (["bytes"], ["bytes", "crc32c"], ["bytes", "blosc", "crc32c"]):
        return f"codecs {names} inside the shards"
    if inner["codecs"][0].get("configuration", {}).get("endian", "little") != "little":
        return "big-endian values"
    if list(inner["chunk_shape"]) != [1, *metadata["shape"][1:]]:
        return f"chunks of {inner['chunk_shape']}"
    if [codec["name"] for codec in inner["index_codecs"]] != ["bytes", "crc32c"]:
        return "a shard index without its checksum"
    return ""
