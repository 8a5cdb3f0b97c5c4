"""A checkpoint of SD 2.1's topology, small enough for a test to make."""

from pathlib import Path

import pytest

from diffps.backbone.builtin.topology import make_random
from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.backbone.frozen import FrozenUNet


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint's folder; not to be changed."""
    return make_random(tmp_path_factory.mktemp("checkpoint") / "random")


@pytest.fixture(scope="session")
def checkpoint(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder))


@pytest.fixture(scope="session")
def frozen(folder: Path) -> FrozenUNet:
    return FrozenUNet.from_pretrained(str(folder))
