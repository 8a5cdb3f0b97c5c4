import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.figures.analyses import Person, Shown, attention_sheet, frequency_sheet, pca_sheet, semantics_sheet
from diffps.figures.curves import bar_chart, loss_charts, score_chart
from diffps.figures.pictures import CROP_MARGIN, crop, fit, heat, high_frequency, letterbox, normalise, overlay, pca_rgb
from diffps.figures.render import inline_svg, save
from diffps.figures.searches import box_overlaps, telling
from diffps.figures.sheets import Chart, Row, Sheet, Tile
from diffps.figures.similarity import compare_pairs, similarity_chart
from diffps.metrics.matching import box_iou
from tests.page.conftest import HOSTILE

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (90, 160, 3), dtype=np.uint8)
SVG = "{http://www.w3.org/2000/svg}"


def test_normalise_spans_zero_to_one_and_survives_what_is_no_number() -> None:
    values = normalise(np.array([[2.0, 4.0], [3.0, 6.0]]))
    assert values.min() == 0
    assert values.max() == 1
    assert not normalise(np.full((3, 3), 7.0)).any()
    assert not normalise(np.float32(0.25) + np.spacing(np.float32(0.25)) * np.arange(3)).any()
    assert np.isfinite(normalise(np.array([np.nan, np.inf, 1.0, 2.0]))).all()


def test_heat_runs_from_dark_to_bright() -> None:
    brightness = heat(np.linspace(0, 1, 50)[None]).astype(int).sum(axis=-1)[0]
    assert (np.diff(brightness) >= 0).all()


def test_an_overlay_is_bright_where_the_map_is_high() -> None:
    grey = np.full((64, 64, 3), 100, np.uint8)
    grid = np.zeros((8, 8))
    grid[1, 6] = 1
    shown = overlay(grey, grid)
    assert shown.shape == grey.shape
    assert shown[8:16, 48:56].mean() > shown[40:, :32].mean() + 20


def test_pca_finds_the_three_directions_that_vary() -> None:
    colours = RNG.uniform(size=(10, 12, 3)) * [9, 5, 2]
    mixing, _ = np.linalg.qr(RNG.normal(size=(20, 20)))
    (picture,) = pca_rgb([colours @ mixing[:3]])
    for channel in range(3):
        found = np.corrcoef(picture[..., channel].ravel(), colours[..., channel].ravel())[0, 1]
        assert abs(found) > 0.95


def test_pca_is_fitted_together_and_takes_any_number_of_channels() -> None:
    low, high = np.zeros((4, 4, 2)), np.ones((5, 3, 2))
    first, second = pca_rgb([low, high])
    assert first.shape == (4, 4, 3)
    assert second.shape == (5, 3, 3)
    assert first[0, 0, 0] != second[0, 0, 0]


def test_high_frequency_energy_is_that_of_fine_structure() -> None:
    rows, columns = np.mgrid[:16, :24]
    board = ((rows + columns) % 2).astype(float)[..., None]
    wave = np.sin(2 * np.pi * rows / 16)[..., None]
    assert high_frequency(board)[1] == pytest.approx(1)
    assert high_frequency(wave)[1] == pytest.approx(0, abs=1e-12)
    assert high_frequency(np.ones((8, 8, 3)))[1] == 0
    energy, share = high_frequency(board + wave)
    assert energy.sum() == pytest.approx(share * np.square(board + wave - (board + wave).mean()).sum(), rel=1e-6)


@given(st.tuples(*[st.floats(-50, 250)] * 4))
def test_a_crop_is_never_empty_nor_larger_than_asked(corners: tuple[float, float, float, float]) -> None:
    x1, y1, x2, y2 = corners
    box = [min(x1, x2), min(y1, y2), max(x1, x2) + 1, max(y1, y2) + 1]
    height, width, _ = crop(IMAGE, box, longest=64).shape
    assert 1 <= height <= 64
    assert 1 <= width <= 64


@given(st.tuples(*[st.integers(0, 60)] * 4))
def test_a_crop_shows_all_of_its_box_that_lies_in_the_image(corners: tuple[int, ...]) -> None:
    """Pixels that hold their own place: first and last of the crop say where it was cut."""
    x1, y1, x2, y2 = min(corners[::2]), min(corners[1::2]), max(corners[::2]) + 1, max(corners[1::2]) + 1
    rows, columns = np.mgrid[:61, :61]
    image = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    found = crop(image, (x1, y1, x2, y2), longest=61)
    (top, left, _), (bottom, right, _) = found[0, 0].tolist(), found[-1, -1].tolist()
    margin = round((y2 - y1) * CROP_MARGIN)
    assert 0 <= y1 - top <= margin + 1
    assert 0 <= x1 - left <= margin + 1
    assert 0 <= bottom + 1 - y2 <= margin + 1
    assert 0 <= right + 1 - x2 <= margin + 1
    assert found.shape[:2] == (bottom + 1 - top, right + 1 - left)


