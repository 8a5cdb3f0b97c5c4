"""Arrays become pictures by the numbers that are said, and every picture says in words what it shows."""

from dataclasses import replace

import numpy as np
import pytest

from diffps.figures.analyses import Person, Shown, attention_sheet, frequency_sheet, pca_sheet, semantics_sheet
from diffps.figures.curves import LOG_SPAN, bar_chart, loss_charts, score_chart
from diffps.figures.pictures import (
    HEAT,
    crop,
    fit,
    heat,
    high_frequency,
    letterbox,
    normalise,
    overlay,
    pca_rgb,
    principal_axes,
    resize,
)
from diffps.figures.scenes import placeholder, scene_tile
from diffps.figures.searches import Find, Search, failures_sheet, ranking_sheet, telling
from diffps.figures.similarity import MOST_EMBEDDINGS, compare_pairs, histogram, similarity_chart

IMAGE = np.random.default_rng(0).integers(0, 255, (300, 600, 3), dtype=np.uint8)
BOX = np.array([100.0, 50, 140, 150])


def test_percentiles_cut_what_is_normalised() -> None:
    values = np.arange(101.0)
    np.testing.assert_allclose(normalise(values), values / 100)
    np.testing.assert_allclose(normalise(values, 10, 90), ((values - 10) / 80).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(normalise(-values), 1 - values / 100)
    assert normalise(np.array([1.0, 1 + 2e-6])).max() == 1
    assert not normalise(np.array([0.0, 0.0])).any()


def test_heat_goes_through_its_anchors() -> None:
    assert heat(np.array([[0, 0.25, 0.5, 0.75, 1]]))[0].tolist() == HEAT.tolist()
    assert heat(np.array([[0.125]]))[0, 0].tolist() == [44, 8, 57]


def test_sizes_of_pictures() -> None:
    assert resize(IMAGE, 30, 20).shape == (20, 30, 3)
    assert resize(IMAGE, 0, 0).shape == (1, 1, 3)
    cells = np.array([[[0] * 3, [200] * 3]], np.uint8)
    assert set(np.unique(resize(cells, 8, 4, smooth=False))) == {0, 200}
    assert len(np.unique(resize(cells, 8, 4))) > 2
    assert fit(IMAGE, 600) is IMAGE
    assert fit(IMAGE, 599).shape == (300, 599, 3)
    assert fit(IMAGE[:1], 300).shape == (1, 300, 3)
    assert fit(IMAGE[:, :1], 100).shape == (100, 1, 3)


def test_a_map_lies_over_a_darkened_picture() -> None:
    image = np.zeros((4, 4, 3), np.uint8) + np.array([90, 60, 30], np.uint8)
    dark = 60 * 0.6 + np.array([90, 60, 30]) * 0.25
    assert overlay(image, np.zeros((2, 2)))[0, 0].tolist() == dark.round().tolist()
    values = np.zeros((4, 4))
    values[:2] = 1
    for strength, weight in ((0.65, 0.65), (1.0, 1.0)):
        shown = overlay(image, values, strength)
        assert shown[0, 0].tolist() == (dark * (1 - weight) + HEAT[-1] * weight).round().tolist()
        assert shown[3, 3].tolist() == dark.round().tolist()
    values[2:] = 0.25
    values[0, 0] = 0
    assert np.array_equal(overlay(image, values), overlay(image, values, 0.65))
    quarter = (dark * (1 - 0.65 / 2) + heat(np.array([[0.25]]))[0, 0] * (0.65 / 2)).round()
    assert np.abs(overlay(image, values)[3, 3] - quarter).max() <= 1


def test_components_are_ordered_signed_and_spread_over_the_colours() -> None:
    rng = np.random.default_rng(1)
    feature = rng.normal(size=(20, 20, 4)) * [1, 9, 0.1, 3] - [0, 0, 5, 0]
    mean, axes = principal_axes([feature[:10], feature[10:]])
    np.testing.assert_allclose(mean, feature.mean((0, 1)))
    assert np.abs(axes).argmax(1).tolist() == [1, 3, 0]
    assert (axes.max(1) > 0.9).all()
    assert len(principal_axes([feature], 2)[1]) == 2
    for seed in range(8):
        turned = feature @ np.linalg.qr(np.random.default_rng(seed).normal(size=(4, 4)))[0]
        found = principal_axes([turned])[1]
        assert (found.max(1) == np.abs(found).max(1)).all()
    (ramp,) = pca_rgb([np.arange(101.0)[None, :, None]])
    assert ramp[0, :, 0].tolist() == (((np.arange(101) - 1) / 98).clip(0, 1) * 255).round().tolist()
    assert not ramp[..., 1:].any()
    (flat,) = pca_rgb([np.ones((2, 2, 3))])
    assert not flat.any()


def test_fine_is_what_is_above_half_of_the_nyquist_frequency() -> None:
    columns = np.arange(16)[None, :, None] * np.ones((8, 1, 1))
    for cycles, share in ((1, 0), (4, 0), (5, 1), (8, 1)):
        wave = np.cos(2 * np.pi * cycles * columns / 16)
        assert high_frequency(wave)[1] == pytest.approx(share, abs=1e-9)
        assert high_frequency(wave.swapaxes(0, 1) + 7)[1] == pytest.approx(share, abs=1e-9)
    energy, _ = high_frequency(np.concatenate([np.cos(np.pi * columns)] * 2, axis=-1))
    np.testing.assert_allclose(energy, 2, rtol=1e-6)


def test_a_crop_has_a_margin_of_its_boxs_height_and_a_longest_side() -> None:
    assert np.array_equal(crop(IMAGE, BOX), IMAGE[38:162, 88:152])
    assert crop(IMAGE, (0, 0, 600, 300)).shape == (96, 192, 3)
    assert crop(IMAGE, (700, 400, 720, 410)).shape == (1, 1, 3)
    assert np.array_equal(crop(IMAGE, (10, 10, 20, 20.5)), IMAGE[8:22, 8:22])


def test_what_is_left_of_a_frame_is_grey() -> None:
    found = letterbox(np.zeros((10, 20, 3), np.uint8), 40, 40)
    assert not found[10:30].any()
    assert (found[:10] == 128).all()
    assert (found[30:] == 128).all()


def test_scenes_are_shown_small_and_boxes_in_shares_of_them() -> None:
    tile = scene_tile(IMAGE, [(BOX, "right"), (np.array([-5, 0, 700, 300]), "other")], "under", "in words")
    assert tile.image.shape == (240, 480, 3)
    assert (tile.caption, tile.alt) == ("under", "in words")
    assert [outline.kind for outline in tile.outlines] == ["right", "other"]
    assert tile.outlines[0].box == pytest.approx((100 / 600, 50 / 300, 140 / 600, 150 / 300))
    assert tile.outlines[1].box == (0, 0, 1, 1)
    assert scene_tile(IMAGE, [], "", "", 60).image.shape == (30, 60, 3)


def test_a_picture_that_is_gone_is_a_cross() -> None:
    found = placeholder(5, 5)
    assert found.dtype == np.uint8
    crossed = (np.eye(5) + np.eye(5)[::-1]) > 0
    assert (found == np.where(crossed, 160, 205)[..., None]).all()
    assert placeholder(1, 1).tolist() == [[[160] * 3]]
    assert placeholder(3, 2).shape == (2, 3, 3)
    assert np.flatnonzero(placeholder(401, 401)[200, :, 0] == 160).tolist() == list(range(197, 204))


def test_words_are_shown_over_their_scene() -> None:
    scene = Shown(scene_id="a", image=IMAGE)
    sheet = attention_sheet([scene], {"person": [np.eye(4)]})
    plain, look = sheet.rows[0].tiles
    assert (plain.caption, plain.alt, plain.image.shape) == ("scene", "Scene a", (128, 256, 3))
    assert (look.caption, look.alt) == ("person", "Cross-attention of “person” over scene a")
    assert np.array_equal(look.image, overlay(fit(IMAGE, 256), np.eye(4)))
    assert (sheet.title, sheet.tall) == ("Cross-attention per word", False)
    assert sheet.note.startswith("Bright is where a word's token receives most attention")


def test_taps_and_refinement_are_told_in_words() -> None:
    scene, rng = Shown(scene_id="a", image=IMAGE), np.random.default_rng(2)
    before, after = rng.normal(size=(2, 6, 8, 5))
    _, tile = pca_sheet([scene], {"tap": [before]}).rows[0].tiles
    assert (tile.caption, tile.alt) == ("tap", "Principal components of tap in scene a")
    assert np.array_equal(tile.image, resize(pca_rgb([before])[0], 256, 128, smooth=False))
    tiles = frequency_sheet([scene], [before], [after]).rows[0].tiles
    shares = [f"{100 * high_frequency(each)[1]:.0f} %" for each in (before, after)]
    assert [tile.caption for tile in tiles] == [
        "scene",
        "before",
        f"fine part, {shares[0]}",
        "after",
        f"fine part, {shares[1]}",
    ]
    assert tiles[3].alt == "Feature after refinement in scene a"
    assert tiles[4].alt == f"Fine structure after refinement: {shares[1]} of energy"
    assert np.array_equal(tiles[3].image, scene.beside(pca_rgb([after])[0], "", "").image)
    fine = heat(np.sqrt(normalise(high_frequency(before)[0], 0, 99)))
    assert np.array_equal(tiles[2].image, scene.beside(fine, "", "").image)


def test_a_persons_words_are_told_with_their_ranges() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=(2, 6, 3, 4))
    head = np.linspace(0.1, 0.9, 18).reshape(6, 3)
    person = Person(
        scene=Shown(scene_id="a", image=IMAGE),
        box=BOX,
        before=before,
        similarities={"head": head, "shoes": 1 - head},
        gate=head * 2,
        after=after,
    )
    sheet = semantics_sheet([person, replace(person, before=after, after=before)])
    assert sheet.tall
    first, second = sheet.rows
    assert [tile.image.shape for tile in first.tiles[1:]] == [(192, 96, 3)] * 5
    assert np.array_equal(first.tiles[0].image, crop(IMAGE, BOX))
    assert [tile.alt for tile in first.tiles] == [
        "A person in scene a",
        "Components before SFAN",
        "Similarity to “head” among the words, from 0 to 1",
        "Similarity to “shoes” among the words, from 0 to 1",
        "Factor of each location, from 0 to 2",
        "Components after SFAN",
    ]
    assert np.array_equal(first.tiles[4].image, first.tiles[2].image)
    assert np.array_equal(first.tiles[1].image, second.tiles[5].image)
    assert np.array_equal(first.tiles[5].image, second.tiles[1].image)
    assert not np.array_equal(first.tiles[1].image, first.tiles[5].image)
    assert "1/2" in sheet.note


