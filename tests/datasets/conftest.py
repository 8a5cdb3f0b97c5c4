"""Small trees in the official layouts."""

from pathlib import Path

import pytest

from tests.datasets.trees import write_cuhk, write_folder, write_prw


@pytest.fixture
def prw_tree(tmp_path: Path) -> Path:
    return write_prw(tmp_path / "prw")


@pytest.fixture
def cuhk_tree(tmp_path: Path) -> Path:
    return write_cuhk(tmp_path / "cuhk")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)
