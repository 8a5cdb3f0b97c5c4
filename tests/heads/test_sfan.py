"""One scalar map equals the stack of word maps."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.heads.config import SFANConfig
from diffps.heads.sfan import SFAN
from tests.heads import reference


@pytest.mark.parametrize("text_width", [6, 9])
@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_against_the_stack_of_word_maps(text_width: int, temperature: float) -> None:
    torch.manual_seed(0)
    x, words = torch.randn(3, 6, 4, 5), torch.randn(4, text_width)
    module = SFAN(SFANConfig(alpha=0.4, temperature=temperature), words, 6)
    with torch.no_grad():
        module.part_weights.copy_(torch.randn(4))
    text = reference.array(words)
    if text_width != 6:
        text = reference.linear(text, module.project)
    expected = reference.sfan(reference.array(x), text, reference.array(module.part_weights), 0.4, temperature)
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


@given(seed=st.integers(0, 1000), words=st.integers(2, 6), temperature=st.sampled_from([1.0, 0.05]))
def test_the_summed_map_is_a_constant_and_products_of_two_deviations(seed: int, words: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, 6, 3, 4, generator=generator)
    module = SFAN(SFANConfig(temperature=temperature), torch.randn(words, 6, generator=generator), 6)
    even = 1 / words
    torch.testing.assert_close(module.semantic_map(x), torch.full((2, 3, 4), even))
    with torch.no_grad():
        module.part_weights.copy_(torch.randn(words, generator=generator))
    apart = (module.part_weights.softmax(0) - even)[None, :, None, None] * (module.similarities(x) - even)
    torch.testing.assert_close(module.semantic_map(x), even + apart.sum(1))


def test_a_sharper_softmax_lets_the_map_move() -> None:
    torch.manual_seed(0)
    x, words = torch.randn(3, 32, 4, 5), torch.randn(4, 32)
    moves = []
    for temperature in (1.0, 0.1, 0.01):
        module = SFAN(SFANConfig(temperature=temperature), words, 32)
        with torch.no_grad():
            module.part_weights.copy_(torch.tensor([2.0, 1.0, 0.0, -1.0]))
        moves.append(module.semantic_map(x).std().item())
    assert moves[0] < 0.5 * moves[1] < 0.5 * moves[2]
    with pytest.raises(ConfigError, match=r"sfan.temperature 0.0: must be above 0"):
        SFANConfig(temperature=0.0)


def test_starts_as_the_identity() -> None:
    x = torch.randn(2, 6, 3, 3)
    assert torch.equal(SFAN(SFANConfig(), torch.randn(4, 6), 6)(x), x)
