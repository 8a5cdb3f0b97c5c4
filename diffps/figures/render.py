"""Sheets and charts drawn by matplotlib: files for papers and slides, and inline SVG in the colours of its page."""

import io
import re
from math import ceil
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from diffps.figures.pictures import letterbox
from diffps.figures.sheets import Chart, Heat, Line, Picture, Row, Sheet

# Okabe and Ito's colours, told apart with every kind of colour vision; the dashes tell the lines apart without colour.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":", "-.", (0, (6, 1, 1, 1)), (0, (1, 1)))
INK, FAINT, RIGHT, WRONG = "#222222", "#8a8a8a", "#007a55", "#b3400a"
CHART_INCHES, FLAT_INCHES = (4.4, 2.7), (4.4, 1.7)
LEGEND_LETTERS = 56  # that fit beside each other in the width of a chart, four of them for each line's sample
TILE_INCHES, TALL_INCHES = (1.9, 1.9), (1.0, 1.9)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "diffps",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,
}


def draw(picture: Picture) -> Figure:
    """The picture as a matplotlib figure on a transparent ground."""
    with matplotlib.rc_context(STYLE):
        return _chart(picture) if isinstance(picture, Chart) else _sheet(picture)


def save(picture: Picture, folder: Path, name: str) -> tuple[Path, Path]:
    """Writes ``name``.png and ``name``.svg into the folder, white behind both; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.png", folder / f"{name}.svg"
    figure = draw(picture)
    with matplotlib.rc_context(STYLE):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=160, facecolor="white", bbox_inches="tight", metadata=metadata)
    return paths


def inline_svg(chart: Chart, name: str) -> str:
    """The chart as an ``<svg>`` element: scales with its container, takes colours from the page's custom properties
    (``--ink``, ``--faint``, ``--series-1`` ...), ids prefixed with ``name`` so that several fit on one page."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = _chart(chart, title=False)
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    svg = buffer.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</defs>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg)
    svg = re.sub(r' id="([^"]*)"', rf' id="{name}-\1"', svg)
    svg = re.sub(r'(xlink:href="|url\()#', rf"\1#{name}-", svg).replace("xlink:href", "href")
    svg = re.sub(r' (?:xmlns:xlink|version)="[^"]*"', "", svg)
    colours = {INK: "ink", FAINT: "faint", **{colour: f"series-{i + 1}" for i, colour in enumerate(SERIES)}}
    for colour, variable in colours.items():
        svg = svg.replace(colour, f"var(--{variable})")
    svg = re.sub(r"font: ([\d.]+)px[^;\"]*", r"font-size: \1px", svg)
    return svg.replace("<svg", '<svg aria-hidden="true" focusable="false"', 1)


