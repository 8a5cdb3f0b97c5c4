"""The table of what is accepted, repaired and refused names a test in each row, and they are there."""

import ast
import re

from tests.architecture.repository import ROOT

DOCUMENT = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
OUTCOMES = {"accepted", "repaired", "doubtful", "refused", ""}


def rows() -> list[list[str]]:
    """Cells of all rows but headings and rules."""
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [row for row in cells if row[-1] != "test" and set(row[-1]) != {"-"}]


def test_every_row_names_a_test_that_is_there() -> None:
    assert len(rows()) > 50
    for what, outcome, _, test in rows():
        match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test)
        assert match, what
        tree = ast.parse((ROOT / "tests" / "datasets" / match[1]).read_text(encoding="utf-8"))
        assert match[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
        assert outcome in OUTCOMES, what
