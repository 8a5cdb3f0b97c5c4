"""What stands in a drawn chart or sheet: lines, bars, shades, legends and captions, as matplotlib holds them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure, SubFigure
from PIL import Image as Pil

from diffps.figures.curves import bar_chart
from diffps.figures.pictures import letterbox
from diffps.figures.render import DASHES, INK, SERIES, STYLE, draw, inline_svg, save
from diffps.figures.sheets import Chart, Heat, Line, Row, Sheet, Tile

IMAGE = np.arange(90 * 160 * 3, dtype=np.uint8).reshape(90, 160, 3)


def axes_of(chart: Chart) -> Axes:
    (axes,) = draw(chart).axes
    return axes


def test_lines_are_told_apart_by_colour_and_dash() -> None:
    lines = tuple(Line(label=f"l{number}", x=[0, 1], y=[1, number]) for number in range(7))
    axes = axes_of(Chart(title="t", x_label="steps", y_label="loss", lines=lines))
    assert [line.get_color() for line in axes.lines] == [*SERIES, SERIES[0]]
    plain = Axes.plot(draw(Chart(title="", x_label="")).axes[0], [0], [0], linestyle=DASHES[4], linewidth=1.6)[0]
    assert axes.lines[4]._dash_pattern == plain._dash_pattern
    assert [line.get_linestyle() for line in axes.lines[:4]] == list(DASHES[:4])
    assert {(line.get_linewidth(), line.get_marker(), line.get_drawstyle()) for line in axes.lines} == {
        (1.6, "", "default")
    }
    assert axes.lines[3].get_ydata().tolist() == [1, 3]
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("steps", "loss", "linear")
    assert not axes.collections


def test_a_line_may_be_filled_stepped_or_points_alone() -> None:
    lines = (
        Line(label="a", x=[0, 1], y=[0.5, 1], area=True, steps=True),
        Line(label="b", x=[0, 1], y=[0.5, 1], points=True, joined=False),
    )
    axes = axes_of(Chart(title="t", x_label="x", lines=lines, markers=((0.25, "here"),), shares="y"))
    first, second, marker = axes.lines
    assert (first.get_drawstyle(), first.get_marker(), first.get_linestyle()) == ("steps-post", "", "-")
    assert (second.get_drawstyle(), second.get_marker(), second.get_linestyle()) == ("default", "o", "None")
    assert second.get_markersize() == 4
    (area,) = axes.collections
    assert (to_hex(area.get_facecolor()[0]), area.get_alpha(), area.get_linewidth()[0]) == (SERIES[0], 0.22, 0)
    assert (list(marker.get_xdata()), marker.get_color(), marker.get_linewidth()) == ([0.25, 0.25], INK, 1)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["a", "b", "here"]
    assert axes.yaxis.get_major_formatter()(0.5) == "50 %"
    assert not axes.xaxis.get_major_formatter()(0.5).endswith("%")


def test_one_line_needs_no_legend_and_a_logarithm_writes_plain_numbers() -> None:
    chart = Chart(title="t", x_label="x", lines=(Line(label="a", x=[0, 1], y=[1, 1000]),), log_y=True, shares="x")
    axes = axes_of(chart)
    assert axes.get_legend() is None
    assert axes.get_yscale() == "log"
    assert axes.yaxis.get_major_formatter()(0.001) == "0.001"
    assert axes.yaxis.get_minor_formatter()(3.0) == ""
    assert axes.xaxis.get_major_formatter()(0.5) == "50 %"


@pytest.mark.parametrize(
    ("labels", "columns"),
    [
        (["a" * 24] * 2, 2),
        (["a" * 25] * 2, 1),
        (["aaaa"] * 4, 4),
        (["a" * 10] * 5, 3),
        (["a" * 10] * 4, 4),
        (["a" * 80] * 2, 1),
    ],
)
def test_a_legend_is_as_wide_as_the_chart(labels: list[str], columns: int) -> None:
    """56 letters, four of them for each line's sample; rows of even length."""
    axes = axes_of(Chart(title="t", x_label="", lines=tuple(Line(label=label, x=[0], y=[0]) for label in labels)))
    assert axes.get_legend()._ncols == columns