@given(*[st.integers(1, 400)] * 4)
def test_a_frame_holds_the_whole_image_in_its_middle(height: int, width: int, rows: int, columns: int) -> None:
    found = letterbox(np.zeros((height, width, 3), np.uint8), columns, rows)
    assert found.shape == (rows, columns, 3)
    black = found[..., 0] == 0
    inside = np.ix_(black.any(1), black.any(0))
    assert black[inside].all()
    sides = np.array([black.any(1).sum(), black.any(0).sum()])
    assert (sides == (rows, columns)).any()  # it touches two edges
    factor = min(rows / height, columns / width)
    assert np.abs(sides - np.maximum(1, np.multiply((height, width), factor))).max() <= 0.5
    for axis, side in enumerate((rows, columns)):
        there = np.flatnonzero(black.any(1 - axis))
        assert abs(there[0] - (side - 1 - there[-1])) <= 1


def test_frames_keep_the_shape_of_what_is_in_them() -> None:
    assert fit(IMAGE, 80).shape == (45, 80, 3)
    assert fit(IMAGE, 500) is IMAGE
    assert letterbox(IMAGE, 50, 100).shape == (100, 50, 3)


def boxes(count: int) -> np.ndarray:
    corners = RNG.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + RNG.uniform(5, 60, (count, 2))], axis=1).astype(np.float32)


def test_overlaps_are_those_of_the_metrics() -> None:
    first, second = boxes(6), boxes(9)
    expected = [[box_iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(box_overlaps(first, second), expected, atol=1e-6)


def test_a_median_a_good_and_a_bad_query_come_first() -> None:
    values = RNG.permutation(101) / 100
    chosen = [(label, values[place]) for label, place in telling(values, 5)]
    assert chosen[:3] == [("A median query", 0.5), ("A good query", 0.9), ("A bad query", 0.1)]
    assert [label for label, _ in chosen[3:]] == ["Another query"] * 2
    assert len(telling(values[:2], 5)) == 2
    assert telling(values[:0], 5) == []


@given(st.lists(st.floats(0, 1), max_size=40), st.integers(1, 12))
def test_no_query_is_shown_twice(values: list[float], count: int) -> None:
    places = [place for _, place in telling(np.array(values), count)]
    assert len(set(places)) == len(places) == min(count, len(values))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5])
