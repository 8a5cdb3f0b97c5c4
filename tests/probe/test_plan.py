import pytest

from diffps.errors import ConfigError, UnknownTapError
from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.probe.collect import Collector, fit_readouts
from diffps.probe.config import ProbeRules
from diffps.probe.plan import Reads, memory, reads
from diffps.taps import standard_taps
from tests.probe.worlds import CANVAS, MAPS, SHAPES, features, people, sample


def test_every_grid_tap_and_a_map_of_each_block_per_word() -> None:
    found = reads(standard_taps(), None, ["person", "red coat"], Canvas(1280, 640))
    assert len(found.taps) == 165
    assert len(found.maps) == 32
    assert found.taps["up-level3-repeat0-vit-block0-self-k"] == FeatureShape(160, 80, 320)
    assert found.maps["up-level2-repeat0-vit-block0-cross-map.red-coat"] == FeatureShape(80, 40, 1)


def test_taps_asked_for() -> None:
    assert list(reads(standard_taps(), ["unet-in"], [], CANVAS).taps) == ["unet-in"]
    with pytest.raises(UnknownTapError, match="nearest is 'unet-in'"):
        reads(standard_taps(), ["unet-im"], [], CANVAS)
    for tap in ("mid-vit-block0-self-map", "mid-vit-block0-cross-k"):
        with pytest.raises(ConfigError, match=r"probe.taps: mid-vit-block0-.* not a grid"):
            reads(standard_taps(), [tap], [], CANVAS)


def test_the_memory_is_what_a_collector_holds() -> None:
    rules, drawn = ProbeRules(width=16), sample()
    read = Reads(
        {name: shape for name, shape in SHAPES.items() if name not in MAPS}, {name: SHAPES[name] for name in MAPS}
    )
    expected = memory(read, rules, 4, sum(len(boxes) for boxes in drawn.boxes[:8]))
    collector = Collector(SHAPES, MAPS, CANVAS, rules)
    for rows in (range(4), range(4, 8)):
        collector.add(features(drawn, rows), people(drawn, rows))
    part = collector.take()
    assert expected.sums == sum(array.nbytes for array in part.sums.values())
    assert expected.vectors == sum(part.rows[f"{name}/vectors"].nbytes for name in read.taps)
    assert set(fit_readouts(part.sums, read.taps)) == set(read.taps)


@pytest.mark.parametrize(
    ("field", "value"), [("strips", 5), ("strips", 0), ("width", 0), ("boxes", 0), ("folds", 1), ("resamples", 10)]
)
def test_rules_out_of_range(field: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{field} {value}"):
        ProbeRules(**{field: value})


def test_the_memory_by_hand() -> None:
    """A grid of 2 x 3 with 4 channels, of which 2 are regressed for each of three parts, and a map of 2 x 2."""
    read = Reads({"tap": FeatureShape(2, 3, 4)}, {"map": FeatureShape(2, 2, 1)})
    found = memory(read, ProbeRules(width=6, strips=2), batch=2, persons=5)
    images = 2 * (4 * (24 + 4) + 4 * 24 + 8 * 18 * (3 * 3 * 4 + 6))
    assert found.features == images + 8 * (384 + 2 * 18) * 6
    assert found.sums == 8 * ((6 + 1 + 6) ** 2 + (6 + 1) ** 2)
    assert found.vectors == 5 * 2 * 4 * 4
    assert memory(Reads({}, {}), ProbeRules(), 2, 5) == (0, 0, 0)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("strips", 0, "must divide 24: 1, 2, 3, 4, 6, 8, 12 or 24"),
        ("strips", 48, "must divide 24: 1, 2, 3, 4, 6, 8, 12 or 24"),
        ("width", 2, "must be at least 3"),
        ("boxes", 0, "must be at least 1"),
        ("folds", 1, "must be at least 2"),
        ("resamples", 99, "must be at least 100"),
        ("seed", -1, "must be at least 0"),
    ],
)
def test_a_rule_just_out_of_range_is_told_the_range(field: str, value: int, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProbeRules(**{field: value})
    assert str(caught.value) == f"{field} {value}: {told}"


def test_the_edges_of_the_rules_are_taken() -> None:
    for strips in (1, 2, 3, 4, 6, 8, 12, 24):
        ProbeRules(strips=strips, width=3, boxes=1, folds=2, resamples=100, seed=0)


def test_a_tap_without_a_grid_is_told_what_it_is() -> None:
    with pytest.raises(ConfigError) as caught:
        reads(standard_taps(), ["unet-in", "mid-vit-block0-cross-k"], [], CANVAS)
    assert str(caught.value) == "probe.taps: mid-vit-block0-cross-k is a text, not a grid of features; take it out"
