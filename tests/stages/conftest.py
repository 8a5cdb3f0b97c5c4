"""A store that several test files look after: drawn scenes on a small canvas, extracted once, copied, never changed."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from stages.params import Params
from tests.stages.drawn import Project


class SmallProject(Project):
    """The drawn project on a smaller canvas."""

    def params(self, **sections: dict[str, Any]) -> Params:
        return super().params(**{"encode": {"canvas": [64, 64]}, **sections})


@pytest.fixture(scope="session")
def small_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset drawn, indexed, encoded and extracted in float16."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = SmallProject(folder, monkeypatch)
        project.index()
        project.encode()
        project.extract(extract={"encoding": "float16"})
    return folder


@pytest.fixture
def small(small_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SmallProject:
    """A copy of it."""
    shutil.copytree(small_template, tmp_path / "project")
    return SmallProject(tmp_path / "project", monkeypatch)
