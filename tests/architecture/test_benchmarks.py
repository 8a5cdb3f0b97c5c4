"""Benchmarks are run by hand: at least what they import is there."""

import ast
from importlib import import_module, util
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

OURS = ("diffps", "cache", "stages", "pipeline", "tests")


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.name)
def test_what_it_imports_of_ours_exists(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None or node.module.partition(".")[0] not in OURS:
            continue
        module = import_module(node.module)
        for alias in node.names:
            where = f"{node.module}.{alias.name}"
            assert hasattr(module, alias.name) or util.find_spec(where) is not None, where