def _chart(chart: Chart, *, title: bool = True) -> Figure:
    if chart.heat is not None:
        return _heat(chart, chart.heat, title=title)
    values = max((len(bar.values) for bar in chart.bars), default=0)
    width, least = FLAT_INCHES if chart.flat else CHART_INCHES
    height = max(least, 0.9 + 0.24 * values * len(chart.bars))
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    if chart.bars:
        _bars(axes, chart)
    for index, line in enumerate(chart.lines):
        _line(axes, line, index)
    for position, label in chart.markers:
        axes.axvline(position, color=INK, linewidth=1, linestyle=(0, (2, 2)), label=label)
    if chart.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    for axis, name in ((axes.xaxis, "x"), (axes.yaxis, "y")):
        if name in chart.shares:
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    labels = [line.label for line in chart.lines] + [bar.label for bar in chart.bars]
    labels += [label for _, label in chart.markers]
    if len(labels) > 1:
        columns = max(1, min(len(labels), LEGEND_LETTERS // (4 + max(map(len, labels)))))
        columns = ceil(len(labels) / ceil(len(labels) / columns))  # as many in the last row as in the others
        axes.legend(
            frameon=False, ncols=columns, fontsize=8.5, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2
        )
    if title:
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11)
    return figure


def _line(axes: Axes, line: Line, index: int) -> None:
    colour = SERIES[index % len(SERIES)]
    style = DASHES[index % len(DASHES)]
    axes.plot(
        line.x,
        line.y,
        color=colour,
        linestyle=style if line.joined else "",
        linewidth=1.6,
        drawstyle="steps-post" if line.steps else "default",
        label=line.label,
        marker="o" if line.points else "",
        markersize=4,
    )
    if line.area:
        axes.fill_between(line.x, line.y, color=colour, alpha=0.22, linewidth=0)


def _heat(chart: Chart, heat: Heat, *, title: bool) -> Figure:
    letters = max(map(len, heat.rows), default=0)
    size = 0.4 + 0.075 * letters + 0.3 * len(heat.columns), 1.3 + 0.19 * len(heat.rows)
    figure = Figure(figsize=(max(CHART_INCHES[0], size[0]), size[1]), layout="constrained")
    axes = figure.add_subplot()
    for row, values in enumerate(heat.values):
        for column, value in enumerate(values):
            if value is None:
                continue
            share = (value - heat.low) / (heat.high - heat.low) if heat.high > heat.low else 1.0
            place = column - 0.46, row - 0.46
            shade = 0.06 + 0.94 * min(1.0, max(0.0, share))
            axes.add_patch(Rectangle(place, 0.92, 0.92, facecolor=SERIES[0], alpha=shade, linewidth=0))
            if (row, column) in heat.marked:
                axes.add_patch(Rectangle(place, 0.92, 0.92, facecolor="none", edgecolor=SERIES[1], linewidth=1.8))
    axes.set_xlim(-0.5, len(heat.columns) - 0.5)
    axes.set_ylim(len(heat.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(heat.columns)), heat.columns, rotation=90, fontsize=8)
    axes.set_yticks(range(len(heat.rows)), heat.rows, fontsize=8)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    if title:
        figure.suptitle(chart.title, x=0.01, ha="left", fontsize=11)
    return figure


def _bars(axes: Axes, chart: Chart) -> None:
    names = [name for name, _ in chart.bars[0].values]
    thickness = 0.8 / len(chart.bars)
    for index, bar in enumerate(chart.bars):
        places = np.arange(len(names)) + (index - (len(chart.bars) - 1) / 2) * thickness
        lengths = [value for _, value in bar.values]
        axes.barh(places, lengths, thickness * 0.9, color=SERIES[index % len(SERIES)], label=bar.label)
        for place, length in zip(places, lengths, strict=True):
            text = f"{100 * length:.1f} %" if "x" in chart.shares else f"{length:.3g}"
            axes.annotate(text, (length, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(np.arange(len(names)), names, fontsize=9)
    axes.invert_yaxis()


def _sheet(sheet: Sheet) -> Figure:
    columns = max((len(row.tiles) for row in sheet.rows), default=1)
    width, height = TALL_INCHES if sheet.tall else TILE_INCHES
    figure = Figure(
        figsize=(max(4.0, width * columns), (height + 0.55) * max(1, len(sheet.rows)) + 0.4), layout="constrained"
    )
    figure.suptitle(sheet.title, x=0.01, ha="left", fontsize=12)
    bands = np.atleast_1d(np.asarray(figure.subfigures(max(1, len(sheet.rows)), 1)))
    for band, row in zip(bands, sheet.rows, strict=False):
        band.suptitle("   ".join(filter(None, (row.label, row.remark))), x=0.01, ha="left", fontsize=9, color=INK)
        _tiles(band.subplots(1, columns, squeeze=False)[0], row, tall=sheet.tall)
    return figure


def _tiles(places: "np.ndarray[tuple[int], np.dtype[np.object_]]", row: Row, *, tall: bool) -> None:
    for axes in places:
        axes.set_axis_off()
    for axes, tile in zip(places, row.tiles, strict=False):
        axes.imshow(letterbox(tile.image, 128, 256) if tall else tile.image, interpolation="nearest")
        sign = {"right": "\u2713 ", "wrong": "\u2717 ", "none": ""}[tile.mark]
        colour = {"right": RIGHT, "wrong": WRONG, "none": INK}[tile.mark]
        axes.text(
            0.5, -0.03, sign + tile.caption, transform=axes.transAxes, fontsize=8, va="top", ha="center", color=colour
        )
