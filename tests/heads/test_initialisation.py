"""First weights against the rules as released, computed from each layer's size alone."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from diffps.errors import DiffPSError
from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.heads.config import ModelConfig, TapsConfig
from diffps.model import PersonSearcher, apply_init, build_searcher

TAPS = TapsConfig(
    detection="k0", guidance="m", level1=("q1",), level2=("q2", "v2"), level3=("k1", "v0", "k0", "q0")
)
LEVEL3 = FeatureShape(8, 8, 320)
SHAPES = {
    "m": FeatureShape(8, 8, 1),
    "q1": FeatureShape(2, 2, 1280),
    **dict.fromkeys(("q2", "v2"), FeatureShape(4, 4, 640)),
    **dict.fromkeys(("k0", "k1", "v0", "q0"), LEVEL3),
}
# Name of a parameter -> the deviation it starts with. Fans written out for C = 1024: (inputs, outputs) times the kernel.
TORCH = {
    "aggregation.enter.weight": 1 / math.sqrt(3 * 320),
    "aggregation.mix.2.weight": 1 / math.sqrt(3 * 9),
    "msfrn.levels.level1.lpm.enter.weight": 1 / math.sqrt(3 * 1280),
    "msfrn.levels.level3.lpm.mix.2.weight": 1 / math.sqrt(3 * 9),
    "msfrn.levels.level3.lpm.mix.5.weight": 1 / math.sqrt(3 * 1024),
    "msfrn.levels.level2.fuse.weight": 1 / math.sqrt(3 * 2 * 1024),
    "msfrn.levels.level3.fuse.weight": 1 / math.sqrt(3 * 4 * 1024),
    "msfrn.frm.level2.high_y.mix.0.weight": 1 / math.sqrt(3 * 9),
    "msfrn.frm.level3.high_xy.mix.1.weight": 1 / math.sqrt(3 * 1024),
    "msfrn.frm.level3.high_xy.attention.weight": 1 / math.sqrt(3 * 1024),
    "msfrn.frm.level3.high_xy.attention.bias": 1 / math.sqrt(3 * 1024),
    "msfrn.leave.weight": 1 / math.sqrt(3 * 1024),
}
XAVIER = {
    "aggregation.enter.weight": math.sqrt(2 / (320 + 1024)),
    "aggregation.mix.2.weight": math.sqrt(2 / (9 + 9 * 1024)),
    "msfrn.levels.level1.lpm.enter.weight": math.sqrt(2 / (1280 + 1024)),
    "msfrn.levels.level3.lpm.mix.2.weight": math.sqrt(2 / (9 + 9 * 1024)),
    "msfrn.levels.level3.lpm.mix.5.weight": math.sqrt(2 / (1024 + 1024)),
    "msfrn.levels.level2.fuse.weight": math.sqrt(2 / (2 * 1024 + 1024)),
    "msfrn.levels.level3.fuse.weight": math.sqrt(2 / (4 * 1024 + 1024)),
    "msfrn.frm.level2.high_y.mix.0.weight": math.sqrt(2 / (9 + 9 * 1024)),
    "msfrn.frm.level3.high_xy.mix.1.weight": math.sqrt(2 / (1024 + 1024)),
    "msfrn.frm.level3.high_xy.attention.weight": math.sqrt(2 / (1024 + 1024)),
    "msfrn.frm.level3.high_xy.attention.bias": 0.0,
    "msfrn.leave.weight": math.sqrt(2 / (1024 + 1024)),
}
STRIP = "reid_head.encoder.encoders.0.branches.0.0"  # 1024 channels in, 171 of 512 numbers out, 64 between
XAVIER_PARTS = {
    f"{STRIP}.attention.channel.0.weight": math.sqrt(2 / (1024 + 64)),
    f"{STRIP}.attention.channel.2.weight": math.sqrt(2 / (64 + 1024)),
    f"{STRIP}.attention.channel.0.bias": 0.0,
    f"{STRIP}.attention.spatial.weight": math.sqrt(2 / (2 * 49 + 49)),
    f"{STRIP}.attention.spatial.bias": 0.0,
    f"{STRIP}.linear.weight": math.sqrt(2 / (1024 + 171)),
    f"{STRIP}.norm.weight": 0.0,
    f"{STRIP}.norm.bias": 0.0,
    "box_head.classifier.weight": math.sqrt(2 / (2048 + 2)),
    "box_head.classifier.bias": 0.0,
    "box_head.regressor.0.weight": math.sqrt(2 / (2048 + 4)),
    "box_head.regressor.1.weight": 0.0,
}
KAIMING_PARTS = {
    f"{STRIP}.attention.channel.0.weight": math.sqrt(2 / 64),
    f"{STRIP}.attention.channel.2.weight": math.sqrt(2 / 64),
}
NORMAL_PARTS = {name: 0.01 if name.endswith("weight") else 0.0 for name in XAVIER_PARTS}
RPN = {"proposals.rpn.head.cls_logits.weight": 0.01, "proposals.rpn.head.bbox_pred.weight": 0.01}
RULES = {
    "v1": {**TORCH, **XAVIER_PARTS, **KAIMING_PARTS, **RPN},
    "v2": {**TORCH, **NORMAL_PARTS, **RPN},
    "xavier-everywhere": {**XAVIER, **XAVIER_PARTS, **RPN},
    "normal-everywhere": {**XAVIER, **NORMAL_PARTS, **RPN},
}
ONES = (f"{STRIP}.norm.weight", "box_head.regressor.1.weight", "msfrn.levels.level1.lpm.mix.0.weight")


@pytest.fixture(scope="module")
def wide() -> Callable[[str], PersonSearcher]:
    """The searcher at the paper's widths; its backbone heads, which no rule touches, shrunk to one block."""

    def build(rule: str) -> PersonSearcher:
        torch.manual_seed(0)
        config = ModelConfig(head_weights="random", head_blocks=1)
        built = build_searcher(config, TAPS, SHAPES, Canvas(64, 64), torch.zeros(4, 1024), 483)
        apply_init(built, rule)
        return built

    return build


@pytest.mark.parametrize("rule", RULES)
def test_means_and_deviations_at_the_papers_width(
    rule: str, wide: Callable[[str], PersonSearcher], capsys: pytest.CaptureFixture[str]
) -> None:
    """``pytest -s`` prints the table."""
    parameters = dict(wide(rule).named_parameters())
    rows = [f"{rule}: parameter, mean, deviation, as released"]
    for name, expected in RULES[rule].items():
        values = parameters[name].detach().double()
        centre = 1.0 if name in ONES and "everywhere" not in rule and rule == "v1" else 0.0
        centre = 1.0 if name in ONES and rule in ("v1", "xavier-everywhere") else centre
        deviation = values.std(correction=0).item()
        rows.append(f"{name:58} {values.mean().item():9.5f} {deviation:8.5f} {expected:8.5f}")
        # Four standard errors: of a deviation at most std / sqrt(2 n) (less for uniform numbers), of a mean std / sqrt(n).
        error = 4 * expected / math.sqrt(values.numel())
        assert deviation == pytest.approx(expected, abs=error + 1e-12), name
        assert values.mean().item() == pytest.approx(centre, abs=error + 1e-12), name
    print("\n".join(rows))
