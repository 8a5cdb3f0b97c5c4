"""Sheets, charts and numbers to one HTML file that asks for nothing else: no network, no second file."""

import base64
import hashlib
import io
import math
from functools import partial
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image as Pil

from diffps.figures.render import inline_svg
from diffps.figures.sheets import Chart, Image, Sheet
from stages.page.content import Cell, Page
from stages.text import percent

QUALITIES = 82, 65, 45, 30  # of JPEG, the best first: the page is written with the first that fits
MOST_BYTES = 1_900_000


def render(page: Page) -> str:
    """The page as text, below two megabytes where any quality of its pictures allows it."""
    html = ""
    for quality in QUALITIES:
        html = _render(page, quality)
        if len(html.encode()) <= MOST_BYTES:
            break
    return html


def _render(page: Page, quality: int) -> str:
    """Everything that comes from data is escaped; the policy in the page's head forbids any request."""
    folder = files("stages.page")
    style, script, template = ((folder / name).read_text("utf-8") for name in ("page.css", "page.js", "page.html.j2"))
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update(
        picture=partial(picture, quality=quality), vector=vector, percent=percent, number=number, few=few
    )
    environment.tests.update(paired=paired, cell=is_cell)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    parts = {"style": style, "script": script, "policy": policy}
    return environment.from_string(template).render(page=page, **parts)


def picture(image: Image, quality: int = QUALITIES[0]) -> str:
    """An image as a data URI, in whichever of PNG and JPEG is smaller."""
    encoded = {}
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": quality, "optimize": True})):
        buffer = io.BytesIO()
        Pil.fromarray(image).save(buffer, kind, **options)
        encoded[kind] = buffer.getvalue()
    kind = min(encoded, key=lambda name: len(encoded[name]))
    return f"data:image/{kind};base64,{base64.b64encode(encoded[kind]).decode()}"


def vector(chart: Chart, name: str) -> str:
    """A chart as inline SVG; matplotlib has escaped its texts."""
    return inline_svg(chart, name)


def number(value: Any) -> str:
    """A table's cell: numbers short, anything else as it is."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def is_cell(value: Any) -> bool:
    """True for a cell that reads otherwise than it sorts."""
    return isinstance(value, Cell)


def few(tiles: int, tall: bool, together: int = 1) -> int:
    """Columns on a phone: one group of tiles that belong ``together``, else as many as leave the fewest gaps, four or
    five persons or two to four scenes."""
    if together > 1:
        return together
    choices = (4, 5) if tall else (2, 3, 4)
    wanted = [columns for columns in choices if columns * 3 >= tiles] or [max(choices)]
    return min(wanted, key=lambda columns: (-tiles % columns, -columns if tall else columns))


def paired(sheet: Sheet) -> bool:
    """True where rows are so short that several fit beside each other."""
    return all(len(row.tiles) <= 2 for row in sheet.rows)
