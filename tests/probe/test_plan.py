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
