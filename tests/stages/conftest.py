"""The drawn world as far as a test needs it: each step made once, copied, never changed."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from stages import encode, evaluate, extract, index, report, sweep, train
from stages.places import TRAIN
from tests.world import FLOAT16, Project, write_small_index


@pytest.fixture(scope="session")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scenes drawn and indexed."""
    folder = tmp_path_factory.mktemp("indexed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        Project(folder, monkeypatch).run(index)
    return folder


@pytest.fixture(scope="session")
def encoded(indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with moments and words."""
    folder = tmp_path_factory.mktemp("encoded") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        Project.copy_of(indexed, folder, monkeypatch).run(encode)
    return folder


@pytest.fixture(scope="session")
def extracted(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the taps and maps in float16."""
    folder = tmp_path_factory.mktemp("extracted") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        Project.copy_of(encoded, folder, monkeypatch).run(extract, extract=FLOAT16)
    return folder


@pytest.fixture(scope="session")
def whole(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after every stage, with a sweep of one head; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("whole") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project.copy_of(extracted, folder, monkeypatch)
        project.change(extract=FLOAT16, sweep={"file": "one.yaml"})
        Path("one.yaml").write_text("variants: {one: {}}")
        project.run(train, evaluate, sweep, report)
    return folder


@pytest.fixture(scope="session")
def searchable(extracted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a head that takes every box for a person, and its evaluation; nothing in it is changed."""
    folder = tmp_path_factory.mktemp("searchable") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project.copy_of(extracted, folder, monkeypatch)
        project.run(train, extract=FLOAT16)
        tensors = load_file(TRAIN / "head" / "model.safetensors")
        tensors["box_head.classifier.bias"] += tensors["box_head.classifier.bias"].new_tensor([-5, 5])
        save_file(tensors, TRAIN / "head" / "model.safetensors")
        for path in TRAIN.rglob("digests.json"):  # a head made by hand
            path.unlink()
        project.run(evaluate, extract=FLOAT16, evaluate={"baseline": False})
    return folder


@pytest.fixture
def small(extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project of one's own with features in float16."""
    return Project.copy_of(extracted, tmp_path / "project", monkeypatch)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the made-up index and the words."""
    monkeypatch.chdir(tmp_path)
    write_small_index(tmp_path)
    return tmp_path
