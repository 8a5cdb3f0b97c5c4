"""Part encoder against plain NumPy, uneven splits included."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffps.heads.config import EmbeddingConfig
from diffps.heads.embedding import CBAM, GFE, MGE, PartEncoder, split_evenly, strongest_product
from tests.heads import reference

CONFIG = EmbeddingConfig(size=40, branches=3, reduction=4, kernel=3, drop_path=0.0)


@given(total=st.integers(0, 200), parts=st.integers(1, 9))
def test_uneven_splits_give_the_remainder_to_the_first(total: int, parts: int) -> None:
    assert split_evenly(total, parts) == [len(part) for part in np.array_split(np.arange(total), parts)]


def test_cbam() -> None:
    module, x = CBAM(8, 4, 3).double(), torch.randn(3, 8, 5, 4, dtype=torch.float64)
    reference.randomise(module)
    attended, weights = module(x)
    np.testing.assert_allclose(reference.array(attended * weights), reference.cbam(x.numpy(), module), atol=1e-10)


def test_pooled_product_and_its_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    scale = torch.rand(3, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(strongest_product(x, scale), (x * scale).amax((2, 3)))
    assert torch.autograd.gradcheck(strongest_product, (x, scale))


@pytest.mark.parametrize("height", [6, 7, 3])
def test_mge(height: int) -> None:
    module, x = MGE(8, 20, CONFIG).double(), torch.randn(4, 8, height, 3, dtype=torch.float64)
    reference.randomise(module)
    assert module(x).shape == (4, 20)
    np.testing.assert_allclose(reference.array(module(x)), reference.mge(x.numpy(), module), atol=1e-8)


def test_gfe() -> None:
    module, x = GFE(8, 20).double(), torch.randn(4, 8, 6, 3, dtype=torch.float64)
    reference.randomise(module)
    expected = reference.batch_norm(reference.linear(x.numpy().max((2, 3)), module.linear), module.norm)
    np.testing.assert_allclose(reference.array(module(x)), expected, atol=1e-9)


def test_encoder_joins_two_maps_to_unit_length() -> None:
    torch.manual_seed(0)
    encoder, maps = PartEncoder((8, 16), CONFIG), (torch.randn(5, 8, 6, 4), torch.randn(5, 16, 3, 2))
    out = encoder(maps)
    parts = np.concatenate(
        [reference.mge(reference.array(x), part) for x, part in zip(maps, encoder.encoders, strict=True)], axis=1
    )
    expected = parts / np.linalg.norm(parts, axis=1, keepdims=True)
    assert out.shape == (5, 40)
    np.testing.assert_allclose(out.detach().numpy(), expected, atol=1e-4)


def test_paper_sizes() -> None:
    """512 numbers of each map over 3 branches, over 1, 2 and 3 strips."""
    encoder = PartEncoder((4, 8), EmbeddingConfig())
    sizes = [[strip.linear.out_features for strip in branch] for branch in encoder.encoders[0].branches]
    assert sizes == [[171], [86, 85], [57, 57, 56]]


def test_drop_path_drops_whole_strips_in_training_only() -> None:
    torch.manual_seed(0)
    module, x = MGE(8, 20, replace(CONFIG, drop_path=0.5)), torch.randn(64, 8, 6, 3)
    first_strip = module(x)[:, :7]
    dropped = (first_strip == 0).all(1)
    assert 10 < dropped.sum() < 54
    module.eval()
    assert torch.equal(module(x), module(x))
