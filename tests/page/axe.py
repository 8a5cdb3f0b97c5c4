"""axe-core in a page that is open in the browser: what a screen reader, a keyboard or weak eyes stumble over."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.page.browser import Browser

SERIOUS = ("serious", "critical")
RUN = "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))"
NPM = Path("node_modules/axe-core/axe.min.js")  # npm install axe-core

# Width and dark mode a page is looked at in; the two that are like these are slow.
SIZES = [
    (390, True),
    (1440, False),
    pytest.param(390, False, marks=pytest.mark.slow),
    pytest.param(1440, True, marks=pytest.mark.slow),
]


def script() -> str:
    """axe-core's script: npm's where it was installed, else the copy in the Python package."""
    found = find_spec("axe_playwright_python")
    packaged = [Path(place) / "axe.min.js" for place in (found.submodule_search_locations or ())] if found else []
    there = next((path for path in (NPM, *packaged) if path.is_file()), None)
    if there is None:
        pytest.skip("axe-core is not installed (pip install axe-playwright-python, or npm install axe-core)")
    return there.read_text(encoding="utf-8")


def findings(browser: Browser) -> list[str]:
    """Serious findings, each with its rule and the first places."""
    browser.evaluate(script() + "; 0")
    violations = json.loads(browser.evaluate(RUN))
    return [
        f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in violations
        if each["impact"] in SERIOUS
    ]
