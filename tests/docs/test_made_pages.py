"""Pages that are made from the code are those of the code; errors are all explained."""

import inspect
import runpy
from types import ModuleType

import pytest

import cache.errors
import diffps.errors
from tests.architecture.repository import ROOT

PAGES = runpy.run_path(str(ROOT / "docs/reference.py"))["PAGES"]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_that_of_the_code(page: str) -> None:
    assert (ROOT / "docs" / page).read_text(encoding="utf-8") == PAGES[page](), "run: python docs/reference.py"


def test_every_tap_and_every_command_is_told() -> None:
    from diffps.taps import standard_taps

    taps = (ROOT / "docs/taps.md").read_text(encoding="utf-8")
    assert all(f"| `{tap}` |" in taps for tap in standard_taps())
    commands = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    assert all(f"## `diffps {name}`" in commands for name in ("extract", "cache plan", "head push"))


@pytest.mark.parametrize("module", [diffps.errors, cache.errors])
def test_every_error_is_explained(module: ModuleType) -> None:
    page = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    found = [name for name, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__]
    assert found
    assert all(f"`{name}`" in page for name in found)
