from collections.abc import Callable

import numpy as np
import pytest
import torch

from diffps.features import FeatureShape
from diffps.probe.collect import HELD, Collector, People, fit_readouts, projection
from diffps.probe.config import ProbeRules
from diffps.probe.part import Part, together
from diffps.probe.sample import ProbeSample
from diffps.probe.table import measure_detection, measure_maps, measure_reid, task_of
from tests.probe.plain import plain_probe
from tests.probe.worlds import CANVAS, MAPS, SHAPES, features, people, sample

RULES = ProbeRules(boxes=4, width=48, resamples=200)
TAPS = [name for name in SHAPES if name not in MAPS]


def vectors_of(part: Part) -> Callable[[str], np.ndarray]:
    return lambda tap: part.rows[f"{tap}/vectors"]


def probe(drawn: ProbeSample, batch: int = 4) -> Part:
    """The whole probe of a sample, in batches."""
    parts: list[Part] = []
    readouts = None
    for first, last in ((0, drawn.fitted), (drawn.fitted, len(drawn.scenes))):
        collector = Collector(SHAPES, MAPS, CANVAS, RULES, readouts)
        for start in range(first, last, batch):
            rows = range(start, min(start + batch, last))
            collector.add(features(drawn, rows), people(drawn, rows))
        parts.append(collector.take())
        readouts = readouts or fit_readouts(parts[0].sums, TAPS)
    return together(parts)


@pytest.fixture(scope="module")
def drawn() -> ProbeSample:
    return sample()


@pytest.fixture(scope="module")
def whole(drawn: ProbeSample) -> Part:
    return probe(drawn)


def test_equal_to_tap_by_tap_from_features_kept(drawn: ProbeSample, whole: Part) -> None:
    plain = plain_probe(features(drawn, range(len(drawn.scenes))), TAPS, drawn, CANVAS, RULES)
    for tap, expected in plain.items():
        for kind, values in expected.items():
            found = whole.rows[f"{tap}/{kind}"]
            np.testing.assert_allclose(found, values, rtol=1e-6, atol=1e-6, err_msg=f"{tap} {kind}")
    task = task_of(drawn, RULES)
    assert task is not None
    kept, read = ({tap: rows(tap) for tap in TAPS} for rows in (lambda tap: plain[tap]["vectors"], vectors_of(whole)))
    for one, other in zip(measure_reid(task, kept, TAPS, RULES), measure_reid(task, read, TAPS, RULES), strict=True):
        np.testing.assert_allclose(one.map, other.map, rtol=0, atol=1e-6)
        np.testing.assert_allclose(one.cosine, other.cosine, rtol=0, atol=1e-6)


def test_batches_and_parts_change_nothing_but_rounding(drawn: ProbeSample, whole: Part) -> None:
    other = probe(drawn, batch=5)
    assert other.rows.keys() == whole.rows.keys()
    for name, values in whole.sums.items():
        np.testing.assert_allclose(other.sums[name], values, rtol=1e-12, atol=1e-9, err_msg=name)
    for name, values in whole.rows.items():
        np.testing.assert_allclose(other.rows[name], values, rtol=0, atol=1e-6, err_msg=name)


def test_what_was_planted_is_found(drawn: ProbeSample, whole: Part) -> None:
    task = task_of(drawn, RULES)
    assert task is not None
    vectors = {name: whole.rows[f"{name}/vectors"] for name in TAPS}
    planted, _, noise = measure_reid(task, vectors, TAPS, RULES)
    assert planted.near_best
    assert not noise.near_best
    assert planted.map.low > noise.map.high
    assert noise.map.value == pytest.approx(task.chance.mean(), abs=0.1)
    planted, coarse, noise = measure_detection(whole.rows, TAPS, RULES)
    assert planted.precision.value > 0.8
    assert planted.precision.low > coarse.precision.high
    assert coarse.precision.low > noise.precision.high
    assert planted.recall.low > 0.6
    assert noise.recall.value < 0.3
    (words,) = measure_maps(whole.rows, MAPS, RULES)
    assert words.precision.value > 0.9
    assert words.hit.value == 1
    assert words.share == pytest.approx(np.mean(whole.rows["map.person/share"]))


