"""The table of what is accepted, repaired and refused names a test in each row, and they are there."""

import ast
import re

from tests.architecture.repository import ROOT

DOCUMENT = (ROOT / "docs" / "datasets.md").read_text(encoding="utf-8")
OUTCOMES = {"accepted", "repaired", "doubtful", "refused", ""}


def rows() -> list[list[str]]:
    """What is there, the outcome or nothing, and the test of every item."""
    items = re.findall(r"^- (.*(?:\n  .*)*)", DOCUMENT, re.M)
    found = [re.fullmatch(r"(.*?)(?: → \*(\w+)\*)?(?:: .*)?\. (\S+)", " ".join(item.split())) for item in items]
    assert all(found)
    return [[match[1], match[2] or "", match[3]] for match in found if match]


def test_every_row_names_a_test_that_is_there() -> None:
    assert len(rows()) > 50
    for what, outcome, test in rows():
        match = re.fullmatch(r"`(test_\w+\.py)::(test_\w+)`", test)
        assert match, what
        tree = ast.parse((ROOT / "tests" / "datasets" / match[1]).read_text(encoding="utf-8"))
        assert match[2] in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test
        assert outcome in OUTCOMES, what
