"""What a head is fed: six facts about its features in one value, and the arrays and manifests that follow from them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cache.files import read_json
from diffps.errors import ConfigError
from diffps.records import Split, View
from diffps.taps import FeatureName
from stages.config_data import ExtractConfig
from stages.config_heads import TrainConfig
from stages.places import pass_manifests


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a head is fed. It is saved with the head, which is shown the same when it is evaluated.

    ``names``: the features, as the head calls them. ``pass_name``: ``extract.name`` of the pass they come from, at
    ``timestep``. ``encoding`` of the taps and attention ``head`` of the maps say which of a pass's arrays are read.
    ``mirrored``: training reads mirrored images from a view of their own (``train.flip: cached``).
    """

    names: tuple[str, ...]
    timestep: int
    pass_name: str
    encoding: str
    head: Literal["mean"] | int
    mirrored: bool

    @classmethod
    def of(cls, train: TrainConfig, extract: ExtractConfig) -> "Reading":
        """The reading of a head that is trained by these sections."""
        return cls(
            names=train.taps.names,
            timestep=train.timestep,
            pass_name=extract.name,
            encoding=extract.encoding,
            head=extract.head,
            mirrored=train.flip == "cached",
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Reading":
        """The reverse of :meth:`to_json`. Raises KeyError, TypeError for something else."""
        return cls(**{**values, "names": tuple(values["names"])})

    def to_json(self) -> dict[str, Any]:
        """Plain values, as a head's config.json holds them."""
        return {**asdict(self), "names": list(self.names)}

    def at(self, names: Iterable[str], timestep: int | None = None) -> "Reading":
        """The same pass read for other features, or at another timestep."""
        return replace(self, names=tuple(names), timestep=self.timestep if timestep is None else timestep)

    def asked_of(self, extract: ExtractConfig) -> ExtractConfig:
        """Section ``extract`` asked for exactly this. Raises ConfigError where it lacks the word of a map."""
        taps = tuple(dict.fromkeys(FeatureName.parse(name).tap for name in self.names))
        asked = replace(extract, taps=taps, timesteps=(self.timestep,), encoding=self.encoding, head=self.head)
        for name in self.names:
            if name not in asked.names:
                raise ConfigError(f"extract.words {list(extract.words)}: lacks the word of {name}, which is read")
        return asked

    def views(self, split: Split) -> tuple[View, ...]:
        """Views read of a split: mirrored images serve training only."""
        return ("identity", "hflip") if split == "train" and self.mirrored else ("identity",)

    def stored(self, name: str) -> str:
        """Array of the store that holds what heads call ``name``."""
        if FeatureName.parse(name).word is None:
            return f"{name}@{self.encoding}"
        return stored_map(name, self.head)

    def manifests(self, split: Split) -> Iterator[tuple[View, str, Path]]:
        """(view, name, manifest) of everything read of a split."""
        for view in self.views(split):
            folder = pass_manifests(split, view, self.pass_name, self.timestep)
            for name in self.names:
                yield view, name, folder / f"{self.stored(name)}.json"

    def digest(self, splits: Sequence[Split]) -> str:
        """Ten hex digits over those manifests: other bytes in the store, another digest; empty where there are none."""
        there = [path for split in splits for *_, path in self.manifests(split) if path.is_file()]
        return hashlib.sha256(b"".join(path.read_bytes() for path in there)).hexdigest()[:10] if there else ""

    def image_bytes(self) -> int | None:
        """Bytes in the store of one view of one test image, scales included; None where not all of it is stored."""
        paths = [path for *_, path in self.manifests("test")]
        if not all(path.is_file() for path in paths):
            return None
        arrays = [array for path in paths for array in read_json(path)["arrays"]]
        return sum(int(array["nbytes"]) // max(int(array["images"]), 1) for array in arrays)


def stored_map(name: str, head: int | str) -> str:
    """Array of the map that heads call ``name``: the mean under its own name, an attention head's beside it."""
    return name if head == "mean" else f"{name}@head{head}"
