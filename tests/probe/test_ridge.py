import numpy as np
import torch
from sklearn.linear_model import Ridge

from diffps.probe.ridge import RIDGE, ridge


def sums(x: np.ndarray, y: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(np.column_stack([x, np.ones(len(x))]))
    return rows.T @ rows, rows.T @ torch.from_numpy(y)


def test_equal_to_ridge_regression_on_standardised_samples() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)) * [1, 10, 1e-3, 1, 1, 1] + [0, 0, 0, 500, 0, 0]
    y = x @ rng.normal(size=(6, 2)) + 3
    weights = ridge(*sums(x, y)).numpy()
    model = Ridge(alpha=RIDGE * len(x)).fit((x - x.mean(0)) / x.std(0), y)
    np.testing.assert_allclose(
        x @ weights[:-1] + weights[-1], model.predict((x - x.mean(0)) / x.std(0)), rtol=1e-8, atol=1e-8
    )


def test_scale_and_shift_of_channels_change_no_prediction() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(100, 5)), rng.normal(size=(100, 1))
    moved = x * [1, 2, 50, 0.1, 1] + [0, 1, -30, 4, 0]
    one, other = ridge(*sums(x, y)).numpy(), ridge(*sums(moved, y)).numpy()
    np.testing.assert_allclose(x @ one[:-1] + one[-1], moved @ other[:-1] + other[-1], atol=1e-9)


def test_a_constant_channel_has_no_weight_and_more_channels_than_samples_are_no_harm() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(10, 30)), rng.normal(size=(10, 1))
    x[:, 4] = 1234.5
    weights = ridge(*sums(x, y)).numpy()
    assert np.isfinite(weights).all()
    assert weights[4] == 0


def test_without_samples_everything_is_zero() -> None:
    assert not ridge(*sums(np.zeros((0, 3)), np.zeros((0, 2)))).any()


def test_a_channel_of_zeros_has_no_weight_and_harms_no_other() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
    x[:, 1] = 0
    weights, without = ridge(*sums(x, y)).numpy(), ridge(*sums(x[:, [0, 2]], y)).numpy()
    assert weights[1] == 0
    np.testing.assert_allclose(weights[[0, 2, 3]], without, rtol=1e-9)


def test_strength_is_a_share_of_a_channels_variance() -> None:
    x = np.array([[-1.0], [1.0]])
    for strength in (0.01, 1.0):
        weights = ridge(*sums(x, 3 * x + 5), strength).numpy()
        np.testing.assert_allclose(weights[:, 0], [3 / (1 + strength), 5])
    np.testing.assert_allclose(ridge(*sums(x, 3 * x + 5)).numpy()[0], 3 / 1.01)
