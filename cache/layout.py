"""Names and places: which array lies where, and the Zarr v3 metadata that makes it readable for everybody.

Axes: N images (rows), H x W grid, C channels of the feature, K channels stored (K = C but for ``project:k``).
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cache.basis import Basis
from cache.checksum import CHECKSUM_BYTES, crc32c
from cache.encodings import HALF_BITS, BitRound, Encoding, Project, parse_encoding
from cache.errors import CacheError, DamagedError
from cache.files import read_bytes, read_json, write_bytes, write_json
from cache.fingerprint import JSON, Recipe, fingerprint
from cache.guard import exclusive
from cache.system import naming

ZARR = "features.zarr"
ATTRIBUTE = "diffps"  # the key of our own entries among Zarr attributes
SCALES, BASIS = ".scales", ".basis"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@:+-]*")


@dataclass(frozen=True, slots=True)
class GroupKey:
    """Arrays that are written together and share their receipts. ``timestep`` is None for latents."""

    split: str
    view: str
    recipe_id: str
    timestep: int | None = None

    def __post_init__(self) -> None:
        for part in (self.split, self.view, self.recipe_id):
            if not _NAME.fullmatch(part):
                raise CacheError(f"store: {part!r} cannot be a folder name; use letters, digits and . _ @ : + -")

    @property
    def path(self) -> str:
        """``split/view/recipe_id[/t<timestep>]``."""
        return self.scope if self.timestep is None else f"{self.scope}/t{self.timestep}"

    @property
    def scope(self) -> str:
        """``split/view/recipe_id``: what one lock covers."""
        return f"{self.split}/{self.view}/{self.recipe_id}"

    @property
    def command(self) -> str:
        """What writes arrays of this group."""
        return "`diffps encode`" if self.timestep is None else "`diffps extract`"


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array of the store: ``shape`` (H, W, C) of one image, ``recipe`` of everything that decides its values.

    ``name`` is ``moments``, ``<tap>@<encoding>`` (see :func:`tap_name`) or ``<cross-map tap>.<word>[@head<n>]``.
    """

    group: GroupKey
    name: str
    shape: tuple[int, int, int]
    encoding: Encoding
    recipe: Recipe

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or self.name.endswith((SCALES, BASIS)):
            raise CacheError(f"store: {self.name!r} cannot be an array's name; use letters, digits and . _ @ : + -")
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise CacheError(f"store: {self.name} has shape {self.shape}; expected (height, width, channels), all >= 1")

    @property
    def path(self) -> str:
        """Place below ``features.zarr``."""
        return f"{self.group.path}/{self.name}"

    @property
    def full_recipe(self) -> dict[str, JSON]:
        """Recipe with name, shape and encoding: all that its id is taken from."""
        return {
            "recipe": self.recipe,
            "name": self.name,
            "shape": list(self.shape),
            "encoding": self.encoding.recipe(),
        }

    @property
    def id(self) -> str:
        """Fingerprint of :attr:`full_recipe`."""
        return fingerprint(self.full_recipe)

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(H, W, K) of one image on disk."""
        return *self.shape[:2], self.encoding.stored_channels(self.shape[2])

    @property
    def scales_shape(self) -> tuple[int, int] | None:
        """(blocks, K) of one image's scales, None where the encoding has none."""
        height, width, stored = self.stored_shape
        blocks = self.encoding.blocks(height * width)
        return (blocks, stored) if blocks else None

    def parts(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Zarr arrays this feature consists of: name suffix -> (shape of one image, data type)."""
        parts: dict[str, tuple[tuple[int, ...], str]] = {"": (self.stored_shape, self.encoding.dtype)}
        if self.scales_shape is not None:
            parts[SCALES] = (self.scales_shape, "float16")
        return parts

    @property
    def image_bytes(self) -> int:
        """Bytes of one image on disk, scales and checksums included; of ``bitround:n``, which is compressed, an
        estimate."""
        total = 0
        for suffix, (shape, dtype) in self.parts().items():
            size = math.prod(shape) * np.dtype(dtype).itemsize
            if suffix == "" and isinstance(self.encoding, BitRound):
                # Sign, exponent and kept bits; exponents compress to about half, dropped bits to nothing.
                size = size * (4 + min(self.encoding.bits, HALF_BITS)) // 16
            total += size + CHECKSUM_BYTES
        return total


def tap_name(tap: str, encoding: Encoding) -> str:
    """Array name of a tap under an encoding."""
    return f"{tap}@{encoding.name}"


def array_metadata(spec: ArraySpec, suffix: str, rows: int, shard: int) -> dict[str, Any]:
    """Content of ``zarr.json`` for one part of ``spec``: ``rows`` images, ``shard`` images a file."""
    shape, dtype = spec.parts()[suffix]
    axes = ("height", "width", "channel") if suffix == "" else ("block", "channel")
    order: dict[str, Any] = {"name": "bytes"}
    if dtype != "int8":
        order["configuration"] = {"endian": "little"}
    codecs = [order, *([spec.encoding.codec] if spec.encoding.codec and suffix == "" else []), {"name": "crc32c"}]
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    sharding = {
        "chunk_shape": [1, *shape],
        "codecs": codecs,
        "index_codecs": [little, {"name": "crc32c"}],
        "index_location": "end",
    }
    attributes: dict[str, Any] = {"id": spec.id, "encoding": spec.encoding.name, "shape": list(spec.shape)}
    if suffix == "":
        attributes["full_recipe"] = spec.full_recipe
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [rows, *shape],
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [shard, *shape]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        # Readers that know nothing of receipts show an absent image as NaN, at least through its scales.
        "fill_value": 0 if dtype == "int8" else "NaN",
        "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        "attributes": {ATTRIBUTE: attributes},
        "dimension_names": ["image", *axes],
        "storage_transformers": [],
    }


def shard_file(array: Path, shard: int, dimensions: int) -> Path:
    """File of one shard of an array with ``dimensions`` axes behind the image axis."""
    return array / "c" / str(shard) / "/".join("0" * dimensions)


def spec_from_metadata(group: GroupKey, metadata: Mapping[str, Any], where: Path) -> ArraySpec:
    """The spec an array was written from. A ``project:k`` basis is read from the array beside it; where that is damaged
    the spec has the right id, but only :func:`read_basis` says what is wrong."""
    entry = metadata["attributes"][ATTRIBUTE]
    encoding, full = parse_encoding(entry["encoding"]), entry["full_recipe"]
    spec = ArraySpec(group, full["name"], tuple(full["shape"]), encoding, full["recipe"])
    if not isinstance(encoding, Project):
        return spec
    spec = replace(spec, encoding=Project(encoding.k, lost=full["encoding"]["basis"]))
    try:
        return replace(spec, encoding=Project(encoding.k, read_basis(where, spec)))
    except DamagedError:
        return spec


def absent_groups(root: Path, group: GroupKey) -> list[Path]:
    """Folders of the Zarr groups above ``group``'s arrays that have no metadata, from the top."""
    chain = [root / ZARR]
    for part in group.path.split("/"):
        chain.append(chain[-1] / part)
    with naming(root / ZARR, "read"):
        return [folder for folder in chain if not (folder / "zarr.json").exists()]


def ensure_groups(root: Path, group: GroupKey, shard: int) -> int:
    """Write the Zarr groups above ``group``'s arrays; the shard size of its scope, which its first writer decides."""
    scope = root / ZARR / group.scope
    with exclusive(root / "locks" / ".groups"):
        for folder in absent_groups(root, group):
            attributes = {ATTRIBUTE: {"shard": shard}} if folder == scope else {}
            write_json(folder / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})
    return shard_size(root, group)


