import numpy as np
import pytest
import torch

from diffps.probe.pooling import Weights, in_order, pool

ROWS, COLUMNS = np.random.default_rng(0).random((2, 7, 2, 5))
WEIGHTS = Weights(ROWS * (ROWS > 0.4), np.concatenate([COLUMNS, COLUMNS[..., :1]], -1), np.array([[1, 0, 0, 2.0]]))
IMAGES = np.array([0, 0, 1, 2, 2, 2, 0])


@pytest.mark.parametrize("channels", [1, 3, 33])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_equal_to_a_product_with_dense_weights(channels: int, first: bool, kind: torch.dtype) -> None:
    features = torch.randn(3, 30, channels, generator=torch.Generator().manual_seed(0)).to(kind)
    if first:
        features = features.mT.contiguous().mT
    ordered = in_order(features)
    assert ordered.is_contiguous()
    assert torch.equal(ordered, features.to(ordered.dtype))
    found = pool(ordered, IMAGES, WEIGHTS)
    assert found.dtype == torch.float64
    expected = WEIGHTS.dense() @ features.double().numpy()[IMAGES]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_what_lies_in_order_is_not_copied() -> None:
    features = torch.zeros(2, 6, 4)
    assert in_order(features).data_ptr() == features.data_ptr()
