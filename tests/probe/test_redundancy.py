import numpy as np
import pytest

from diffps.probe.redundancy import similarity


def plain(x: np.ndarray, y: np.ndarray) -> float:
    """Debiased linear CKA by the formula, whole kernels at once."""

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        n, one = len(k), np.ones(len(k))
        k, other = k - np.diag(np.diag(k)), other - np.diag(np.diag(other))
        value = np.trace(k @ other) + (one @ k @ one) * (one @ other @ one) / ((n - 1) * (n - 2))
        return float(value - 2 / (n - 2) * one @ k @ other @ one) / (n * (n - 3))

    a, b = x @ x.T, y @ y.T
    return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


def test_equal_to_the_formula_whatever_the_offset() -> None:
    rng = np.random.default_rng(0)
    taps = {name: rng.normal(size=(150, 7)) for name in "ab"}
    taps["c"] = taps["a"] @ rng.normal(size=(7, 3)) + rng.normal(size=(150, 3))
    found = similarity({name: value + 40 for name, value in taps.items()}, list("abc"), 0)
    for i, one in enumerate("abc"):
        for j, other in enumerate("abc"):
            assert found[i, j] == pytest.approx(plain(taps[one], taps[other]), abs=1e-9)


def test_turned_and_scaled_vectors_are_the_same_and_unrelated_ones_are_not() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(700, 30)).astype(np.float32)
    turn, _ = np.linalg.qr(rng.normal(size=(30, 30)))
    taps = {"x": x, "turned": 5 * x @ turn + 3, "other": rng.normal(size=(700, 400)), "still": np.ones((700, 4))}
    found = similarity(taps, list(taps), 0)
    assert found[0, 1] == pytest.approx(1, abs=1e-6)
    # 400 dimensions and few boxes: without the correction this would be 0.2.
    assert abs(found[0, 2]) < 0.02
    assert np.isnan(found[3]).all()


def test_too_few_boxes() -> None:
    assert np.isnan(similarity({"a": np.ones((3, 2))}, ["a"], 0)).all()


def test_of_many_boxes_a_seeded_512_are_taken() -> None:
    rng = np.random.default_rng(4)
    taps = {name: rng.normal(size=(600, 4)) for name in "ab"}
    for seed in (0, 9):
        chosen = np.random.default_rng(seed).permutation(600)[:512]
        found = similarity(taps, ["a", "b"], seed)
        assert found[0, 1] == pytest.approx(plain(taps["a"][chosen], taps["b"][chosen]), abs=1e-9)
    few = {name: values[:4] for name, values in taps.items()}
    assert similarity(few, ["a", "b"], 0)[0, 1] == pytest.approx(plain(few["a"], few["b"]), abs=1e-9, nan_ok=True)
    assert np.isfinite(similarity({"a": taps["a"][:5]}, ["a"], 0)).all()
    assert similarity({}, [], 0).shape == (0, 0)