def test_dealt_labels_stay_within_chance(drawn: ProbeSample, whole: Part) -> None:
    task = task_of(drawn, RULES)
    assert task is not None
    vectors = {name: whole.rows[f"{name}/vectors"] for name in TAPS}
    measured = [*measure_reid(task, vectors, TAPS, RULES), *measure_detection(whole.rows, TAPS, RULES)]
    assert all(abs(score.dealt) <= score.bound for score in measured)
    # With the true labels the same bound is far exceeded, so it could have been.
    assert measured[0].map.value - task.chance.mean() > 5 * measured[0].bound


def test_nothing_of_a_batch_is_kept_but_what_is_pooled(drawn: ProbeSample) -> None:
    collector = Collector(SHAPES, MAPS, CANVAS, RULES)
    sizes = []
    for start in range(0, 12, 4):
        rows = range(start, start + 4)
        collector.add(features(drawn, rows), people(drawn, rows))
        part = collector.take()
        sizes.append((sum(a.nbytes for a in part.sums.values()), sum(a.nbytes for a in part.rows.values())))
    assert len({sums for sums, _ in sizes}) == 1
    boxes = sum(len(boxes) for boxes in drawn.boxes[8:12])
    pooled = boxes * RULES.strips * 4 * sum(SHAPES[name].channels for name in TAPS)
    assert pooled <= sizes[-1][1] < pooled + 500


def test_half_precision_is_read_too(drawn: ProbeSample) -> None:
    """What a GPU gives; the difference is that of the features, not of sums."""
    rows = range(8)
    parts = []
    for kind in (torch.float32, torch.bfloat16):
        collector = Collector(SHAPES, MAPS, CANVAS, RULES)
        rounded = {name: value.bfloat16().to(kind) for name, value in features(drawn, rows).items()}
        collector.add(rounded, people(drawn, rows))
        parts.append(collector.take())
    for name, values in parts[0].sums.items():
        np.testing.assert_allclose(parts[1].sums[name], values, rtol=1e-6, atol=1e-4, err_msg=name)


def test_a_person_of_the_whole_canvas_and_one_of_a_pixel() -> None:
    shapes = {"tap": FeatureShape(4, 4, 3)}
    boxes = np.array([[0, 0, 128, 128], [127, 127, 128, 128]], np.float32)
    collector = Collector(shapes, (), CANVAS, RULES)
    feature = torch.arange(48.0).reshape(1, 4, 4, 3)
    collector.add({"tap": feature}, [People("a", boxes)])
    vectors = collector.take().rows["tap/vectors"]
    np.testing.assert_allclose(vectors[0].mean(0), feature.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(vectors[1], feature[0, -1, -1].expand(3, 3), rtol=1e-6)


def test_a_wide_tap_is_projected_by_its_name_and_the_seed() -> None:
    rules = ProbeRules(width=6)
    drawn = projection("tap", 8, rules)
    assert drawn is not None
    assert drawn.shape == (8, 2)
    assert drawn.dtype == torch.float64
    # As in the first version, so that probes of two versions can be compared.
    np.testing.assert_allclose(drawn[:2], [[0.18088846, 0.24680664], [0.27977827, -0.3231971]], rtol=1e-6)
    for other in (projection("tap2", 8, rules), projection("tap", 8, ProbeRules(width=6, seed=1))):
        assert other is not None
        assert not torch.allclose(other, drawn)
    assert projection("tap", 2, rules) is None
    assert projection("tap", 3, rules) is not None
    wide = projection("tap", 3000, ProbeRules(width=300))
    assert wide is not None
    assert wide.std().item() == pytest.approx(0.1, rel=0.01)


def test_windows_are_added_up_as_soon_as_there_are_so_many(drawn: ProbeSample) -> None:
    """Of eighteen for each scene; what is held does not grow with the scenes."""
    assert HELD == 384
    collector = Collector(SHAPES, MAPS, CANVAS, RULES)
    for scenes, held in ((16, 16 * 18), (5, 21 * 18), (1, 0)):
        for start in range(scenes):
            collector.add(features(drawn, range(start, start + 1)), people(drawn, range(start, start + 1)))
        assert sum(map(len, collector._targets)) == held
