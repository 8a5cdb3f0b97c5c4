"""What the page says, before it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from diffps.figures.sheets import Chart, Sheet, Tile
from stages.text import percent


class Cell(NamedTuple):
    """A table's cell that is sorted by a number and reads otherwise."""

    value: float | None
    text: str

    def __str__(self) -> str:
        return self.text


def share(value: float | None) -> Cell:
    """A fraction in percent."""
    return Cell(value, percent(value))


def change(value: float | None, error: float | None = None) -> Cell:
    """A difference of fractions in points of a percentage, with its standard error where there is one."""
    if value is None:
        return Cell(None, "–")
    return Cell(value, f"{100 * value:+.1f} points" + ("" if error is None else f" ± {100 * error:.1f}"))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One bar of a comparison: a fraction in [0, 1], and its text where it does not stand elsewhere."""

    label: str
    share: float
    text: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """A large number with its name, its interval, and bars of what it compares to, the number's own first."""

    label: str
    value: str
    interval: str = ""
    remark: str = ""
    bars: Sequence[Bar] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """The first picture: somebody who is looked for, the scene they were found in, and what is to be seen."""

    query: Tile
    scene: Tile
    note: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A sortable table. Numbers sort as numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page below the first screen; ``sentences`` say what may be concluded from it, ``facts`` stand by
    name, ``recipe`` by section and folded."""

    anchor: str
    title: str
    lead: str = ""
    sentences: Sequence[str] = ()
    sheets: "Sequence[Sheet]" = ()
    charts: "Sequence[Chart]" = ()
    tables: Sequence[Table] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The whole page. ``warnings`` are what a reader must know before believing a number; ``quality`` heads the main
    numbers, ``quality_note`` says how to read them."""

    title: str
    eyebrow: str
    task: str
    example: Example | None
    lead: str
    warnings: Sequence[str]
    quality: str
    quality_note: str
    headlines: Sequence[Headline]
    precision_chart: Chart | None
    saving: Sequence[Headline]
    saving_text: str
    saving_chart: Chart | None
    sections: Sequence[Section]
