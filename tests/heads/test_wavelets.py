"""The transform is PyWavelets', in both directions, and its gradient is right."""

import numpy as np
import pytest
import pywt
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.heads.wavelets import Bands, Wavelet

SIZES = st.integers(1, 23)
# One of every family, the longest filters included.
NAMES = st.sampled_from(["haar", "db1", "db2", "db7", "sym5", "coif3", "bior2.2", "bior6.8", "rbio3.5", "dmey"])


def images(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 3, height, width)))


@given(name=NAMES, height=SIZES, width=SIZES)
@pytest.mark.filterwarnings("ignore:Level value of 1 is too high")
def test_bands_are_those_of_pywavelets(name: str, height: int, width: int) -> None:
    x = images(height, width)
    low, (high_y, high_x, high_xy) = pywt.dwt2(x.numpy(), name)
    for ours, theirs in zip(Wavelet(name).analyse(x), (low, high_y, high_x, high_xy), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-9)


@given(name=NAMES, height=SIZES, width=SIZES)
def test_inverse_is_that_of_pywavelets(name: str, height: int, width: int) -> None:
    shape = [len(pywt.dwt(np.zeros(side), name)[0]) for side in (height, width)]
    low, high_y, high_x, high_xy = (images(*shape, seed) for seed in range(4))
    expected = pywt.idwt2((low.numpy(), (high_y.numpy(), high_x.numpy(), high_xy.numpy())), name)
    ours = Wavelet(name).synthesise(Bands(low, high_y, high_x, high_xy))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-9)


@given(name=NAMES.filter(lambda name: name != "dmey"), height=SIZES, width=SIZES)
def test_reconstruction_is_perfect(name: str, height: int, width: int) -> None:
    wavelet, x = Wavelet(name), images(height, width)
    np.testing.assert_allclose(wavelet.synthesise(wavelet.analyse(x), (height, width)).numpy(), x.numpy(), atol=1e-8)


@pytest.mark.parametrize("name", pywt.wavelist(kind="discrete"))
def test_every_discrete_wavelet_works(name: str) -> None:
    wavelet, x = Wavelet(name), images(9, 12)
    low, high = pywt.dwt2(x.numpy(), name)
    bands = wavelet.analyse(x)
    np.testing.assert_allclose(bands.low.numpy(), low, atol=1e-9)
    np.testing.assert_allclose(wavelet.synthesise(bands).numpy(), pywt.idwt2((low, high), name), atol=1e-9)


@pytest.mark.parametrize("name", ["haar", "db2", "bior2.2"])
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_gradients(name: str, size: tuple[int, int]) -> None:
    wavelet, x = Wavelet(name), images(*size).requires_grad_()
    assert torch.autograd.gradcheck(wavelet.analyse, (x,))
    bands = [band.detach().requires_grad_() for band in wavelet.analyse(x)]
    assert torch.autograd.gradcheck(lambda *parts: wavelet.synthesise(Bands(*parts), size), bands)


def test_haar_fast_path_equals_the_general_one() -> None:
    fast, general = Wavelet("haar"), Wavelet("haar")
    general._is_haar = False
    x = images(7, 10)
    for ours, plain in zip(fast.analyse(x), general.analyse(x), strict=True):
        torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(fast.synthesise(fast.analyse(x)), general.synthesise(fast.analyse(x)))


def test_channels_last_stays() -> None:
    wavelet, x = Wavelet("haar"), images(8, 6).to(memory_format=torch.channels_last)
    bands = wavelet.analyse(x)
    assert all(band.is_contiguous(memory_format=torch.channels_last) for band in bands)
    assert wavelet.synthesise(bands).is_contiguous(memory_format=torch.channels_last)


def test_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="'haarr': not a discrete wavelet"):
        Wavelet("haarr")
