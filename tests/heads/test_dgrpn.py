"""Guidance against loops over peaks and positions."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diffps.heads.config import DGRPNConfig
from diffps.heads.dgrpn import DGRPN, find_peaks
from tests.heads import reference

CONFIG = DGRPNConfig(tau=0.4, delta=1.5, peak_window=5, neighbourhood=5, peaks=4, beta=0.8, gamma=0.7)
# Few levels make plateaus and equal peaks the rule.
MAPS = st.tuples(st.integers(1, 11), st.integers(1, 11)).flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
)


@given(strength=MAPS, window=st.sampled_from([1, 3, 7]), count=st.integers(1, 8))
def test_peaks(strength: np.ndarray, window: int, count: int) -> None:
    found = find_peaks(torch.from_numpy(strength)[None], window, count)
    ours = [(int(y), int(x)) for y, x, real in zip(found.row[0], found.column[0], found.real[0], strict=True) if real]
    assert ours == reference.peaks(strength.astype(np.float64), window, count)


@pytest.mark.parametrize("count", [1, 3, 200])
def test_peaks_are_the_same_by_the_operators_onnx_knows(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    strength = torch.randint(0, 5, (3, 9, 13), generator=torch.Generator().manual_seed(0)) / 5
    plain = find_peaks(strength, 3, count)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    exported = find_peaks(strength, 3, count)
    assert plain.real.any()
    assert torch.equal(exported.real, plain.real)
    for mine, other in zip(exported[:2], plain[:2], strict=True):
        assert torch.equal(mine[plain.real], other[plain.real])


def test_a_plateau_has_one_peak_at_its_lowest_index() -> None:
    strength = torch.zeros(1, 9, 9)
    strength[0, 3:6, 4:7] = 1.0
    found = find_peaks(strength, 7, 10)
    assert found.real.sum() == 1
    assert (found.row[0, 0], found.column[0, 0]) == (3, 4)


@given(guidance=MAPS, beta=st.floats(-2, 2), peaks=st.integers(1, 6))
def test_gaussians(guidance: np.ndarray, beta: float, peaks: int) -> None:
    config = replace(CONFIG, peaks=peaks, beta=beta)
    ours = DGRPN(config).gaussians(torch.from_numpy(guidance)[None])[0]
    expected = reference.gaussian(guidance, config, float(np.float32(beta)))
    np.testing.assert_allclose(ours.detach().numpy(), expected, atol=2e-5)


def test_paper_settings_on_a_random_map() -> None:
    guidance = np.random.default_rng(0).random((40, 52), dtype=np.float32) ** 4
    config = DGRPNConfig()
    ours = DGRPN(config).gaussians(torch.from_numpy(guidance)[None])[0].detach().numpy()
    np.testing.assert_allclose(ours, reference.gaussian(guidance, config, 1.0), atol=1e-5)


def test_modulation_and_its_gradients() -> None:
    torch.manual_seed(0)
    features, guidance = torch.randn(2, 3, 9, 7, requires_grad=True), torch.rand(2, 9, 7)
    module = DGRPN(CONFIG)
    out = module(features, guidance)
    g = np.stack([reference.gaussian(m, CONFIG, CONFIG.beta) for m in guidance.numpy()])
    f = reference.array(features)
    np.testing.assert_allclose(out.detach().numpy(), f + CONFIG.gamma * g[:, None] * f, atol=1e-5)

    weight = torch.randn_like(out)
    (out * weight).sum().backward()
    np.testing.assert_allclose(features.grad, weight.numpy() * (1 + CONFIG.gamma * g[:, None]), atol=1e-5)
    np.testing.assert_allclose(module.gamma.grad, (weight.numpy() * g[:, None] * f).sum(), rtol=1e-4)
    step = 1e-4
    above, below = (
        np.stack([reference.gaussian(m, CONFIG, CONFIG.beta + d) for m in guidance.numpy()]) for d in (step, -step)
    )
    slope = CONFIG.gamma * (weight.numpy() * f * ((above - below) / (2 * step))[:, None]).sum()
    np.testing.assert_allclose(module.beta.grad, slope, rtol=1e-3)


def test_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(1)
    features, guidance = torch.randn(5, 4, 12, 10), torch.rand(5, 12, 10)
    guidance[1] = 0.3  # constant: no peak
    guidance[2] *= 1e-6  # another range
    guidance[3, 0, 0] = 50.0  # one peak, in the corner
    module = DGRPN(CONFIG)
    together = module(features, guidance)
    for image in range(5):
        assert torch.equal(module(features[image : image + 1], guidance[image : image + 1])[0], together[image])


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_map_without_peaks_changes_nothing(value: float) -> None:
    features = torch.randn(1, 2, 6, 6, requires_grad=True)
    module = DGRPN(CONFIG)
    out = module(features, torch.full((1, 6, 6), value))
    assert torch.equal(out, features)
    out.sum().backward()
    assert module.beta.grad == 0
    assert module.gamma.grad == 0


def test_fewer_peaks_than_asked_add_no_gaussians() -> None:
    guidance = torch.zeros(1, 20, 20)
    guidance[0, 4, 5] = 1.0
    g = DGRPN(replace(CONFIG, peaks=50)).gaussians(guidance)[0]
    assert g[4, 5] == 1.0
    assert g[19, 19] < 1e-6
    assert (g >= 0.5).sum() < 20


def test_a_map_of_another_grid_is_resized() -> None:
    torch.manual_seed(2)
    features, guidance = torch.randn(1, 3, 8, 12), torch.rand(1, 4, 6)
    resized = torch.from_numpy(reference.bilinear(guidance[:, None].double().numpy(), 8, 12)[:, 0]).float()
    module = DGRPN(CONFIG)
    torch.testing.assert_close(module(features, guidance), module(features, resized))
