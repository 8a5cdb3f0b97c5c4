"""What the documents tell people to type works, or at least is understood."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.architecture.repository import ROOT

DOCUMENTS = ["README.md", "CONTRIBUTING.md", *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
# Commands of other programs, with what makes them true.
OTHERS = {"make", "dvc", "dask", "cp", "python3", ".venv/bin/pip", ".venv/bin/pre-commit"}


def blocks(language: str) -> Iterator[tuple[str, str]]:
    for document in DOCUMENTS:
        for block in re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.S):
            yield document, block


def commands() -> list[str]:
    lines = [line.strip() for _, block in blocks("bash") for line in block.splitlines()]
    return sorted({line for line in lines if line and not line.startswith("#")})


@pytest.mark.parametrize("command", [line for line in commands() if line.startswith("diffps ")])
def test_the_arguments_of_every_command_are_understood(command: str, tmp_path: Path) -> None:
    """Parsed, its parameters loaded, its stage's dry run reached; what needs data is run by the tests of that stage."""
    from typer.main import get_command

    from pipeline.cli import app
    from pipeline.config import load_params

    typed, _, into = command.partition(" > ")
    assert not into or (ROOT / into.strip()).is_file()
    name, *arguments = shlex.split(typed)[1:]
    found = get_command(app).commands[name]  # type: ignore[attr-defined]
    if hasattr(found, "commands"):
        name, *arguments = arguments
        found = found.commands[name]
    context = found.make_context(name, arguments)
    if "params" in context.params:
        load_params(ROOT / context.params["params"], context.params["overrides"] or [])


@pytest.mark.parametrize("command", [line for line in commands() if not line.startswith("diffps ")])
def test_other_commands_name_what_exists(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program in OTHERS
    match program:
        case "make":
            assert all(f"{target}:" in (ROOT / "Makefile").read_text() for target in arguments)
        case "cp":
            assert (ROOT / arguments[0]).is_file()
        case "dvc":
            assert arguments[0] in {"repro", "metrics", "plots", "exp", "push", "pull"}


@pytest.mark.parametrize("code", [block for _, block in blocks("python")])
def test_python_in_the_documents_runs(code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    Image.fromarray(pixels).save("street.jpg")
    exec(compile(code, "README.md", "exec"), {})


def test_tests_that_documents_name_exist() -> None:
    """A table of what is accepted, repaired and refused names the test of each row, below the file of the tests."""
    for document in DOCUMENTS:
        tests = ""
        if document == "docs/parameters.md":  # keys of params.yaml begin with test_ as well
            continue
        for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)|(test_\w+))`", (ROOT / document).read_text()):
            tests = (ROOT / path).read_text() if path else tests
            assert path or f"def {name}(" in tests, f"{document} names {name}"


def test_the_make_targets_install_once(tmp_path: Path) -> None:
    """With the stamp newer than pyproject.toml nothing is installed again."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def plan(target: str = "test") -> str:
        # The variables of a make around this test must not reach the one inside.
        outer = {"MAKEFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "VENV"}
        env = {name: value for name, value in os.environ.items() if name not in outer}
        command = ["make", "-n", target]
        return subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=True).stdout

    assert "pip install" in plan()
    assert "--editable '.[dvc]'" in plan("demo")  # no tools of tests
    assert "[test]" not in plan("demo")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed-for-tests").touch()
    assert "pip install" not in plan()
