"""What a probe reads in one forward, and the memory it takes: known before the first image."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from diffps.errors import ConfigError
from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.probe.cells import PARTS
from diffps.probe.collect import HELD
from diffps.probe.config import ProbeRules
from diffps.probe.windows import WINDOWS
from diffps.taps import FeatureName, TapSpec, check_taps

_OUTPUTS = 6  # regressed for every window


class Reads(NamedTuple):
    """Grid ``taps`` and word ``maps`` by name, with their shapes on the canvas."""

    taps: dict[str, FeatureShape]
    maps: dict[str, FeatureShape]


class Memory(NamedTuple):
    """Bytes: ``features`` of one batch and what is computed from them, ``sums`` of the normal equations, and
    ``vectors`` of the persons of one stretch of scenes."""

    features: int
    sums: int
    vectors: int


def reads(table: Mapping[str, TapSpec], taps: Sequence[str] | None, words: Iterable[str], canvas: Canvas) -> Reads:
    """Every grid tap of a UNet, or those of ``taps``; and the cross-attention maps of every block, per word.

    Raises UnknownTapError, and ConfigError for a tap that has no grid of features.
    """
    check_taps(taps or (), table)
    for name in taps or ():
        if table[name].kind != "grid":
            raise ConfigError(f"probe.taps: {name} is a {table[name].kind}, not a grid of features; take it out")
    chosen = [spec for spec in table.values() if spec.kind == "grid" and (taps is None or spec.id in taps)]
    crossed = [spec for spec in table.values() if spec.kind == "cross-map"]
    return Reads(
        {spec.id: _shape(spec, canvas, spec.channels) for spec in chosen},
        {str(FeatureName(spec.id, word)): _shape(spec, canvas, 1) for word in words for spec in crossed},
    )


def memory(read: Reads, rules: ProbeRules, batch: int, persons: int) -> Memory:
    """For batches of ``batch`` images and a stretch of scenes with ``persons`` boxes, features in float32."""
    shapes = [*read.taps.values(), *read.maps.values()]
    widest = max((shape.height * shape.width * shape.channels for shape in read.taps.values()), default=0)
    every = sum(shape.height * shape.width * shape.channels for shape in shapes)
    most = max((shape.channels for shape in read.taps.values()), default=0)
    widths = [len(PARTS) * min(shape.channels, rules.width // len(PARTS)) for shape in read.taps.values()]
    return Memory(
        # All taps at once, the widest once more in order, its pooled windows, and those held or regressed of all.
        features=batch * (4 * every + 4 * widest + 8 * WINDOWS * (3 * len(PARTS) * most + _OUTPUTS * len(widths)))
        + 8 * (HELD + batch * WINDOWS) * sum(widths),
        sums=sum(8 * ((width + 1 + _OUTPUTS) ** 2 + (width + 1) ** 2) for width in widths),
        vectors=persons * rules.strips * 4 * sum(shape.channels for shape in read.taps.values()),
    )


def _shape(spec: TapSpec, canvas: Canvas, channels: int) -> FeatureShape:
    return FeatureShape(canvas.height // spec.stride, canvas.width // spec.stride, channels)
