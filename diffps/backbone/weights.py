"""The weights of one part: which files of a folder hold them, and their tensors by the names the libraries use now."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from diffps.backbone.configs import ConfigPart
from diffps.backbone.headers import CONVERT, StoredTensor, one_line, read_header
from diffps.backbone.identity import NO_WEIGHT, current_name, part_digest
from diffps.backbone.original import is_original, of_part, to_diffusers
from diffps.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
Value = TypeVar("Value")
_PIECE = 1 << 22  # bytes read at once
_digests: dict[Any, str] = {}


@dataclass(frozen=True)
class Weights:
    """The tensors of ``part`` in safetensors ``files``: diffusers' layout, sharded or not, or one file in the original
    layout of Stable Diffusion that holds other parts too. ``config`` is the part's complete config."""

    part: ConfigPart
    files: tuple[Path, ...]
    config: Mapping[str, Any]

    @cached_property
    def stored(self) -> dict[str, StoredTensor]:
        """Where each tensor lies, by the name it has in its file. Reads headers only."""
        found: dict[str, StoredTensor] = {}
        for file in self.files:
            for name, tensor in read_header(file).items():
                if name in found:
                    raise CheckpointError(f"{file}: tensor {name} lies in {found[name].file.name} too")
                found[name] = tensor
        return found

    @property
    def original(self) -> bool:
        """True for the original layout."""
        return is_original(self.stored)

    def dtypes(self) -> dict[str, str]:
        """The dtype of each tensor of this part, by the name it has in its file."""
        names = of_part(self.part, self.stored) if self.original else self.stored
        return {name: self.stored[name].dtype for name in names if not name.endswith(NO_WEIGHT)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by its current name. Reads headers only."""
        if not self.original:
            return self._current({name: tensor.shape for name, tensor in self.stored.items()})
        import torch

        places = {name: torch.empty(tensor.shape, device="meta") for name, tensor in self.stored.items()}
        return {name: tuple(tensor.shape) for name, tensor in self._converted(places).items()}

    def tensors(self) -> "dict[str, Tensor]":
        """Every tensor by its current name, on the CPU, mapped from the files."""
        from safetensors.torch import load_file

        loaded: dict[str, Tensor] = {}
        for file in {tensor.file for tensor in self.stored.values()}:  # whose headers have been looked at
            try:
                loaded |= load_file(file)
            except Exception as error:  # the library raises its own and others
                raise CheckpointError(f"{file}: does not load ({one_line(error)})") from error
        return self._converted(loaded) if self.original else self._current(loaded)

    def digest(self) -> str:
        """SHA-256 over config and tensors, 16 hex digits; see :func:`~diffps.backbone.identity.part_digest`."""

        def compute() -> str:
            tensors = self._converted_bytes() if self.original else stored_bytes(self._current(self.stored))
            return part_digest(self.part, self.config, tensors)

        return digest_once(f"{self.part} {json.dumps(self.config, sort_keys=True)}", self.files, compute)

    def _converted_bytes(self) -> Iterator[tuple[str, str, list[bytes]]]:
        import torch

        names = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
        for name, tensor in sorted(self.tensors().items()):
            data = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            yield name, f"{names.get(tensor.dtype, tensor.dtype)} {list(tensor.shape)}", [data]

    def _converted(self, tensors: "dict[str, Tensor]") -> "dict[str, Tensor]":
        try:
            return self._current(to_diffusers(self.part, tensors, self.config))
        except Exception as error:  # of tensors that are missing, or of another rank than diffusers expects
            raise CheckpointError(
                f"{self.files[0]}: no {self.part} in the original layout ({one_line(error)})"
            ) from error

    def _current(self, tensors: Mapping[str, Value]) -> dict[str, Value]:
        found = {current_name(name): tensor for name, tensor in tensors.items()}
        found.pop(NO_WEIGHT, None)
        return found


def digest_once(who: str, files: Iterable[Path], compute: Callable[[], str]) -> str:
    """The digest of ``who`` in ``files``, read again only where a file has changed since."""
    stats = [(path.absolute(), path.stat()) for path in files]
    key = who, tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ino) for path, stat in stats)
    if key not in _digests:
        _digests[key] = compute()
    return _digests[key]


def stored_bytes(tensors: Mapping[str, StoredTensor]) -> Iterator[tuple[str, str, Iterator[bytes]]]:
    """What identifies ``tensors``: (name, dtype and shape, bytes in pieces), straight from their files."""
    for name, tensor in sorted(tensors.items()):
        yield name, f"{tensor.dtype} {list(tensor.shape)}", _pieces(tensor)


def _pieces(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        left = tensor.stop - tensor.start
        while left:
            piece = stream.read(min(_PIECE, left))
            if not piece:
                raise CheckpointError(f"{tensor.file}: became shorter while it was read")
            yield piece
            left -= len(piece)


def find_weights(folder: Path, stem: str, variant: str | None = None) -> tuple[Path, ...]:
    """The safetensors files of a part's ``folder``: ``stem``.safetensors, its shards, or those of a ``variant`` (fp16).

    Without ``variant`` the plain weights; where there are none, the only variant. With it, its weights; where the part
    has none of it, the plain ones. Raises CheckpointError that names what lies there instead.
    """
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    others = variants(names, stem)
    for wanted in (variant or "", "", *(others if variant is None and len(others) == 1 else ())):
        files = [folder / name for name in _files_of(folder, names, stem, wanted)]
        if files:
            for file in files:
                _check_there(file)
            return tuple(files)
    raise CheckpointError(f"no {stem}.safetensors in {folder}: {_instead(folder, names, stem, others)}")


def variants(names: Iterable[str], stem: str) -> list[str]:
    """Which variants of a part's weights lie among the files ``names`` of its folder: fp16, non_ema, …"""
    return sorted({_variant(name, stem) or "" for name in names} - {""})


def _variant(name: str, stem: str) -> str | None:
    """The variant of a file of weights, "" for plain ones, None for another file.

    model.safetensors, model.fp16.safetensors, model.fp16-00001-of-00002.safetensors, and model-00001-of-00002.fp16.
    """
    match = re.fullmatch(rf"{stem}(\.([\w-]+?))?(-\d+-of-\d+)?(\.([\w-]+))?\.safetensors", name)
    return None if match is None else match[2] or match[5] or ""


def _files_of(folder: Path, names: Sequence[str], stem: str, variant: str) -> list[str]:
    """One file, or every shard of it: those that its index names where there is one."""
    suffix = f".{variant}" if variant else ""
    if f"{stem}{suffix}.safetensors" in names:
        return [f"{stem}{suffix}.safetensors"]
    for index in (f"{stem}.safetensors.index{suffix}.json", f"{stem}{suffix}.safetensors.index.json"):
        if index in names:
            return _indexed(folder / index)
    shards = [name for name in names if _variant(name, stem) == variant]
    if shards:
        count = int(shards[0].rpartition("-of-")[2].partition(".")[0])
        if len(shards) != count:
            raise CheckpointError(f"{folder}: {len(shards)} of {count} shards of {stem}{suffix}; fetch the others")
    return shards


def _indexed(index: Path) -> list[str]:
    places = read_json(index).get("weight_map")
    files = sorted(set(places.values())) if isinstance(places, dict) and _are_names(places.values()) else []
    if not files:
        raise CheckpointError(f"{index}: its weight_map names no files beside it")
    return files


def _are_names(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) and value == Path(value).name for value in values)


def _check_there(file: Path) -> None:
    if file.is_file():
        return
    if file.is_symlink():
        raise CheckpointError(f"{file}: a link to {file.readlink()}, which is missing; hub caches are copied whole")
    raise CheckpointError(f"{file}: a shard which is missing; fetch it")


def _instead(folder: Path, names: Sequence[str], stem: str, others: Sequence[str]) -> str:
    if not folder.is_dir():
        return "there is no such folder"
    if others:
        return f"there are variants {' and '.join(others)}; name one (encode.variant: {others[0]})"
    pickles = [name for name in names if name.endswith((*PICKLES, ".bin.index.json"))]
    if pickles:
        pickle = min(pickles, key=lambda name: not name.endswith(".json"))
        return f"{pickle} is a pickle, which is never loaded; `{CONVERT} {folder / pickle}` makes safetensors of it"
    return f"it holds {', '.join(names[:6]) or 'nothing'}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises CheckpointError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON ({one_line(error)})") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value