def test_pairs_are_every_pair_from_two_scenes(rate: float) -> None:
    vectors = RNG.normal(size=(40, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    names, places = RNG.integers(-1, 5, 40), RNG.integers(0, 12, 40)
    pairs = compare_pairs(vectors, names, places, rate)
    assert pairs is not None
    same, different = [], []
    for a in range(40):
        for b in range(a + 1, 40):
            if min(names[a], names[b]) >= 0 and places[a] != places[b]:
                (same if names[a] == names[b] else different).append(vectors[a] @ vectors[b])
    np.testing.assert_allclose(pairs.same, sorted(same), atol=1e-6)
    np.testing.assert_allclose(pairs.different, sorted(different), atol=1e-6)
    assert np.mean(pairs.different >= pairs.threshold) == pairs.false_match_rate <= rate
    assert np.mean(pairs.different >= pairs.threshold - 1e-6) + 1 / len(pairs.different) > rate  # no lower one will do
    assert pairs.true_match_rate == np.mean(pairs.same >= pairs.threshold)


def test_with_few_pairs_the_threshold_lets_none_through() -> None:
    vectors = np.eye(4, dtype=np.float32)
    pairs = compare_pairs(vectors, np.array([1, 1, 2, 3]), np.arange(4), 0.01)
    assert pairs is not None
    assert pairs.false_match_rate == 0
    assert pairs.threshold > 0
    assert " 0.0 % of pairs of different persons" in similarity_chart(pairs).note


def test_pairs_of_one_kind_only_are_no_pairs() -> None:
    vectors = np.eye(4, dtype=np.float32)
    assert compare_pairs(vectors, np.array([1, 2, 3, 4]), np.arange(4), 0.1) is None
    assert compare_pairs(vectors, np.full(4, -1), np.arange(4), 0.1) is None
    with pytest.raises(ConfigError, match="false_match_rate"):
        compare_pairs(vectors, np.arange(4), np.arange(4), 0)


def test_loss_curves_leave_out_what_is_no_number() -> None:
    total, parts = loss_charts(
        {"step": list(range(1000)), "total": [1.0] * 1000, "a": [np.nan] * 1000, "b": [0.0] * 1000}
    )
    assert len(total.lines[0].x) == 400
    assert [line.label for line in parts.lines] == ["b"]
    assert not parts.log_y


def charts() -> list[Chart]:
    return [
        score_chart(HOSTILE, "t", {HOSTILE: [(1, 0.5), (0, 0.4)], "b": [(0, 0.1), (1, 0.2)]}),
        bar_chart("bars", "score", {"one": [(HOSTILE, 0.3), ("b", 0.2)], "two": [(HOSTILE, 0.1), ("b", 0.5)]}),
        *loss_charts({"step": [1, 2, 3], "total": [100.0, 1.0, 0.1]}),
    ]


def test_inline_charts_are_well_formed_and_bring_their_own_ids_only() -> None:
    for index, chart in enumerate(charts()):
        svg = inline_svg(chart, f"name{index}")
        root = ET.fromstring(svg)
        ids = [element.get("id") for element in root.iter() if element.get("id")]
        assert len(set(ids)) == len(ids)
        assert all(name.startswith(f"name{index}-") for name in ids)
        for element in root.iter():
            target = element.get("href")
            assert target is None or target[1:] in ids
            assert element.tag.removeprefix(SVG) not in {"script", "style", "metadata", "foreignObject"}
        assert root.get("viewBox")
        assert root.get("width") is None
        assert "var(--ink)" in svg
        assert svg == inline_svg(chart, f"name{index}")


def test_files_are_written_as_png_and_svg(tmp_path: Path) -> None:
    sheet = Sheet(
        title=HOSTILE, rows=(Row(label=HOSTILE, tiles=(Tile(image=IMAGE, caption="$x", mark="right"),)),), tall=True
    )
    for number, picture in enumerate([sheet, *charts()]):
        png, svg = save(picture, tmp_path / "figures", str(number))
        assert png.read_bytes().startswith(b"\x89PNG")
        assert ET.parse(svg).getroot().tag == f"{SVG}svg"
    assert HOSTILE in "".join(ET.parse(tmp_path / "figures/0.svg").getroot().itertext())


def test_sheets_have_a_row_per_scene_and_say_what_they_show() -> None:
    scenes = [Shown(scene_id="a", image=IMAGE), Shown(scene_id="b", image=IMAGE)]
    maps = {"person": [RNG.uniform(size=(8, 8))] * 2, "head": [RNG.uniform(size=(4, 4))] * 2}
    features = [RNG.normal(size=(6, 9, 12)) for _ in range(2)]
    sheets = {
        3: attention_sheet(scenes, maps),
        2: pca_sheet(scenes, {"tap": features}),
        5: frequency_sheet(scenes, features, features),
    }
    for columns, sheet in sheets.items():
        assert [row.label for row in sheet.rows] == ["a", "b"]
        assert all(len(row.tiles) == columns for row in sheet.rows)
        assert all(tile.alt and tile.image.dtype == np.uint8 for row in sheet.rows for tile in row.tiles)


def test_semantics_show_maps_in_their_own_cells_on_fixed_scales() -> None:
    roi, similarity = RNG.normal(size=(6, 3, 5)), np.full((6, 3), 0.25)
    similarity[0] = 1
    scene = Shown(scene_id="a", image=IMAGE)
    words = {"head": similarity, "shoes": np.full((6, 3), 0.2501) + 1e-5 * RNG.random((6, 3))}
    person = Person(
        scene=scene,
        box=np.array([10, 10, 40, 80]),
        before=roi,
        similarities=words,
        gate=np.full((6, 3), 0.5),
        after=roi,
    )
    (row,) = semantics_sheet([person]).rows
    captions = [tile.caption for tile in row.tiles]
    assert captions == ["person", "before", "head 0.250–1.000", "shoes 0.250", "gate 0.500", "after"]
    head, shoes, gate = (tile.image for tile in row.tiles[2:5])
    quarter = heat(np.full((1, 1), 0.25))[0, 0]
    assert (head[:32] == heat(np.ones((1, 1)))[0, 0]).all()
    assert (head[32:] == quarter).all()
    assert (gate == quarter).all()
    assert np.abs(shoes.astype(int) - quarter).max() <= 1  # nothing is stretched


def test_semantics_say_why_the_map_hardly_moves() -> None:
    """The identity, checked on numbers, for as many words as there are."""
    roi, words = RNG.normal(size=(6, 3, 5)), RNG.dirichlet(np.ones(3), size=(6, 3))
    weights = RNG.dirichlet(np.ones(3))
    person = Person(
        scene=Shown(scene_id="a", image=IMAGE),
        box=np.array([10, 10, 40, 80]),
        before=roi,
        similarities={name: words[..., at] for at, name in enumerate(("head", "pants", "shoes"))},
        gate=np.ones((6, 3)),
        after=roi,
    )
    np.testing.assert_allclose(words @ weights, 1 / 3 + (words - 1 / 3) @ (weights - 1 / 3))
    assert "Σ w S = 1/3 + Σ (w - 1/3) (S - 1/3)" in semantics_sheet([person]).note


def test_the_similarity_chart_names_its_threshold() -> None:
    vectors = RNG.normal(size=(60, 4))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    pairs = compare_pairs(vectors, RNG.integers(0, 6, 60), np.arange(60), 0.05)
    assert pairs is not None
    chart = similarity_chart(pairs)
    assert f"{100 * pairs.false_match_rate:.1f} % of pairs of different" in chart.note
    for line in chart.lines:
        assert np.trapezoid(line.y, line.x) == pytest.approx(1, abs=1e-3)