def test_losses_are_told_from_their_start_to_their_end() -> None:
    steps = [0, 1, 2, 3]
    total, parts = loss_charts(
        {"step": steps, "total": [21.0, 3.0, 2.0, 1.0], "a": [20.0, 5.0, 2.0, 1.0], "b": [np.nan, 4.0, 3.0, 1.0]}
    )
    assert LOG_SPAN == 20
    assert (total.log_y, parts.log_y) == (True, False)
    assert (total.title, total.x_label, total.y_label) == ("Total loss", "step", "loss")
    assert total.summary == "Total loss: total from 21 to 1."
    assert parts.summary == "Its parts: a from 20 to 1; b from 4 to 1."
    assert list(parts.lines[1].x) == [1, 2, 3]
    assert total.note.startswith("What training makes small")
    assert parts.note.startswith("rpn: proposals")
    assert loss_charts({"step": [], "total": []}) == []
    assert [chart.title for chart in loss_charts({"step": steps, "a": [1.0] * 4})] == ["Its parts"]
    (only,) = loss_charts({"step": steps, "total": [-1.0, 100.0, 2.0, 1.0]})
    assert not only.log_y
    many = list(range(801))
    (smooth,) = loss_charts({"step": many, "total": [float(each) for each in many]})
    assert len(smooth.lines[0].x) == 400
    assert list(smooth.lines[0].x[:2]) == [1.0, 3.5]


