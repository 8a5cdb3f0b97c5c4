"""The hand-written backwards are derivatives."""

import torch

from diffps.heads.gate import gated, norms


def test_gated() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    gate = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gated(features, gate), features * gate[:, None])
    assert torch.autograd.gradcheck(gated, (features, gate))


def test_norms() -> None:
    features = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(norms(features), features.norm(dim=1))
    assert torch.autograd.gradcheck(norms, (features,))


def test_half_precision_stays_half_and_layout_stays() -> None:
    features = torch.randn(2, 8, 4, 5).bfloat16().to(memory_format=torch.channels_last).requires_grad_()
    gate = torch.randn(2, 4, 5, requires_grad=True)
    out = gated(features, gate)
    out.sum().backward()
    assert out.dtype == features.grad.dtype == torch.bfloat16
    assert gate.grad.dtype == norms(features).dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert features.grad.is_contiguous(memory_format=torch.channels_last)
