"""Configs refuse what cannot work, survive JSON, and load without torch."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.heads.agreement import config_from_json
from diffps.heads.config import DGRPNConfig, EmbeddingConfig, ModelConfig, OIMConfig, TapsConfig
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
