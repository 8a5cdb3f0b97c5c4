"""One scalar map equals the stack of word maps."""

import numpy as np
import pytest
import torch

from diffps.heads.config import SFANConfig
from diffps.heads.sfan import SFAN
from tests.heads import reference


@pytest.mark.parametrize("text_width", [6, 9])
def test_against_the_stack_of_word_maps(text_width: int) -> None:
    torch.manual_seed(0)
    x, words = torch.randn(3, 6, 4, 5), torch.randn(4, text_width)
    module = SFAN(SFANConfig(alpha=0.4), words, 6)
    with torch.no_grad():
        module.part_weights.copy_(torch.randn(4))
    text = reference.array(words)
    if text_width != 6:
        text = reference.linear(text, module.project)
    expected = reference.sfan(reference.array(x), text, reference.array(module.part_weights), 0.4)
    np.testing.assert_allclose(module(x).detach().numpy(), expected, atol=1e-5)


def test_gradients_equal_those_of_the_stack() -> None:
    """Autograd through the four-fold tensor of the equation, in float64, against ours."""
    torch.manual_seed(1)
    module = SFAN(SFANConfig(alpha=0.4), torch.randn(4, 9), 6)
    x, weight = torch.randn(3, 6, 4, 5, requires_grad=True), torch.randn(3, 6, 4, 5)
    (module(x) * weight).sum().backward()

    plain = x.detach().double().requires_grad_()
    project = module.project.weight.detach().double().requires_grad_()
    parts, alpha = (p.detach().double().requires_grad_() for p in (module.part_weights, module.alpha))
    text = module.words.double() @ project.T
    cosine = torch.cosine_similarity(text[None, :, :, None, None], plain[:, None], dim=2)
    stacked = cosine.softmax(1)[:, :, None] * plain[:, None]
    summed = (parts.softmax(0)[None, :, None, None, None] * stacked).sum(1)
    ((plain + alpha * (summed - plain)) * weight).sum().backward()

    pairs = [(x, plain), (module.project.weight, project), (module.part_weights, parts), (module.alpha, alpha)]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=2e-5, rtol=1e-4)


def test_projection_only_where_the_widths_differ() -> None:
    assert not list(SFAN(SFANConfig(), torch.randn(4, 6), 6).project.parameters())
    assert [tuple(p.shape) for p in SFAN(SFANConfig(), torch.randn(4, 9), 6).project.parameters()] == [(6, 9)]


def test_a_location_of_zeros_stays_zero() -> None:
    x = torch.zeros(1, 6, 2, 2, requires_grad=True)
    out = SFAN(SFANConfig(alpha=0.5), torch.randn(4, 6), 6)(x)
    out.sum().backward()
    assert torch.equal(out, x)
    assert x.grad.isfinite().all()


def test_starts_as_the_identity() -> None:
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(SFAN(SFANConfig(), torch.randn(4, 6), 6)(x), x)