def test_scores_are_told_in_percent() -> None:
    chart = score_chart("t", "timestep", {"a": [(50, 0.25), (1, 0.5)], "b": [(50, 1.0)]}, "a note")
    assert chart.summary == "a: 50.0 % at 1, 25.0 % at 50. b: 100.0 % at 50"
    assert (chart.x_label, chart.y_label, chart.shares, chart.note) == ("timestep", "score", "y", "a note")
    assert [(line.x, line.y, line.points) for line in chart.lines] == [
        ([1, 50], [0.5, 0.25], True),
        ([50], [1.0], True),
    ]
    bars = bar_chart("t", "score", {"one": [("a", 0.25), ("b", 0.5)], "two": [("a", 1.0), ("b", 0.0)]}, "a note")
    assert bars.summary == "one: a 25.0 %, b 50.0 %. two: a 100.0 %, b 0.0 %"
    assert (bars.x_label, bars.shares, bars.note) == ("score", "x", "a note")


def found(**changes: object) -> Find:
    return Find(**{"scene_id": "s", "image": IMAGE, "box": BOX, "value": 0.5} | changes)


def test_a_find_opens_as_its_scene() -> None:
    other, absent = BOX + 100, np.array([300.0, 50, 340, 150])
    hit = found(mark="wrong", cause="another", found=np.stack([BOX + 0.4, other]), wanted=absent[None])
    tile = hit.tile("0.50", "in words")
    assert (tile.caption, tile.alt, tile.mark) == ("0.50", "in words", "wrong")
    assert np.array_equal(tile.image, crop(IMAGE, BOX))
    opened = tile.opens
    assert opened is not None
    assert (opened.caption, opened.alt) == ("s: 2 found here; another", "The whole scene. in words")
    assert [outline.kind for outline in opened.outlines] == ["other", "annotated", "wrong"]
    assert opened.outlines[0].box[0] == pytest.approx(200 / 600)
    assert opened.outlines[2].box[0] == pytest.approx(100 / 600)
    assert opened.image.shape == (240, 480, 3)
    right = replace(hit, mark="right", found=np.stack([BOX + 0.6]), cause="")
    assert [outline.kind for outline in right.scene("x").outlines] == ["other", "right"]
    assert right.scene("x").caption == "s: 1 found here"
    assert found().tile("a", "b").opens is None
    assert found().scene("b").caption == "s: 0 found here"
    gone = found(gone=True).tile("a", "b")
    assert (gone.caption, gone.alt) == ("a, picture gone", "b; the picture is gone")