@pytest.mark.parametrize(
    ("chart", "size"),
    [
        (Chart(title="t", x_label=""), (4.4, 2.7)),
        (Chart(title="t", x_label="", flat=True), (4.4, 1.7)),
        (bar_chart("t", "", {"a": [("x", 0.1)] * 7}), (4.4, 2.7)),
        (bar_chart("t", "", {"a": [("x", 0.1)] * 5, "b": [("x", 0.1)] * 5}), (4.4, 0.9 + 0.24 * 10)),
    ],
)
def test_a_chart_grows_with_its_bars(chart: Chart, size: tuple[float, float]) -> None:
    assert tuple(draw(chart).get_size_inches()) == pytest.approx(size)


def test_bars_lie_beside_each_other_with_their_values() -> None:
    chart = bar_chart("t", "score", {"one": [("a", 0.25), ("b", 0.5)], "two": [("a", 0.125), ("b", 1.0)]})
    axes = axes_of(chart)
    found = [(round(bar.get_y() + bar.get_height() / 2, 6), bar.get_width()) for bar in axes.patches]
    assert found == [(-0.2, 0.25), (0.8, 0.5), (0.2, 0.125), (1.2, 1.0)]
    assert {round(bar.get_height(), 6) for bar in axes.patches} == {0.36}
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [SERIES[0]] * 2 + [SERIES[1]] * 2
    assert [text.get_text() for text in axes.texts] == ["25.0 %", "50.0 %", "12.5 %", "100.0 %"]
    assert [text.xy for text in axes.texts] == [(width, pytest.approx(y)) for y, width in found]
    assert {text.xyann for text in axes.texts} == {(3, 0)}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_yticks().tolist() == [0, 1]
    assert axes.yaxis_inverted()
    plain = axes_of(Chart(title="t", x_label="", bars=chart.bars))
    assert [text.get_text() for text in plain.texts] == ["0.25", "0.5", "0.125", "1"]


def test_a_heat_map_shades_what_is_known() -> None:
    heat = Heat(
        rows=["first", "second"],
        columns=["a", "b", "c"],
        values=[[0.0, None, 0.5], [1.0, 2.0, -1.0]],
        low=0.0,
        high=1.0,
        marked=frozenset({(0, 2)}),
    )
    figure = draw(Chart(title="named", x_label="", heat=heat))
    (axes,) = figure.axes
    shades = [patch for patch in axes.patches if patch.get_linewidth() == 0]
    places = [(round(patch.get_x() + 0.46, 6), round(patch.get_y() + 0.46, 6)) for patch in shades]
    assert places == [(0, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    assert [patch.get_alpha() for patch in shades] == pytest.approx([0.06, 0.53, 1, 1, 0.06])
    (outline,) = [patch for patch in axes.patches if patch.get_linewidth() == 1.8]
    assert (outline.get_x(), outline.get_y(), outline.get_width()) == pytest.approx((1.54, -0.46, 0.92))
    assert (to_hex(outline.get_edgecolor()), outline.get_facecolor()[3]) == (SERIES[1], 0)
    assert {(patch.get_width(), patch.get_height()) for patch in axes.patches} == {(0.92, 0.92)}
    assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 2.5), (1.5, -0.5))
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {90}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert axes.xaxis.get_ticks_position() == "top"
    assert not axes.spines["left"].get_visible()
    assert not axes.spines["bottom"].get_visible()
    assert figure.get_suptitle() == "named"
    assert tuple(figure.get_size_inches()) == pytest.approx((4.4, 1.3 + 0.19 * 2))
    wide = Heat(rows=["r" * 8], columns=["c"] * 20, values=[[None] * 20], low=0, high=1)
    assert tuple(draw(Chart(title="", x_label="", heat=wide)).get_size_inches()) == pytest.approx((7.0, 1.49))
    level = Heat(rows=["r"], columns=["c"], values=[[0.25]], low=0.25, high=0.25)
    assert [patch.get_alpha() for patch in axes_of(Chart(title="", x_label="", heat=level)).patches] == [1.0]


