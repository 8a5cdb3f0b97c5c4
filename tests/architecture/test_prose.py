"""Text that is read by people: short lines, spelled right, and all of it reachable from the README."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT, tracked

LINE, README_LINES = 120, 120


def links(document: Path) -> set[Path]:
    """The Markdown files that a document links to, relative to the root."""
    targets = re.findall(r"\]\(([^)#\s]+)", (ROOT / document).read_text(encoding="utf-8"))
    found = {(ROOT / document.parent / target).resolve() for target in targets if "://" not in target}
    return {path.relative_to(ROOT) for path in found if path.suffix == ".md" and path.is_relative_to(ROOT)}


@pytest.mark.parametrize("kind", [".md", ".py"])
def test_no_line_is_long(kind: str) -> None:
    long = [
        f"{path}:{number}: {len(line)}"
        for path in tracked()
        if path.suffix == kind
        for number, line in enumerate((ROOT / path).read_text(encoding="utf-8").splitlines(), start=1)
        if len(line) > LINE
    ]
    assert not long, long


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < README_LINES


def test_every_document_is_reachable_from_the_readme() -> None:
    reached: set[Path] = set()
    ahead = {Path("README.md")}
    while ahead:
        reached |= ahead
        ahead = {target for document in ahead for target in links(document)} - reached
    documents = {path for path in tracked() if path.suffix == ".md" and path.parts[0] in {"docs", "benchmarks"}}
    at_the_top = {path for path in tracked() if path.suffix == ".md" and len(path.parts) == 1}
    assert documents | at_the_top <= reached, sorted(map(str, (documents | at_the_top) - reached))


def test_everything_is_spelled_right() -> None:
    pytest.importorskip("codespell_lib")
    kinds = {".md", ".py", ".toml", ".yaml", ".yml", ".j2", ".css", ".js", ".cff"}
    files = [str(path) for path in tracked() if path.suffix in kinds]
    command = [sys.executable, "-m", "codespell_lib", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
