"""Configs refuse what cannot work, survive JSON, and load without torch."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.heads.agreement import config_from_json
from diffps.heads.config import DGRPNConfig, EmbeddingConfig, ModelConfig, OIMConfig, SFANConfig, TapsConfig
from diffps.heads.config_rois import BoxConfig, ReIDConfig, RPNConfig
from tests.heads.scenes import CONFIG, scenes, searcher


def test_names_are_listed_once() -> None:
    taps = TapsConfig(detection="d", guidance="m", level1=("a",), level2=("b",), level3=("d", "e"))
    assert taps.names == ("d", "m", "a", "b", "e")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TapsConfig(detection="d", guidance="m", level3=()), "level3"),
        (lambda: TapsConfig(detection="d", guidance="m", level3=("e", "e")), "twice"),
        (lambda: DGRPNConfig(peak_window=4), "odd"),
        (lambda: DGRPNConfig(tau=1.0), "tau"),
        (lambda: BoxConfig(positive_iou=0.3, negative_iou=0.5), "negative_iou"),
        (lambda: ReIDConfig(samples=1), "reid.samples"),
        (lambda: RPNConfig(anchor_sizes=()), "rpn.anchor_sizes"),
        (lambda: RPNConfig(anchor_sizes=(32, 0)), "rpn.anchor_sizes"),
        (lambda: RPNConfig(anchor_ratios=(-1.0,)), "rpn.anchor_ratios"),
        (lambda: RPNConfig(samples=0), "rpn.samples 0"),
        (lambda: RPNConfig(samples=3, positive_fraction=0.3), "rpn.samples 3.*positive_fraction 0.3"),
        (lambda: RPNConfig(nms=7.0), "rpn.nms 7"),
        (lambda: RPNConfig(train_before_nms=0), "rpn.train_before_nms 0"),
        (lambda: RPNConfig(train_after_nms=0), "rpn.train_after_nms 0"),
        (lambda: RPNConfig(test_before_nms=-1), "rpn.test_before_nms -1"),
        (lambda: RPNConfig(test_after_nms=0), "rpn.test_after_nms 0"),
        (lambda: BoxConfig(grid=(0, 4)), "box.grid"),
        (lambda: BoxConfig(coder_weights=(0.0, 10.0, 5.0, 5.0)), "box.coder_weights"),
        (lambda: BoxConfig(score_threshold=1.0), "box.score_threshold"),
        (lambda: BoxConfig(nms=-0.1), "box.nms"),
        (lambda: BoxConfig(detections=-1), "box.detections"),
        (lambda: ReIDConfig(grid=(24, 0)), "reid.grid"),
        (lambda: EmbeddingConfig(size=17), "embedding.size 17.*at least 18"),
        (lambda: EmbeddingConfig(kind="gfe", size=1), "embedding.size 1"),
        (lambda: EmbeddingConfig(reduction=0), "embedding.reduction"),
        (lambda: EmbeddingConfig(kernel=-1), "embedding.kernel"),
        (lambda: OIMConfig(momentum=1.0), "momentum"),
        (lambda: OIMConfig(scale=-1.0), "oim.scale"),
        (lambda: ModelConfig(head="convnext", box=BoxConfig(grid=(1, 4))), "box.grid"),
        (lambda: ModelConfig(head="convnext", reid=ReIDConfig(grid=(24, 1))), "reid.grid"),
        (lambda: ModelConfig(head_channels=30), "multiple of 4"),
        (lambda: ModelConfig(reid=ReIDConfig(grid=(4, 4))), "reid.grid"),
    ],
)
def test_what_cannot_work_is_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: DGRPNConfig(tau=-0.1), "dgrpn.tau -0.1: must be in [0, 1)"),
        (lambda: DGRPNConfig(delta=0.0), "dgrpn.delta 0.0: must be above 0"),
        (lambda: DGRPNConfig(peaks=0), "dgrpn.peaks 0: must be at least 1"),
        (lambda: DGRPNConfig(neighbourhood=-1), "dgrpn.neighbourhood -1: must be odd and positive"),
        (lambda: DGRPNConfig(neighbourhood=8), "dgrpn.neighbourhood 8: must be odd and positive"),
        (lambda: SFANConfig(temperature=0.0), "sfan.temperature 0.0: must be above 0"),
        (lambda: EmbeddingConfig(branches=0), "embedding.branches 0: must be at least 1"),
        (lambda: EmbeddingConfig(kernel=2), "embedding.kernel 2: must be odd and positive"),
        (lambda: EmbeddingConfig(drop_path=1.0), "embedding.drop_path 1.0: must be in [0, 1)"),
        (lambda: EmbeddingConfig(drop_path=-0.1), "embedding.drop_path -0.1: must be in [0, 1)"),
        (
            lambda: EmbeddingConfig(size=7, branches=2),
            "embedding.size 7: must be at least 8, one number for every strip",
        ),
        (
            lambda: EmbeddingConfig(kind="gfe", size=1),
            "embedding.size 1: must be at least 2, one number for every strip",
        ),
        (lambda: OIMConfig(queue=-1), "oim.queue -1: must be not negative"),
        (lambda: OIMConfig(momentum=-0.1), "oim.momentum -0.1: must be in [0, 1)"),
        (lambda: OIMConfig(scale=0.0), "oim.scale 0.0: must be above 0"),
        (lambda: ModelConfig(channels=0), "channels 0: must be at least 1"),
        (lambda: ModelConfig(head_blocks=0), "head_blocks 0: must be at least 1"),
        (
            lambda: ModelConfig(head_channels=0),
            "head_channels 0: must be a multiple of 4 (a bottleneck is a quarter as wide)",
        ),
        (
            lambda: ModelConfig(reid=ReIDConfig(grid=(4, 4))),
            "reid.grid (4, 4): must be at least 5 high for 3 strips",
        ),
        (
            lambda: ModelConfig(head="convnext", reid=ReIDConfig(grid=(5, 4))),
            "reid.grid (5, 4): must be at least 6 high for 3 strips",
        ),
        (
            lambda: ModelConfig(head="convnext", box=BoxConfig(grid=(4, 1))),
            "box.grid (4, 1): must be at least 2 high and wide",
        ),
        (lambda: RPNConfig(negative_iou=0.0), "rpn.negative_iou 0.0: must be at most positive_iou"),
        (lambda: RPNConfig(positive_iou=1.1), "rpn.negative_iou 0.3: must be at most positive_iou"),
        (lambda: RPNConfig(positive_fraction=1.0), "rpn.positive_fraction 1.0: must be between 0 and 1"),
        (lambda: RPNConfig(positive_fraction=0.0), "rpn.positive_fraction 0.0: must be between 0 and 1"),
        (lambda: RPNConfig(nms=1.1), "rpn.nms 1.1: must be an IoU, in [0, 1]"),
        (lambda: BoxConfig(nms=1.1), "box.nms 1.1: must be an IoU, in [0, 1]"),
        (lambda: BoxConfig(samples=1), "box.samples 1: must be at least 2"),
        (lambda: BoxConfig(sampling_ratio=0), "box.sampling_ratio 0: must be at least 1"),
        (lambda: BoxConfig(score_threshold=-0.1), "box.score_threshold -0.1: must be in [0, 1)"),
        (lambda: BoxConfig(detections=0), "box.detections 0: must be at least 1"),
        (lambda: BoxConfig(grid=(1, 0)), "box.grid (1, 0): must be at least 1 high and wide"),
        (lambda: ReIDConfig(sampling_ratio=0), "reid.sampling_ratio 0: must be at least 1"),
        (lambda: ReIDConfig(positive_iou=1.1), "reid.negative_iou 0.3: must be above 0 and at most positive_iou 1.1"),
        (lambda: ReIDConfig(negative_iou=0.0), "reid.negative_iou 0.0: must be above 0 and at most positive_iou 0.7"),
        (lambda: ReIDConfig(positive_fraction=0.0), "reid.positive_fraction 0.0: must be between 0 and 1"),
        (lambda: ReIDConfig(positive_fraction=1.0), "reid.positive_fraction 1.0: must be between 0 and 1"),
    ],
)
def test_what_is_just_outside_a_range_is_told_the_range(build: Callable[[], object], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert str(caught.value) == f"model.{told}"


def test_what_is_just_inside_a_range_is_taken() -> None:
    DGRPNConfig(tau=0.0, peaks=1, peak_window=1, neighbourhood=1)
    EmbeddingConfig(size=2, branches=1, reduction=1, kernel=1, drop_path=0.0)
    EmbeddingConfig(kind="gfe", size=2)
    OIMConfig(queue=0, momentum=0.0)
    RPNConfig(positive_iou=1.0, negative_iou=1.0, samples=2, nms=0.0, anchor_sizes=(1,))
    RPNConfig(nms=1.0, train_before_nms=1, train_after_nms=1, test_before_nms=1, test_after_nms=1)
    BoxConfig(grid=(1, 1), sampling_ratio=1, samples=2, score_threshold=0.0, nms=0.0, detections=1)
    BoxConfig(positive_iou=1.0, negative_iou=1.0, nms=1.0)
    ReIDConfig(grid=(1, 1), sampling_ratio=1, samples=2)
    ModelConfig(channels=1, head_blocks=1, head_channels=4, reid=ReIDConfig(grid=(5, 1)))
    ModelConfig(head="convnext", box=BoxConfig(grid=(2, 2)), reid=ReIDConfig(grid=(6, 2)))
    ModelConfig(embedding=EmbeddingConfig(kind="gfe"), reid=ReIDConfig(grid=(1, 1)))
    TapsConfig(detection="d", level1=("a",), level2=("a",), level3=("a",))  # twice, but in different levels


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"level3": ()}, "taps.level3: name at least one tap; re-ID works on its grid"),
        ({"level1": ("a", "b", "a")}, "taps.level1: a tap is named twice: a, b, a"),
        ({"level2": ("c", "c")}, "taps.level2: a tap is named twice: c, c"),
    ],
)
def test_taps_that_cannot_be_read_are_named(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TapsConfig(**{"detection": "d", "level3": ("d",)} | changes)
    assert str(caught.value) == told


@pytest.mark.parametrize(
    "changes",
    [
        {"box": BoxConfig(grid=(1, 1), samples=8), "reid": ReIDConfig(grid=(5, 1), samples=8)},
        {"head": "convnext", "box": BoxConfig(grid=(2, 2)), "reid": ReIDConfig(grid=(6, 2), samples=8)},
        {"rpn": replace(CONFIG.rpn, samples=2, train_after_nms=1)},
        {"embedding": EmbeddingConfig(size=18, reduction=1, kernel=1)},
    ],
)
def test_the_smallest_that_is_taken_works(changes: dict[str, Any]) -> None:
    model, batch = searcher(replace(CONFIG, **changes)), scenes(2)
    losses = model(batch.features, batch.targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    assert all(len(found) for found in model.eval().detect(batch.features, score_threshold=0.0))


def test_loads_without_torch() -> None:
    code = "import sys, diffps.heads.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TAPS = st.lists(st.sampled_from(["up.1", "up.2", "\u00fcp", ""]), max_size=3).map(tuple)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 4, 2**31, 2**70])
FRACTIONS = st.floats(-1, 2) | st.sampled_from([0.0, 1.0, 0.5, 1e308, 5e-324, float("nan"), float("inf")])
FIELDS: dict[type, dict[str, st.SearchStrategy[Any]]] = {
    TapsConfig: {"detection": st.text(), "guidance": st.none() | st.text(), "level1": TAPS, "level3": TAPS},
    DGRPNConfig: {"tau": FRACTIONS, "delta": FRACTIONS, "peaks": NUMBERS, "peak_window": NUMBERS},
    OIMConfig: {"queue": NUMBERS, "momentum": FRACTIONS, "scale": FRACTIONS},
    EmbeddingConfig: {"kind": st.sampled_from(["mge", "gfe"]), "size": NUMBERS, "kernel": NUMBERS},
    RPNConfig: {"anchor_ratios": st.lists(FRACTIONS, max_size=3).map(tuple), "samples": NUMBERS, "nms": FRACTIONS},
    BoxConfig: {"grid": st.tuples(NUMBERS, NUMBERS), "coder_weights": st.tuples(*[FRACTIONS] * 4)},
}


@pytest.mark.parametrize("kind", FIELDS)
@given(data=st.data())
def test_a_config_is_refused_or_comes_back_from_json_as_it_was(kind: Any, data: st.DataObject) -> None:
    values = data.draw(st.fixed_dictionaries({}, optional=FIELDS[kind]))
    if kind is TapsConfig:
        values = {"detection": "up.1", "level3": ("up.1",), **values}
    try:
        config = kind(**values)
    except ConfigError:
        with pytest.raises(ConfigError):
            config_from_json(kind, values)
        return
    assert config_from_json(kind, json.loads(json.dumps(asdict(config)))) == config
    with pytest.raises(ConfigError, match=f"{kind.__name__}: another"):
        config_from_json(kind, {**asdict(config), "another": 1})
