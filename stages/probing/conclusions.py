"""What a probe allows to conclude, in sentences."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from diffps.probe.intervals import Estimate
from diffps.probe.table import Detection, ReID
from stages.probing.numbers import MeasuredSet, Probed
from stages.text import count, percent

ROUNDING = 1e-9  # the bound where there is nothing to order


def sentences(probed: Probed, sets: Sequence[MeasuredSet], colours: ReID, control: Probed | None) -> Iterator[str]:
    """On one checkpoint at one timestep, beside the ``control`` at the same."""
    sample = probed.sample
    yield (
        f"{count(len(probed.plan.reads.taps), 'tap')} at timestep {probed.timestep}: "
        f"{count(len(sample.scenes), 'scene')}, {count(sum(map(len, sample.boxes)), 'person')}."
    )
    yield from sample.limits
    if probed.task is not None:
        yield from _reid(probed, colours, control)
    yield from _detection(probed, control)
    yield from _maps(probed)
    yield dealt_sentence(probed.reid, probed.detection)
    yield from _sets(sets)


def _reid(probed: Probed, colours: ReID, control: Probed | None) -> Iterator[str]:
    best = max(probed.reid, key=lambda tap: probed.reid[tap].map.value)
    line = f"Re-ID across {probed.sample.across}: {best} is best, mAP {_said(probed.reid[best].map)}; chance "
    line += f"{percent(probed.chance)}, colours {percent(colours.map.value)}"
    if control is not None:
        blank = max(score.map.value for score in control.reid.values())
        line += f", the best tap of {control.plan.unet.encode.checkpoint} {percent(blank)}"
    yield line + "."
    near = [tap for tap, score in probed.reid.items() if score.near_best and tap != best]
    if near:
        smallest = min([best, *near], key=lambda tap: probed.megabytes[tap])
        yield (
            f"{count(len(near), 'other tap')} cannot be told from it on these persons; the smallest of them all is "
            f"{smallest}, {probed.megabytes[smallest]:.3g} MB an image."
        )


def _detection(probed: Probed, control: Probed | None) -> Iterator[str]:
    best = max(probed.detection, key=lambda tap: probed.detection[tap].precision.value)
    near = sum(score.near_best for score in probed.detection.values()) - 1
    line = f"Detection: {best} tells windows with a person best, AP {_said(probed.detection[best].precision)}"
    line += f"; {count(near, 'other tap')} cannot be told from it" if near else ""
    if control is not None:
        blank = max(score.precision.value for score in control.detection.values())
        line += f"; the best tap of {control.plan.unet.encode.checkpoint} {percent(blank)}"
    yield line + "."
    finds = max(probed.detection, key=lambda tap: probed.detection[tap].recall.value)
    yield (
        f"With {probed.plan.rules.boxes} boxes an image {finds} finds most persons, "
        f"{_said(probed.detection[finds].recall)}."
    )


def _maps(probed: Probed) -> Iterator[str]:
    if probed.maps:
        name = max(probed.maps, key=lambda name: probed.maps[name].precision.value)
        score = probed.maps[name]
        yield (
            f"Word maps: {name} fits persons best, AP {_said(score.precision)}; its strongest position is a person's "
            f"in {percent(score.hit.value)} of scenes, a random one in {percent(score.share)}."
        )


def dealt_sentence(reid: Mapping[str, ReID], detection: Mapping[str, Detection]) -> str:
    """What scores with labels dealt anew say of the probe itself."""
    scores: list[tuple[str, ReID | Detection]] = [(f"re-ID from {tap}", score) for tap, score in reid.items()]
    scores += [(f"detection from {tap}", score) for tap, score in detection.items()]
    share = {name: score.dealt / max(score.bound, ROUNDING) for name, score in scores if np.isfinite(score.dealt)}
    outside = [name for name in share if abs(share[name]) > 1]
    if not outside:
        return f"With labels dealt anew all {len(share)} scores lie within chance, as they must."
    furthest = max(outside, key=lambda name: abs(share[name]))
    return (
        f"CHECK: with labels dealt anew {len(outside)} of {count(len(share), 'score')} lie outside of what chance "
        f"gives in 19 of 20 samples, furthest {furthest}, {'above' if share[furthest] > 0 else 'below'}: if that "
        "stays with another seed in the probe file, something leaks."
    )


def _sets(sets: Sequence[MeasuredSet]) -> Iterator[str]:
    for each in sets:
        line = f"{each.name}: mAP {_said(each.map)} in {each.megabytes:.3g} MB an image, taps side by side"
        if each.name != "train.taps" and np.isfinite(each.ahead.value):
            line += f"; {100 * each.ahead.value:+.1f} points to train.taps, {_points(each.ahead)}"
        yield line + "."
    if len(sets) > 1:
        yield (
            "Sets were chosen on the persons they are scored on, and by a linear map: train them before believing them "
            "(sweep.yaml)."
        )


def _said(value: Estimate) -> str:
    return f"{percent(value.value)} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _points(value: Estimate) -> str:
    return f"{100 * value.low:+.1f} to {100 * value.high:+.1f}"
