"""A second `dvc repro` runs nothing, on machines as people have them."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.pipeline.project import Project
from tests.world import ROOT


def test_after_everything_was_compiled(project: Project) -> None:
    """Bytecode of this Python and of another, caches of Numba, what tests and tools leave behind."""
    project.run(sys.executable, "-m", "compileall", "-q", ".")
    compiled = list((project.root / "stages").rglob("*.pyc"))
    assert compiled
    for path in compiled:
        tag = sys.implementation.cache_tag
        assert tag is not None
        shutil.copy(path, path.with_name(path.name.replace(tag, "cpython-399")))
        shutil.copy(path, path.with_name(path.name.replace(tag, f"{tag}-pytest-9.2.0")))
        path.with_suffix(".nbi").write_bytes(b"of Numba")
    for folder in (".pytest_cache", ".mypy_cache", ".ruff_cache", "build"):
        (project.root / folder).mkdir()
        (project.root / folder / "left").touch()
    assert project.would_run() == set()
    assert project.repro() == []


def test_in_a_clone_that_has_the_same_lock_cache_data_and_results(project: Project, tmp_path: Path) -> None:
    clone = project.clone(tmp_path / "colleague")
    for name in ("data", "results", ".dvc/cache"):
        copy_anew(project.root / name, clone.root / name)
    before = clone.files("data/features"), clone.files("results")
    assert clone.would_run() == set()
    assert clone.repro() == []
    assert (clone.files("data/features"), clone.files("results")) == before


def test_with_the_code_checked_out_again(project: Project) -> None:
    """Other times and inodes, the same bytes."""
    for name in ("diffps", "cache", "stages"):
        (project.root / name).rename(project.root / "before")
        copy_anew(project.root / "before", project.root / name)
        shutil.rmtree(project.root / "before")
    assert project.repro() == []


def copy_anew(source: Path, target: Path) -> None:
    """A copy with times of its own, as other tools than `cp -a` make it."""
    shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile, symlinks=True)


def test_bytecode_is_written_here() -> None:
    """Else this file would test nothing."""
    environment = Project(ROOT).environment
    command = [sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
