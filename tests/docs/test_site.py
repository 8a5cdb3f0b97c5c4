"""The documents as a site: built offline and strictly, and no page asks for anything from elsewhere."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.repository import ROOT

# What a page loads by itself; links that a reader may follow are not among it.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|<link rel=\"(?:stylesheet|preconnect|icon)\""
    r"[^>]+href=\"(?:https?:)?//"
)


def test_the_site_builds_and_asks_for_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("material")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {str(page.relative_to(tmp_path)): page.read_text(encoding="utf-8") for page in tmp_path.rglob("*.html")}
    documents = {str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")}
    assert documents <= set(pages)
    assert "FrozenUNet" in pages["api.html"]
    assert "Raises" in pages["api.html"]
    assert not [name for name, page in pages.items() if LOADED.search(page)]
    styles = [sheet.read_text(encoding="utf-8") for sheet in tmp_path.rglob("*.css")]
    assert styles
    assert not [sheet for sheet in styles if re.search(r"url\(\"?(?:https?:)?//|@import", sheet)]
