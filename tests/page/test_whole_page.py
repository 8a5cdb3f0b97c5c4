"""Every word and number of the page of the made-up run, against page.txt; whoever changes one looks at the difference.

Where a change is meant: ``python -m pytest tests/page/test_whole_page.py`` says where the new text lies; copy it here.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stages.page.compose import compose, summary
from stages.page.content import Page, Section
from tests.page.conftest import Run, other_run
from tests.page.made_probe import write_probe

EXPECTED = Path(__file__).with_name("page.txt")
# What differs from machine to machine and from version to version.
UNSURE = ("Versions", "Page made on", "Head", "Code", "Index", "Features")
OF_FEATURES = ("attention", "pca", "guidance", "frequency", "semantics")  # what a network computed

NUMBER = re.compile(r"\d+\.\d+|\d+ %")


def told(value: Any, place: str = "") -> Iterator[str]:
    """A line for every number and text; of pictures and long curves what they come to."""
    match value:
        case np.ndarray():
            shade = "" if place.startswith(OF_FEATURES) else f", {float(value.mean()):.0f}"
            yield f"{place}: picture {'x'.join(map(str, value.shape))}{shade}"
        case Section():
            for field in fields(value):
                yield from told(getattr(value, field.name), f"{value.anchor}.{field.name}")
        case _ if is_dataclass(value):
            for field in fields(value):
                yield from told(getattr(value, field.name), f"{place}.{field.name}".strip("."))
        case Mapping():
            for key, each in value.items():
                yield from told("…" if key in UNSURE else each, f"{place}[{key}]")
        case list() | tuple() | frozenset() if not hasattr(value, "_fields"):
            numbers = [each for each in value if isinstance(each, int | float | np.number)]
            if len(numbers) > 12:
                yield f"{place}: {len(value)} from {numbers[0]:.4g} to {numbers[-1]:.4g}, mean {np.mean(numbers):.4g}"
                return
            if numbers and len(numbers) == len(value):
                yield f"{place}: {', '.join(f'{each:.5g}' for each in numbers)}"
                return
            for number, each in enumerate(sorted(value) if isinstance(value, frozenset) else value):
                yield from told(each, f"{place}[{number}]")
        case float() | np.floating():
            yield f"{place}: {value:.5g}"
        case "" | None | False | "none":
            return
        case _:
            yield f"{place}: {NUMBER.sub('#', str(value)) if place.startswith(OF_FEATURES) else value}"


def test_every_word_and_number_of_the_page_is_the_one_looked_at(filled: Run) -> None:
    write_probe(filled, timesteps=(0, 100))
    evidence = filled.evidence
    other = other_run(filled, lambda ap: [value - 0.05 * (-1) ** number for number, value in enumerate(ap)])
    page = compose(evidence, [other])
    assert isinstance(page, Page)
    page = replace(page, sections=[part for part in page.sections if part.anchor != "recipe"])
    here = str(filled.folder)
    lines = [line.replace(here, "HERE").replace("\n", " / ") for line in (*told(page), *summary(evidence))]
    found = filled.folder / "page.txt"
    found.write_text("\n".join(lines) + "\n", encoding="utf-8")
    expected = EXPECTED.read_text(encoding="utf-8").splitlines()
    assert list(difflib.unified_diff(expected, lines, "page.txt", str(found), lineterm="", n=0)) == []
