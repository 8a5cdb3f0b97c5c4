"""Machine code is never older than its source, whichever file the change was made in."""

import ast
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from numba.core.dispatcher import Dispatcher

import diffps.compiled
from diffps.compiled import PACKAGE, USES, digest, processor
from tests.architecture.repository import ROOT

OUTER = """
import numpy as np
from diffps.compiled import compiled
from diffps.metrics.matching import box_iou


@compiled()
def overlap_with_itself(box):
    return box_iou(box, box)


print(overlap_with_itself(np.array([0, 0, 10, 20], np.float32)))
"""


def score(folder: Path, **environment: str) -> str:
    """What a function says that calls one of another file, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if name not in ("NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    run = subprocess.run(
        [sys.executable, "-m", "diffps.metrics.outer"],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(folder)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package in another place, without compiled code."""
    shutil.copytree(PACKAGE, tmp_path / "diffps", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "diffps/metrics/outer.py").write_text(OUTER)
    return tmp_path


def kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*.nbc"))


def test_an_edit_of_an_inner_function_reaches_the_outer_one_in_another_file(copy: Path) -> None:
    """With a warm cache: the outer function's own file is untouched."""
    assert score(copy) == "1.0"
    assert kept(copy)
    matching = copy / "diffps/metrics/matching.py"
    edited = matching.read_text().replace("return float(both", "return 0.25 * float(both")
    assert edited != matching.read_text()
    matching.write_text(edited)
    assert score(copy) == "0.25"


def test_code_is_kept_and_taken_where_nothing_changed(copy: Path) -> None:
    score(copy)
    first = {path: path.stat().st_mtime_ns for path in copy.rglob("*.nb?")}
    assert first
    score(copy)
    assert {path: path.stat().st_mtime_ns for path in copy.rglob("*.nb?")} == first


def test_code_is_kept_where_the_user_wants_it_else_in_the_user_s_cache_else_nowhere(copy: Path) -> None:
    blocked, wanted, home = copy / "blocked", copy / "wanted", copy / "home"
    blocked.write_text("a file, so that no folder can be made below")
    assert score(copy, NUMBA_CACHE_DIR=str(wanted)) == "1.0"
    assert kept(wanted)
    assert kept(copy) == kept(wanted)
    (copy / "diffps/__pycache__").rename(copy / "bytecode")
    (copy / "diffps/__pycache__").write_text("nor here")
    assert score(copy, XDG_CACHE_HOME=str(home)) == "1.0"
    assert kept(home)
    assert score(copy, NUMBA_CACHE_DIR=str(blocked)) == "1.0"


def test_the_key_is_of_every_module_that_compiles_and_of_no_other(copy: Path) -> None:
    before = digest(copy / "diffps")
    changed = set()
    for path in sorted((copy / "diffps").rglob("*.py")):
        text = path.read_text()
        path.write_text(text + "\n")
        if digest(copy / "diffps") != before:
            changed.add(path.relative_to(copy / "diffps").as_posix())
        path.write_text(text)
    compiling = {path.relative_to(PACKAGE).as_posix() for path in modules(PACKAGE)}
    assert changed == compiling | {"compiled.py", "metrics/outer.py"}


@pytest.mark.parametrize("module", ["numba", "numpy"])
def test_the_key_is_of_the_versions(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(PACKAGE)
    monkeypatch.setattr(importlib.import_module(module), "__version__", "another")
    assert digest(PACKAGE) != before


def test_the_key_is_of_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(PACKAGE)
    assert all(processor())
    monkeypatch.setattr(diffps.compiled, "processor", lambda: ("x86_64", "another", "+avx"))
    assert digest(PACKAGE) != before


def modules(package: Path) -> list[Path]:
    return [path for path in sorted(package.rglob("*.py")) if path.name != "compiled.py" and USES in path.read_bytes()]


def imported(path: Path) -> ModuleType:
    return importlib.import_module(path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."))


@pytest.mark.parametrize("path", [*modules(PACKAGE), ROOT / "cache/kernels.py"], ids=lambda path: path.stem)
def test_whatever_is_compiled_in_comes_from_a_module_that_counts(path: Path) -> None:
    """A constant or function taken from elsewhere would be frozen into the code, and its change go unnoticed."""
    counts = {imported(other).__name__ for other in modules(PACKAGE)} if PACKAGE in path.parents else set()
    functions = [each for each in vars(imported(path)).values() if isinstance(each, Dispatcher)]
    names = {name for each in functions for name in each.py_func.__code__.co_names}
    assert names
    for node in ast.walk(ast.parse(path.read_text())):
        own = isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("diffps", "cache")
        if own and names & {alias.name for alias in node.names} - {"prange"}:
            assert node.module in counts, ast.unparse(node)
