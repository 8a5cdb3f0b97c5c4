"""The store as the commands use it: maps of several heads, encodings made from another, what explain and gc say."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache import FeatureStore
from stages import extract
from stages.job import QuietJob
from stages.passes import Pass
from stages.recipes import stored_map
from tests.stages.drawn import Project

STORE = Path("data/features")
MAP = "up-level1-repeat0-vit-block0-cross-map.person"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset drawn, indexed, encoded and extracted in float16; copied, never changed."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project(folder, monkeypatch)
        project.index()
        project.encode()
        project.extract(extract={"encoding": "float16"})
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(template, tmp_path / "project")
    return Project(tmp_path / "project", monkeypatch)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the UNet was loaded")

    monkeypatch.setattr("stages.passes.PassRunner.__init__", refuse)


def test_the_name_of_a_map_says_which_head_it_is_of() -> None:
    assert stored_map(MAP, "mean") == MAP
    assert stored_map(MAP, 0) == f"{MAP}@head0"
    assert extract.stored_name(MAP, "int8", 3) == f"{MAP}@head3"
    assert extract.stored_name("mid-vit-out", "int8", 3) == "mid-vit-out@int8"


def test_maps_of_several_heads_lie_side_by_side(project: Project) -> None:
    """Each head is an array of its own; only its maps are computed, and heads go on asking for the plain name."""
    before = project.files()
    ids: dict[Any, str] = {}
    maps: dict[Any, Any] = {}
    for head in ("mean", 0, 1):
        section = {"encoding": "float16", "head": head}
        project.extract(extract=section)
        spec = Pass(project.params(extract=section), STORE).specs("train", "identity", 0)[MAP]
        ids[head] = spec.id
        reader = FeatureStore(STORE).reader([spec])
        maps[head] = reader.read_float(next(iter(FeatureStore(STORE).rows("train").scenes)), spec.name)
    assert len(set(ids.values())) == 3
    assert not np.array_equal(maps[0], maps[1])
    found = project.files()
    assert {name: found[name] for name in before} == before
    added = set(found) - set(before)
    assert added
    assert all(f"/{MAP}@head" in name for name in added)
    for folder in (STORE / "manifests/extract").rglob("t0"):
        assert {path.name for path in folder.glob(f"{MAP}*")} == {
            f"{MAP}.json",
            f"{MAP}@head0.json",
            f"{MAP}@head1.json",
        }


@pytest.mark.usefixtures("no_model")
def test_the_mean_lies_where_it_always_did(project: Project) -> None:
    params = project.params(extract={"encoding": "float16"})
    spec = Pass(params, STORE).specs("train", "identity", 0)[MAP]
    assert spec.name == MAP
    assert spec.full_recipe["recipe"]["head"] == "mean"  # type: ignore[call-overload, index]
    extract.run(params, QuietJob(params.runtime))
