"""A drawn dataset of a few scenes with its index, for tests that extract. Runs in a folder of its own."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.config import load_params
from stages import encode, extract, index
from stages.job import QuietJob
from stages.params import Params
from tests.tiny import write_params

# Few and cheap taps; the level 1 ones stop the UNet early.
TAPS = {
    "detection": "up-level1-repeat0-vit-block0-self-k",
    "guidance": "up-level1-repeat0-vit-block0-cross-map.person",
    "level1": ["up-level1-repeat0-vit-block0-self-k"],
    "level2": ["up-level0-repeat1-res-out"],
    "level3": ["down-level1-repeat0-vit-out"],
}
KEPT = [
    "up-level1-repeat0-vit-block0-cross-map",
    "up-level1-repeat0-vit-block0-self-k",
    "up-level0-repeat1-res-out",
    "down-level1-repeat0-vit-out",
]
CHANGES: dict[str, Any] = {
    "encode": {"canvas": [128, 192]},
    "extract": {"taps": KEPT},
    "train": {"taps": TAPS},
    "runtime": {"device": "cpu", "threads": 1, "batch": 2, "vae_batch": 2, "shard": 3},
}


class Project:
    """A folder with params.yaml, in which the stages run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        self.folder = folder

    def params(self, **sections: dict[str, Any]) -> Params:
        """The parameters with some keys of some sections changed."""
        changes = {name: {**CHANGES.get(name, {}), **sections.get(name, {})} for name in {*CHANGES, *sections}}
        write_params(self.folder, changes)
        return load_params(self.folder / "params.yaml")

    def index(self) -> None:
        params = self.params()
        index.run(params, QuietJob(params.runtime))

    def encode(self, **sections: dict[str, Any]) -> None:
        params = self.params(**sections)
        encode.run(params, QuietJob(params.runtime))

    def extract(self, **sections: dict[str, Any]) -> None:
        params = self.params(**sections)
        extract.run(params, QuietJob(params.runtime))

    def files(self, below: str = "data/features/features.zarr") -> dict[str, bytes]:
        """Content of every file below a folder, by path; receipts and the like carry times and are not asked for."""
        root = self.folder / below
        return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
