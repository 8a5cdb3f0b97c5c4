"""A project whose pipeline ran once."""

import shutil
from pathlib import Path

import pytest

from tests.architecture.repository import PIPELINE
from tests.pipeline.project import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Looked at, never changed: tests that change something take a copy, :func:`project`."""
    project = Project.create(tmp_path_factory.mktemp("finished") / "project")
    assert project.repro() == list(PIPELINE)
    project.commit()
    return project


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    shutil.copytree(finished.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")
