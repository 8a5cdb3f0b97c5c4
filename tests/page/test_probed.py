"""The probe on the page, from a made-up table."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from diffps.figures.render import inline_svg
from diffps.figures.sheets import Chart, Heat, Line
from stages.page import probed
from stages.page.evidence import NotThereError
from stages.page.figures import make
from tests.page.conftest import HOSTILE, Run
from tests.page.made_probe import write_probe


def test_without_a_probe_there_is_no_section(run: Run) -> None:
    with pytest.raises(NotThereError, match="run: diffps probe"):
        make("probe", run.evidence)
    run.report()
    assert 'id="probe"' not in (run.folder / "results/report/index.html").read_text()


def test_the_section_has_its_sentences_charts_and_tables(run: Run) -> None:
    write_probe(run)
    run.report()
    html = (run.folder / "results/report/index.html").read_text()
    part = html.split('<section class="part" id="probe"')[1].split("</section>")[0]
    assert "4 taps at timestep 0." in part
    assert HOSTILE not in part
    for title in ("re-ID mAP by block and module", "AP of windows against bytes", "What taps share"):
        assert title in part
    assert "builtin:random: up-level3-repeat0-vit-block0-out" in part
    assert part.count("<table") == 3


def test_heat_maps_have_a_place_for_every_tap_and_outline_the_parameters(run: Run) -> None:
    write_probe(run)
    first = probed.charts(run.evidence)[0]
    assert isinstance(first, Chart)
    assert first.heat is not None
    heat = first.heat
    assert heat.rows == ["up-level3-repeat0", "up-level1-repeat2"]
    assert heat.columns == ["self-k", "block-out", "vit-out", "res-out"]
    assert heat.values == [[0.40, 0.55, 0.5, None], [None, None, None, 0.2]]
    assert heat.marked == {(0, 0)}
    assert "55.0 %, at up-level3-repeat0-vit-block0-out" in first.summary


def test_the_front_holds_what_is_best_for_its_bytes(run: Run) -> None:
    write_probe(run)
    chart = next(each for each in probed.charts(run.evidence) if each.title == "re-ID mAP against bytes")
    assert not [each.title for each in probed.charts(run.evidence) if "over timesteps" in each.title]  # there is one
    front = next(line for line in chart.lines if line.label == "best for its bytes")
    assert list(zip(front.x, front.y, strict=True)) == [(0.1, 0.2), (0.5, 0.55)]
    table = pq.read_table("results/probe/table.parquet").to_pylist()
    for row in table:  # no better than another for more bytes
        if row["name"].endswith("vit-out"):
            row.update(megabytes=0.9, reid_map=0.55)
    run.table("results/probe/table.parquet", {name: [row[name] for row in table] for name in table[0]})
    chart = next(each for each in probed.charts(run.evidence) if each.title == "re-ID mAP against bytes")
    assert list(chart.lines[1].x) == [0.1, 0.5]


def test_timesteps_have_a_curve_where_there_are_several(run: Run) -> None:
    write_probe(run, (0, 100, 300))
    charts = {each.title: each for each in probed.charts(run.evidence)}
    best, one = charts["re-ID mAP over timesteps"].lines
    assert best.x == [0, 100, 300]
    np.testing.assert_allclose(best.y, [0.55, 0.45, 0.25])
    assert one.label == "up-level3-repeat0-vit-block0-out"


def test_the_curve_of_the_best_is_what_is_told_of_timesteps(run: Run) -> None:
    write_probe(run, (0, 100, 300))
    table = pq.read_table("results/probe/table.parquet").to_pylist()
    for row in table:  # another tap is best at the last of them
        if row["timestep"] == 300 and row["name"].endswith("res-out"):
            row["reid_map"] = 0.5
    run.table("results/probe/table.parquet", {name: [row[name] for row in table] for name in table[0]})
    chart = next(each for each in probed.charts(run.evidence) if each.title == "re-ID mAP over timesteps")
    assert [line.y[-1] for line in chart.lines] == [0.5, pytest.approx(0.25)]
    assert chart.summary == "55.0 % at 0, 45.0 % at 100, 50.0 % at 300."


def test_without_re_id_detection_is_shown_alone(run: Run) -> None:
    write_probe(run, reid=False)
    titles = [each.title for each in probed.charts(run.evidence)]
    assert titles == ["AP of windows by block and module", "AP of windows against bytes"]
    run.report()


def test_a_heat_map_is_drawn_in_the_colours_of_its_page() -> None:
    heat = Heat(rows=["a", "b"], columns=["c"], values=[[0.2], [None]], low=0, high=1, marked=frozenset({(0, 0)}))
    svg = inline_svg(Chart(title="t", x_label="", heat=heat), "x")
    assert svg.count("var(--series-1)") == 1
    assert svg.count("var(--series-2)") == 1
    assert "opacity" in svg


def test_points_need_not_be_joined() -> None:
    lines = tuple(Line(label=name, x=[0, 1], y=[0, 1], points=True, joined=name == "b") for name in "ab")
    drawn = [inline_svg(Chart(title="t", x_label="x", lines=(line,)), "x") for line in lines]
    assert len(drawn[0]) < len(drawn[1])
