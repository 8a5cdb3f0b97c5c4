"""What a probe allows to conclude, word for word, from scores made by hand."""

from math import nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from diffps.heads.config import TapsConfig
from diffps.probe.intervals import Estimate
from diffps.probe.table import Detection, ReID, WordMap
from stages.probing.conclusions import dealt_sentence, sentences
from stages.probing.finish import _promise
from stages.probing.numbers import MeasuredSet

WORST, BEST, NEAR = "worst", "best", "near"
CHANCE = "With labels dealt anew all 6 scores lie within chance, as they must."


def said(value: float) -> Estimate:
    return Estimate(value, value - 0.1, value + 0.1)


def probed(name: str = "one", above: float = 0.0, **changes: Any) -> Any:
    reid = {
        WORST: ReID(map=said(0.3 + above), dealt=0.01, bound=0.02),
        BEST: ReID(map=said(0.5 + above), dealt=0.01, bound=0.02, near_best=True),
        NEAR: ReID(map=said(0.4 + above), dealt=0.01, bound=0.02, near_best=True),
    }
    detection = {
        WORST: Detection(precision=said(0.2 + above), recall=said(0.75), dealt=-0.02, bound=0.02),
        BEST: Detection(precision=said(0.6 + above), recall=said(0.25), dealt=0.0, bound=0.02, near_best=True),
        NEAR: Detection(precision=said(0.5 + above), recall=said(0.5), dealt=0.0, bound=0.02),
    }
    plan = SimpleNamespace(
        reads=SimpleNamespace(taps=(WORST, BEST, NEAR)),
        rules=SimpleNamespace(boxes=7),
        unet=SimpleNamespace(encode=SimpleNamespace(checkpoint=name)),
    )
    sample = SimpleNamespace(
        scenes=("a", "b"), boxes=(np.zeros((2, 4)), np.zeros((1, 4))), limits=("a limit",), across="cameras"
    )
    values = {"plan": plan, "timestep": 50, "sample": sample, "task": "task", "chance": 0.125, "maps": {}}
    values |= {"reid": reid, "detection": detection, "megabytes": {WORST: 0.5, BEST: 3.0, NEAR: 2.0}}
    return SimpleNamespace(**(values | changes))


def test_the_best_the_smallest_and_the_control_are_named() -> None:
    maps = {
        "few": WordMap(precision=said(0.1), hit=said(0.9), share=0.4),
        "most": WordMap(precision=said(0.2), hit=said(0.8), share=0.3),
    }
    colours, control = ReID(map=said(0.25)), probed("blank", -0.2)
    assert list(sentences(probed(maps=maps), [], colours, control)) == [
        "3 taps at timestep 50: 2 scenes, 3 persons.",
        "a limit",
        "Re-ID across cameras: best is best, mAP 50.0 % (40.0 to 60.0); chance 12.5 %, colours 25.0 %, the best tap of "
        "blank 30.0 %.",
        "1 other tap cannot be told from it on these persons; the smallest of them all is near, 2 MB an image.",
        "Detection: best tells windows with a person best, AP 60.0 % (50.0 to 70.0); the best tap of blank 40.0 %.",
        "With 7 boxes an image worst finds most persons, 75.0 % (65.0 to 85.0).",
        "Word maps: most fits persons best, AP 20.0 % (10.0 to 30.0); its strongest position is a person's in 80.0 % "
        "of scenes, a random one in 30.0 %.",
        CHANCE,
    ]


def test_without_identities_control_and_maps_nothing_is_said_of_them() -> None:
    both = {
        name: Detection(precision=said(value), recall=said(value), near_best=True)
        for name, value in ((BEST, 0.6), (NEAR, 0.5), (WORST, 0.4))
    }
    assert list(sentences(probed(task=None, reid={}, detection=both), [], ReID(), None))[2:] == [
        "Detection: best tells windows with a person best, AP 60.0 % (50.0 to 70.0); 2 other taps cannot be told from "
        "it.",
        "With 7 boxes an image best finds most persons, 60.0 % (50.0 to 70.0).",
        "With labels dealt anew all 0 scores lie within chance, as they must.",
    ]


def test_a_best_tap_that_nothing_comes_near_stands_alone() -> None:
    alone = {BEST: ReID(map=said(0.5), dealt=0.03, bound=0.02, near_best=True), WORST: ReID(map=said(0.3))}
    lines = list(sentences(probed(reid=alone), [], ReID(map=said(0.25)), None))
    assert lines[2].endswith("colours 25.0 %.")
    assert lines[3].startswith("Detection")
    assert "furthest re-ID from best, above" in lines[-1]
    wide = {BEST: ReID(map=said(0.5), near_best=True), WORST: ReID(map=said(0.3), near_best=True)}
    small = probed(reid=wide, megabytes={BEST: 1.0, WORST: 9.0})
    assert "the smallest of them all is best, 1 MB" in list(sentences(small, [], ReID(), None))[3]


def test_sets_are_told_with_what_they_are_ahead() -> None:
    def measured(name: str, ahead: Estimate) -> MeasuredSet:
        taps = TapsConfig(detection=BEST, guidance=None, level3=(BEST,))
        return MeasuredSet(name=name, taps=taps, megabytes=2.5, map=said(0.5), ahead=ahead)

    own, chosen = measured("train.taps", Estimate(0, 0, 0)), measured("under 3 MB", Estimate(0.02, -0.01, 0.05))
    whole = "mAP 50.0 % (40.0 to 60.0) in 2.5 MB an image, taps side by side"
    lines = list(sentences(probed(), [own, chosen], ReID(), None))
    assert lines[lines.index(CHANCE) + 1 :] == [
        f"train.taps: {whole}.",
        f"under 3 MB: {whole}; +2.0 points to train.taps, -1.0 to +5.0.",
        "Sets were chosen on the persons they are scored on, and by a linear map: train them before believing them "
        "(sweep.yaml).",
    ]
    alone = measured("under 3 MB", Estimate(nan, nan, nan))
    assert list(sentences(probed(), [alone], ReID(), None))[-2:] == [CHANCE, f"under 3 MB: {whole}."]


def test_labels_dealt_anew_that_lie_on_the_bound_are_within_it() -> None:
    on = {"a": Detection(dealt=-0.02, bound=0.02), "b": Detection(dealt=0.02, bound=0.02), "c": Detection()}
    assert dealt_sentence({}, on) == "With labels dealt anew all 2 scores lie within chance, as they must."
    outside = dealt_sentence({"d": ReID(dealt=0.03, bound=0.02)}, {**on, "e": Detection(dealt=-0.05, bound=0.04)})
    assert outside.startswith(
        "CHECK: with labels dealt anew 2 of 4 scores lie outside of what chance gives in 19 of 20"
    )
    assert "furthest re-ID from d, above: if" in outside
    # No bound where there is nothing to order: what is not zero to a billionth is outside.
    assert dealt_sentence({}, {"f": Detection(dealt=5e-10, bound=0.0)}).startswith("With")
    assert dealt_sentence({}, {"f": Detection(dealt=2e-9, bound=0.0)}).startswith("CHECK")


@pytest.mark.parametrize(("task", "promise"), [("task", 0.5), (None, 0.6)])
def test_a_timestep_promises_its_best_tap(task: str | None, promise: float) -> None:
    assert _promise(probed(task=task)) == promise