def test_a_ranking_says_rank_mark_and_similarity() -> None:
    results = (
        found(mark="right", value=0.876),
        found(mark="wrong", cause="another person", scene_id="t"),
        found(value=None),
    )
    one = Search(query_id="q1", kind="A good query", query=found(), results=results, precision=0.9876)
    sheet = ranking_sheet([one, replace(one, precision=None)])
    assert (sheet.title, sheet.tall) == ("Rankings", True)
    first, second = sheet.rows
    assert (first.label, first.remark) == ("A good query", "q1, AP 98.8 %")
    assert second.remark == "q1, nobody annotated to be found"
    assert [(tile.caption, tile.alt) for tile in first.tiles] == [
        ("query", "Query q1 in s"),
        ("0.88", "Rank 1, right, similarity 0.88, in s"),
        ("0.50, another person", "Rank 2, wrong, similarity 0.50, in t"),
        ("", "Rank 3, unjudged, similarity , in s"),
    ]


def test_failures_are_told_kind_by_kind() -> None:
    missed = found(box=np.array([0, 0, 20.4, 59.6]), cause="not proposed", value=None)
    sheet = failures_sheet(
        [missed],
        [found(value=0.9)],
        [(found(), found(value=0.75, cause="alike", scene_id="t"), found(value=None))],
        [found(cause="IoU 0.41")],
    )
    assert (sheet.title, sheet.tall) == ("Failures", True)
    assert [(row.label, row.together, len(row.tiles)) for row in sheet.rows] == [
        ("Missed persons", 1, 1),
        ("Loose boxes", 1, 1),
        ("Nobody annotated", 1, 1),
        ("Confused identities", 3, 3),
    ]
    assert [row.remark for row in sheet.rows] == [
        "annotated, not detected; the largest",
        "around an annotated person, at an IoU under 0.5; the most confident",
        "a false alarm, or a person whom the annotations leave out; the most confident",
        "who was looked for, who came first, and who should have; the most similar",
    ]
    assert [(tile.caption, tile.alt) for row in sheet.rows for tile in row.tiles] == [
        ("20 × 60 px, not proposed", "Missed person in s, 20 × 60 px"),
        ("0.50, IoU 0.41", "Loose boxes: detection in s"),
        ("0.90", "Nobody annotated: detection in s"),
        ("query", "Query in s"),
        ("0.75, alike", "Taken for the query, in t"),
        ("0.00", "The same person as in the query, in s"),
    ]
    assert failures_sheet([], [], []).rows == ()
    assert failures_sheet([], [found(value=None)], []).rows[0].tiles[0].caption == "0.00"