@pytest.mark.parametrize(("tall", "size"), [(False, (5.7, 2 * 2.45 + 0.4)), (True, (4.0, 2 * 2.45 + 0.4))])
def test_a_sheet_has_a_band_per_row(tall: bool, size: tuple[float, float]) -> None:
    tiles = tuple(Tile(image=IMAGE, caption=f"of {mark}", mark=mark) for mark in ("right", "wrong", "none"))
    rows = (Row(label="first", remark="a remark", tiles=tiles), Row(label="second", tiles=tiles[:1]))
    figure = draw(Sheet(title="named", rows=rows, tall=tall))
    assert tuple(figure.get_size_inches()) == pytest.approx(size)
    assert figure.get_suptitle() == "named"
    bands = figure.subfigs
    assert [band.get_suptitle() for band in bands] == ["first   a remark", "second"]
    first, second = bands[0].axes, bands[1].axes
    assert [text.get_text() for axes in first for text in axes.texts] == [
        "\u2713 of right",
        "\u2717 of wrong",
        "of none",
    ]
    assert [text.get_color() for axes in first for text in axes.texts] == ["#007a55", "#b3400a", INK]
    assert {text.get_position() for axes in first for text in axes.texts} == {(0.5, -0.03)}
    assert [len(axes.images) for axes in second] == [1, 0, 0]
    assert not any(axes.axison for axes in [*first, *second])
    shown = np.asarray(first[0].images[0].get_array())
    assert np.array_equal(shown, letterbox(IMAGE, 128, 256) if tall else IMAGE)


def test_a_sheet_without_rows_is_drawn_too() -> None:
    assert tuple(draw(Sheet(title="t", rows=())).get_size_inches()) == pytest.approx((4.0, 2.85))


def test_a_title_stands_in_a_file_and_not_in_a_page(tmp_path: Path) -> None:
    chart = Chart(title="of a chart", x_label="x", lines=(Line(label="a", x=[0, 1], y=[0, 1]),))
    png, svg = save(chart, tmp_path / "not" / "there", "name")
    assert (png.name, svg.name) == ("name.png", "name.svg")
    with Pil.open(png) as image:
        assert image.info["dpi"] == pytest.approx((160, 160), abs=0.1)
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert "of a chart" in svg.read_text()
    assert "dc:date" not in svg.read_text()
    before = svg.read_bytes()
    save(chart, tmp_path / "not" / "there", "name")
    assert svg.read_bytes() == before
    inline = inline_svg(chart, "n")
    assert "of a chart" not in inline
    assert inline.startswith('<svg aria-hidden="true" focusable="false"')
    assert inline.count("aria-hidden") == 1
    assert "var(--series-1)" in inline
    assert "font-size:" in inline
    assert "#ffffff" not in inline
    heat = Chart(title="of a heat map", x_label="", heat=Heat(rows=["r"], columns=["c"], values=[[1]], low=0, high=1))
    assert "of a heat map" not in inline_svg(heat, "n")


def test_letters_are_as_large_as_their_place_allows() -> None:
    def title(figure: Figure | SubFigure) -> tuple[float, float, str]:
        (text,) = [text for text in figure.texts if text.get_text()]
        return text.get_position()[0], text.get_fontsize(), text.get_ha()

    bars = bar_chart("t", "", {"a": [("x", 0.1)], "b": [("x", 0.2)]})
    figure = draw(bars)
    (axes,) = figure.axes
    assert title(figure) == (0.01, 11, "left")
    assert {(text.get_fontsize(), text.get_va()) for text in axes.texts} == {(8, "center")}
    assert {label.get_fontsize() for label in axes.get_yticklabels()} == {9}
    legend = axes.get_legend()
    assert {text.get_fontsize() for text in legend.get_texts()} == {8.5}
    assert (legend.get_frame_on(), legend.borderaxespad) == (False, 0.2)
    assert legend.get_bbox_to_anchor().transformed(axes.transAxes.inverted()).p0.tolist() == pytest.approx([0, 1])
    heat = draw(Chart(title="t", x_label="", heat=Heat(rows=["r"], columns=["c"], values=[[1]], low=0, high=1)))
    assert title(heat) == (0.01, 11, "left")
    (axes,) = heat.axes
    assert {label.get_fontsize() for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]} == {8}
    assert {tick.get_tick_params()["length"] for tick in (axes.xaxis, axes.yaxis)} == {0}
    sheet = draw(Sheet(title="t", rows=(Row(label="row", tiles=(Tile(image=IMAGE, caption="under"),)),)))
    assert title(sheet) == (0.01, 12, "left")
    (band,) = sheet.subfigs
    assert title(band) == (0.01, 9, "left")
    (text,) = band.axes[0].texts
    assert (text.get_fontsize(), text.get_va(), text.get_ha()) == (8, "top", "center")
    assert text.get_transform() == band.axes[0].transAxes
    assert STYLE["font.size"] == 9
    assert not any(STYLE[name] for name in ("axes.spines.top", "axes.spines.right", "text.parse_math"))
