"""Modules taken out of a head whose every number is random, against heads built without them."""

from dataclasses import replace

import pytest
import torch

from diffps.heads.config import ModelConfig, MSFRNConfig
from diffps.knockouts import gate_ranges, knock_outs, learned_scalars, widest
from diffps.model import PersonSearcher
from tests.heads.reference import randomise
from tests.heads.scenes import CONFIG, Batch, scenes, searcher


def trained(config: ModelConfig = CONFIG) -> PersonSearcher:
    """A head whose parameters are random and whose BatchNorm has seen a batch."""
    model, batch = searcher(config), scenes(4)
    randomise(model)
    model(batch.features, batch.targets)
    return model.eval()


def without(model: PersonSearcher, **off: None) -> PersonSearcher:
    """A head built without a module, with all the numbers that are left."""
    built = searcher(replace(model.config, **off)).eval()
    state = model.state_dict()
    built.load_state_dict({name: state[name] for name in built.state_dict()})
    return built


def outcome(model: PersonSearcher, batch: Batch) -> list[torch.Tensor]:
    found = model.detect(batch.features, score_threshold=0.0)
    embeddings = model.embed(batch.features, [target.boxes for target in batch.targets])
    arrays = [array for persons in found for array in (persons.boxes, persons.scores, persons.embeddings)]
    return [*map(torch.from_numpy, arrays), *embeddings]


def same(a: PersonSearcher, b: PersonSearcher, batch: Batch) -> bool:
    pairs = list(zip(outcome(a, batch), outcome(b, batch), strict=True))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("dgrpn", CONFIG),
        ("sfan", CONFIG),
        ("msfrn", replace(CONFIG, msfrn=MSFRNConfig(refine_low_band=True))),
    ],
)
def test_taken_out_is_as_if_built_without(name: str, config: ModelConfig) -> None:
    model, batch = trained(config), scenes(2)
    out = knock_outs(model)[name]
    assert same(out, without(model, **{name: None}), batch)
    assert not same(out, model, batch)


def test_msfrn_as_released_keeps_its_low_band_and_nothing_learned() -> None:
    model = trained()
    x = torch.randn(2, 24, 16, 24)
    out = knock_outs(model)["msfrn"]
    for level, frm in out.msfrn.frm.items():
        means = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(frm(x), x + means)
        assert not torch.allclose(model.msfrn.frm[level](x), x + means)


def test_the_trained_head_is_left_alone_and_its_weights_are_shared() -> None:
    model, batch = trained(), scenes(2)
    before, state = outcome(model, batch), {name: t.clone() for name, t in model.state_dict().items()}
    outs = knock_outs(model)
    for out in outs.values():
        outcome(out, batch)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(a, b) for a, b in zip(before, outcome(model, batch), strict=True))
    own = {tensor.data_ptr() for tensor in model.state_dict().values()}
    for out in outs.values():
        new = [name for name, tensor in out.state_dict().items() if tensor.data_ptr() not in own]
        assert all(name.endswith(("gamma", "alpha")) for name in new)
        assert not out.training


def test_modules_that_are_off_cannot_be_taken_out() -> None:
    assert set(knock_outs(trained())) == {"dgrpn", "msfrn", "sfan"}
    assert knock_outs(trained(replace(CONFIG, dgrpn=None, msfrn=None, sfan=None))) == {}
    assert set(knock_outs(trained(replace(CONFIG, msfrn=None)))) == {"dgrpn", "sfan"}


def test_learned_scalars_are_the_modules_own() -> None:
    model = trained(replace(CONFIG, msfrn=MSFRNConfig(refine_low_band=True)))
    words = ["head", "shirts", "pants", "shoes"]
    found = learned_scalars(model, words)
    assert found["dgrpn"] == {
        "beta": pytest.approx(abs(model.dgrpn.beta.item()) + 1e-6),
        "gamma": model.dgrpn.gamma.item(),
    }
    assert found["sfan"]["alpha"] == model.reid_head.sfan.alpha.item()
    assert list(found["sfan"]["weights"]) == words
    assert sum(found["sfan"]["weights"].values()) == pytest.approx(1)
    assert set(found["msfrn"]) == {"level2", "level3"}
    assert found["msfrn"]["level3"]["high_xy"] == model.msfrn.frm["level3"].high_xy.gamma.item()
    assert set(found["msfrn"]["level2"]) == {"low", "high_y", "high_x", "high_xy"}
    off = learned_scalars(trained(replace(CONFIG, dgrpn=None, msfrn=None, sfan=None)))
    assert off == {}
    assert list(learned_scalars(trained())["sfan"]["weights"]) == ["0", "1", "2", "3"]


def test_ranges_hold_every_factor_that_is_applied() -> None:
    model, batch = trained(), scenes(2)
    boxes = [target.boxes for target in batch.targets]
    ranges = gate_ranges(model, batch.features, boxes)
    refined = model.msfrn(batch.features)
    rois = model.reid_head.cut(refined, boxes)
    with torch.no_grad():
        factors = {
            "sfan": model.reid_head.sfan(rois) / rois,
            "dgrpn": model.detection_map(batch.features, refined) / model.aggregation(batch.features["d"]),
        }
    for name, factor in factors.items():
        known = factor[factor.isfinite()]
        assert ranges[name] == pytest.approx((known.min().item(), known.max().item()), rel=1e-3)
    assert set(gate_ranges(model, batch.features, [boxes[0][:0]] * 2)) == {"dgrpn"}


def test_ranges_of_batches_join() -> None:
    batches: list[dict[str, tuple[float, float]]] = [{"sfan": (0.9, 1.0)}, {"sfan": (0.95, 1.1), "dgrpn": (1.0, 1.2)}]
    assert widest(batches) == {"sfan": (0.9, 1.1), "dgrpn": (1.0, 1.2)}
    assert widest([]) == {}