def test_of_equal_queries_the_first_are_shown() -> None:
    assert telling(np.array([0.5]), 3) == [("A median query", 0)]
    assert telling(np.full(11, 0.5), 5) == [
        ("A median query", 5),
        ("A good query", 1),
        ("A bad query", 9),
        ("Another query", 0),
        ("Another query", 2),
    ]
    assert telling(np.arange(21.0), 3) == [("A median query", 10), ("A good query", 18), ("A bad query", 2)]


def test_similarities_of_pairs_in_words_and_numbers() -> None:
    turns = np.deg2rad([0, 0, 60, 60, 90])
    vectors = np.stack([np.cos(turns), np.sin(turns)], 1)
    pairs = compare_pairs(vectors, np.array([0, 0, 1, 1, 2]), np.arange(5), 0.3)
    assert pairs is not None
    assert pairs.same.tolist() == pytest.approx([1, 1])
    np.testing.assert_allclose(pairs.different, [0, 0, 0.5, 0.5, 0.5, 0.5, np.sqrt(0.75), np.sqrt(0.75)], atol=1e-6)
    assert pairs.as_json() == {
        "wanted_false_match_rate": 0.3,
        "false_match_rate": 0.25,
        "threshold": pairs.threshold,
        "true_match_rate": 1,
        "same_pairs": 2,
        "different_pairs": 8,
    }
    chart = similarity_chart(pairs)
    assert chart.markers == ((pairs.threshold, f"threshold {pairs.threshold:.2f}"),)
    assert [line.label for line in chart.lines] == ["two persons (8 pairs)", "one person (2 pairs)"]
    assert "25.0 % of pairs of different persons are taken for one person" in chart.note
    assert "and 100.0 % of the pairs of one person are recognised" in chart.note
    assert chart.summary.startswith(
        "Two histograms over cosine similarity. Same person: median 1.00; different persons: median 0.50; threshold"
    )
    assert len(chart.lines[0].x) == 2 * 49
    assert chart.lines[0].x[0] == chart.lines[1].x[0] == pytest.approx(0, abs=1e-5)
    assert chart.lines[0].x[-1] == pytest.approx(1, abs=1e-5)
    rounded = replace(pairs, false_match_rate=0.12345678, true_match_rate=0.98765432).as_json()
    assert (rounded["false_match_rate"], rounded["true_match_rate"]) == (0.123457, 0.987654)


def test_a_histogram_counts_or_has_an_area_of_one() -> None:
    edges = np.array([0.0, 0.5, 1.0])
    counts = histogram("n", np.array([0.1, 0.2, 0.7]), edges, density=False)
    assert (counts.x, counts.y, counts.area) == ([0, 0, 0.5, 0.5, 1, 1], [0, 2, 2, 1, 1, 0], True)
    assert histogram("n", np.array([0.1, 0.2, 0.7]), edges).y == [0, 1.33333, 1.33333, 0.66667, 0.66667, 0]


def test_many_embeddings_are_a_seeded_sample() -> None:
    count = MOST_EMBEDDINGS + 1
    rng = np.random.default_rng(0)
    vectors = np.stack([np.cos(turns := rng.uniform(0, 1, count)), np.sin(turns)], 1)
    names = np.full(count, -1)
    names[: MOST_EMBEDDINGS // 1000] = [0, 0, 1]
    few = compare_pairs(vectors, names, np.arange(count), 0.5)
    assert few is not None
    assert (len(few.same), len(few.different)) == (1, 2)
    with pytest.raises(ValueError, match="false_match_rate 1: must lie between 0 and 1"):
        compare_pairs(vectors, names, np.arange(count), 1)
