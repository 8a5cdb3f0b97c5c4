"""The notebooks: made from their scripts, and each runs in a project of the small world."""

import json
import runpy
import shutil
from pathlib import Path

import pytest

from tests.world import ROOT

FOLDER = ROOT / "docs" / "notebooks"
NAMES = ("features", "dataset", "head")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_made_from_its_script(name: str) -> None:
    pytest.importorskip("nbformat")
    made = runpy.run_path(str(FOLDER / "convert.py"))
    assert set(made["NAMES"]) == {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    script = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    written = (FOLDER / f"{name}.ipynb").read_text(encoding="utf-8")
    assert written == made["notebook"](script), "run: python docs/notebooks/convert.py"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, searchable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells one after the other in one namespace, which is what a kernel does."""
    if name == "features":
        pytest.importorskip("xarray")
    project = tmp_path / "project"
    shutil.copytree(searchable, project)
    monkeypatch.chdir(project)
    cells = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    namespace: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{name}.ipynb", "exec"), namespace)
    assert namespace
