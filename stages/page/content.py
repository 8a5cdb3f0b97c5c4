"""What the page says, before it is HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffps.figures.sheets import Chart, Sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One line of the comparison: fractions in [0, 1], None where the method has none. ``main`` is the run itself."""

    name: str
    mean_precision: float | None
    top1: float | None
    detection: float | None = None
    main: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """A large number with its name and what it compares to."""

    label: str
    value: str
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """A sortable table. Numbers sort as numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A part of the page below the first screen; ``sentences`` say what may be concluded from it."""

    anchor: str
    title: str
    lead: str = ""
    sentences: Sequence[str] = ()
    sheets: "Sequence[Sheet]" = ()
    charts: "Sequence[Chart]" = ()
    tables: Sequence[Table] = ()
    recipe: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The whole page. ``warnings`` are what a reader must know before believing a number."""

    title: str
    eyebrow: str
    lead: str
    warnings: Sequence[str]
    headlines: Sequence[Headline]
    scores: Sequence[Score]
    precision_chart: Chart | None
    saving: Sequence[Headline]
    saving_text: str
    saving_chart: Chart | None
    sections: Sequence[Section]
