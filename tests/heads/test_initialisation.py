"""First weights against the rules as released, computed from each layer's size alone."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.heads.config import EmbeddingConfig, ModelConfig, TapsConfig
from diffps.heads.embedding import CBAM
from diffps.heads.initialisation import initialise
from diffps.model import PersonSearcher, apply_init, build_searcher
from tests.heads.scenes import searcher as tiny

TAPS = TapsConfig(detection="k0", guidance="m", level1=("q1",), level2=("q2", "v2"), level3=("k1", "v0", "k0", "q0"))
LEVEL3 = FeatureShape(8, 8, 320)
SHAPES = {
    "m": FeatureShape(8, 8, 1),
    "q1": FeatureShape(2, 2, 1280),
    **dict.fromkeys(("q2", "v2"), FeatureShape(4, 4, 640)),
    **dict.fromkeys(("k0", "k1", "v0", "q0"), LEVEL3),
}
# Name of a parameter -> the deviation it starts with, from its fans (inputs and outputs times the kernel) at C = 1024.
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
ONES = {f"{STRIP}.norm.weight", "box_head.regressor.1.weight"}  # where a rule leaves BatchNorm alone


def searcher(rule: str, embedding: EmbeddingConfig | None = None) -> PersonSearcher:
    """The searcher at the paper's widths; its backbone heads, which no rule touches, have one block."""
    torch.manual_seed(0)
    config = ModelConfig(head_weights="random", head_blocks=1, embedding=embedding or EmbeddingConfig())
    built = build_searcher(config, TAPS, SHAPES, Canvas(64, 64), torch.zeros(4, 1024), 483)
    apply_init(built, rule)
    return built


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_means_and_deviations_at_the_papers_width(rule: str) -> None:
    """``pytest -s`` prints the table."""
    parameters = dict(searcher(rule).named_parameters())
    rows = [f"{rule}: parameter, mean, deviation, as released"]
    for name, expected in RULES[rule].items():
        values = parameters[name].detach().double()
        mean, deviation = values.mean().item(), values.std(correction=0).item()
        rows.append(f"{name:66} {mean:9.5f} {deviation:8.5f} {expected:8.5f}")
        # A mean's standard error is std / sqrt(n), a deviation's at most std / sqrt(2 n): four and more of them.
        error = 4 * expected / math.sqrt(values.numel()) + 1e-12
        assert deviation == pytest.approx(expected, abs=error), name
        centre = 1.0 if name in ONES and not expected else 0.0
        assert mean == pytest.approx(centre, abs=error), name
    print("\n".join(rows))


@pytest.mark.parametrize("rule", ["v1", "v2"])
def test_the_released_rules_leave_everything_else_as_torch_makes_it(rule: str) -> None:
    torch.manual_seed(0)
    plain = build_searcher(
        ModelConfig(head_weights="random", head_blocks=1), TAPS, SHAPES, Canvas(64, 64), torch.zeros(4, 1024), 483
    )
    before, after = dict(plain.named_parameters()), dict(searcher(rule).named_parameters())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    parts = ("reid_head.encoder.", "box_head.classifier.", "box_head.regressor.")
    assert changed
    assert all(name.startswith(parts) for name in changed)


def test_v2_reaches_every_number_of_embedder_and_predictor() -> None:
    """BatchNorm's scales and every part of CBAM among them."""
    built = searcher("v2")
    for part in (built.reid_head.encoder, built.box_head.classifier, built.box_head.regressor):
        weights = torch.cat([p.flatten() for name, p in part.named_parameters() if name.endswith("weight")])
        assert 0.0097 < weights.std() < 0.0103
        assert weights.abs().max() < 0.07
        assert all(not p.any() for name, p in part.named_parameters() if name.endswith("bias"))


def test_global_embedding_is_xavier_as_released() -> None:
    encoder = searcher("v1", EmbeddingConfig(kind="gfe")).reid_head.encoder.encoders[0]
    assert encoder.linear.weight.std().item() == pytest.approx(math.sqrt(2 / (1024 + 512)), rel=0.01)
    assert not encoder.linear.bias.any()


def test_backbone_heads_and_proposals_keep_theirs_under_every_rule() -> None:
    kept = [
        {name: p for name, p in searcher(rule).named_parameters() if ".body." in name or name.startswith("proposals")}
        for rule in RULES
    ]
    for others in kept[1:]:
        assert all(torch.equal(kept[0][name], others[name]) for name in kept[0])


def test_a_head_says_which_rule_it_was_made_by(tmp_path: Path) -> None:
    built = tiny(init="v2")
    built.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["init"] == "v2"
    assert PersonSearcher.from_pretrained(tmp_path).init == "v2"


@pytest.mark.parametrize("rule", RULES)
def test_what_each_rule_reaches(rule: str) -> None:
    """Layers of 64 in and 64 out, filled with sevens before: what is still seven was not reached."""
    torch.manual_seed(0)
    encoder = nn.ModuleList([CBAM(64, 4, 3), nn.Linear(64, 64), nn.BatchNorm1d(64)])
    predictor = nn.ModuleList([nn.Linear(64, 64), nn.BatchNorm1d(64)])
    other = nn.Sequential(nn.Conv2d(64, 64, 1), nn.Conv2d(64, 64, 1, bias=False), nn.BatchNorm2d(64))
    for part in (encoder, predictor, other):
        for parameter in part.parameters():
            nn.init.constant_(parameter, 7)
    initialise(rule, encoder, predictor, [other])
    xavier, narrow = math.sqrt(6 / 128), math.sqrt(6 / 80)
    kaiming = math.sqrt(6 / 16) if rule == "v1" else narrow
    if rule in ("v2", "normal-everywhere"):
        for part in (encoder, predictor):
            for name, parameter in part.named_parameters():
                if name.endswith("bias"):
                    assert not parameter.any(), name
                else:
                    assert 0.004 < parameter.std().item() < 0.016, name
                    assert 0 < parameter.abs().max().item() < 0.06, name
    else:
        reached = [(encoder[1], xavier), (predictor[0], xavier), (encoder[0].channel[0], kaiming)]
        reached += [(encoder[0].channel[2], kaiming), (encoder[0].spatial, math.sqrt(6 / 27))]
        for layer, bound in reached:
            assert 0.6 * bound < layer.weight.abs().max().item() <= bound
            assert not layer.bias.any()
        assert all((each == 7).all() for norm in (encoder[2], predictor[1]) for each in norm.parameters())
    if rule.endswith("everywhere"):
        for layer in other[:2]:
            assert 0.9 * xavier < layer.weight.abs().max().item() <= xavier
        assert not other[0].bias.any()
        assert (other[2].weight == 7).all()
    else:
        assert all((each == 7).all() for each in other.parameters())