def shard_size(root: Path, group: GroupKey) -> int:
    """Images a shard of ``group`` holds. Raises FileNotFoundError when nothing of its scope was ever written."""
    path = root / ZARR / group.scope / "zarr.json"
    try:
        return int(read_json(path)["attributes"][ATTRIBUTE]["shard"])
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(
            f'{path}: does not say how many images a shard has; write {{"{ATTRIBUTE}": {{"shard": N}}}} into its '
            "attributes, N as in chunk_grid of the arrays below"
        ) from error


def _basis_folder(array: Path) -> Path:
    return array.with_name(array.name + BASIS)


def write_basis(array: Path, encoding: Project) -> None:
    """Store the basis of ``project:k`` beside its array, as a Zarr array (1 + K, C) float32: mean, then vectors."""
    assert encoding.basis is not None
    table = np.ascontiguousarray(np.concatenate([encoding.basis.mean[None], encoding.basis.vectors]), "<f4")
    folder = _basis_folder(array)
    write_bytes(folder / "c/0/0", table.tobytes() + crc32c(table).to_bytes(4, "little"))
    write_json(folder / "zarr.json", _basis_metadata(list(table.shape), encoding.basis.digest))


def read_basis(array: Path, spec: ArraySpec) -> Basis:
    """Basis that lies beside the ``project:k`` array at ``array``. Raises DamagedError unless it is the one ``spec``
    was written with."""
    assert isinstance(spec.encoding, Project)
    folder, rows, channels = _basis_folder(array), spec.encoding.k + 1, spec.shape[2]
    remedy = f"`diffps extract` with extract.encoding={spec.encoding.name} writes it again"
    try:
        data = read_bytes(folder / "c/0/0")
        metadata = read_json(folder / "zarr.json")
    except FileNotFoundError as error:
        raise DamagedError(f"{folder}: the basis of {array.name} is missing; {remedy}") from error
    except DamagedError as error:
        raise DamagedError(f"{folder}: the basis of {array.name} has damaged metadata; {remedy}") from error
    table = data[:-4]
    if len(table) != 4 * rows * channels or crc32c(table) != int.from_bytes(data[-4:], "little"):
        raise DamagedError(f"{folder}: the basis does not match its checksum; {remedy}")
    values = np.frombuffer(table, "<f4").reshape(rows, channels)
    basis = Basis(mean=values[0].copy(), vectors=values[1:].copy())
    expected = spec.encoding.digest
    if basis.digest != expected or metadata != _basis_metadata([rows, channels], basis.digest):
        raise DamagedError(f"{folder}: holds another basis than {expected}, which {array.name} was made with; {remedy}")
    return basis


def _basis_metadata(shape: list[int], digest: str) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": "NaN",
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        "attributes": {ATTRIBUTE: {"digest": digest}},
        "dimension_names": ["mean_then_vectors", "channel"],
        "storage_transformers": [],
    }
