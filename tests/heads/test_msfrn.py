"""LPM, SRB, FRM and the network over levels against plain NumPy and PyWavelets in float64."""

import numpy as np
import pytest
import torch

from diffps.features import Basis, Feature
from diffps.heads.config import MSFRNConfig, TapsConfig
from diffps.heads.lpm import LPM, Aggregation, enter
from diffps.heads.msfrn import FRM, MSFRN, SRB
from tests.heads import reference

TAPS = TapsConfig(detection="d", guidance="m", level1=("a",), level2=("b", "c"), level3=("d", "e", "f"))
WIDTHS = {"level1": 7, "level2": 5, "level3": 4}
GRIDS = {"a": (3, 2, 7), "b": (5, 4, 5), "c": (5, 4, 5), "d": (10, 7, 4), "e": (10, 7, 4), "f": (10, 7, 4)}


def features(seed: int = 0) -> dict[str, Feature]:
    generator = torch.Generator().manual_seed(seed)
    return {name: Feature(torch.randn(2, *grid, generator=generator)) for name, grid in GRIDS.items()}


def nchw(feature: Feature) -> np.ndarray:
    return reference.array(feature.values).transpose(0, 3, 1, 2)


@pytest.mark.parametrize(("module", "plain"), [(LPM, reference.lpm), (Aggregation, reference.aggregation)])
def test_first_layers(module: type[LPM], plain: object) -> None:
    layer, feature = module(4, 6).double(), features()["d"]
    reference.randomise(layer)
    np.testing.assert_allclose(reference.array(layer(feature)), plain(nchw(feature), layer), atol=1e-9)


def test_srb() -> None:
    block, x = SRB(6).double(), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    reference.randomise(block)
    np.testing.assert_allclose(reference.array(block(x)), reference.srb(x.numpy(), block), atol=1e-9)


@pytest.mark.parametrize("wavelet", ["haar", "db3", "bior2.2"])
@pytest.mark.parametrize("refine_low_band", [False, True])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_frm(wavelet: str, refine_low_band: bool, size: tuple[int, int]) -> None:
    block = FRM(4, MSFRNConfig(wavelet=wavelet, refine_low_band=refine_low_band)).double()
    reference.randomise(block)
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = reference.frm(x.numpy(), block, wavelet, refine_low_band=refine_low_band)
    np.testing.assert_allclose(reference.array(block(x)), expected, atol=1e-9)


def plain_msfrn(given: dict[str, Feature], module: MSFRN, config: MSFRNConfig | None) -> np.ndarray:
    """Everything concatenated, level by level, as the method is written."""
    x = None
    for name in ("level1", "level2", "level3"):
        if name not in module.levels:
            continue
        level = module.levels[name]
        fused = np.concatenate([reference.lpm(nchw(given[tap]), level.lpm) for tap in level.taps], axis=1)
        fused = fused if level.fuse is None else reference.conv1x1(fused, level.fuse)
        if x is not None:
            fused = fused + reference.bilinear(x, *fused.shape[2:])
        if name == "level2":
            mean, var = fused.mean(1, keepdims=True), fused.var(1, keepdims=True)
            scale, shift = (reference.array(p)[:, None, None] for p in (module.norm.weight, module.norm.bias))
            fused = (fused - mean) / np.sqrt(var + module.norm.eps) * scale + shift
        x = fused
        if name != "level1" and config is not None:
            x = reference.frm(fused, module.frm[name], config.wavelet, refine_low_band=config.refine_low_band)
    return reference.conv1x1(x, module.leave)


@pytest.mark.parametrize("config", [None, MSFRNConfig(), MSFRNConfig(wavelet="sym4", refine_low_band=True)])
@pytest.mark.parametrize("levels", ["all", "no level 1", "one level"])
def test_network(config: MSFRNConfig | None, levels: str) -> None:
    taps = {
        "all": TAPS,
        "no level 1": TapsConfig(detection="d", guidance="m", level2=("b",), level3=("d", "e")),
        "one level": TapsConfig(detection="d", guidance="m", level3=("e",)),
    }[levels]
    module, given = MSFRN(taps, WIDTHS, 6, config).double(), features()
    reference.randomise(module)
    np.testing.assert_allclose(reference.array(module(given)), plain_msfrn(given, module, config), atol=1e-8)
    np.testing.assert_allclose(
        reference.array(module(given, refine=False)), plain_msfrn(given, module, None), atol=1e-8
    )


def test_off_has_no_frequency_parameters() -> None:
    assert not [name for name, _ in MSFRN(TAPS, WIDTHS, 6, None).named_parameters() if name.startswith("frm")]


def test_basis_folds_into_the_first_convolution() -> None:
    """Coefficients through the folded weight equal the expanded tap through the weight, gradients too."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(9, 6, 1, bias=False)
    stored = Feature(torch.randn(2, 5, 4, 3), basis=Basis(torch.randn(9), torch.randn(3, 9)))
    folded, expanded = enter(stored, conv), conv(stored.dense())
    torch.testing.assert_close(folded, expanded, atol=1e-5, rtol=1e-5)
    weight = torch.randn_like(folded)
    ours, plain = (torch.autograd.grad((out * weight).sum(), conv.weight)[0] for out in (folded, expanded))
    torch.testing.assert_close(ours, plain, atol=1e-4, rtol=1e-5)


def test_stored_int8_is_read_as_its_float_values() -> None:
    values = torch.randint(-127, 128, (2, 10, 7, 4), dtype=torch.int8)
    stored = Feature(values, torch.rand(2, 1, 4).half())
    layer = LPM(4, 6)
    plain = Feature(stored.dense().permute(0, 2, 3, 1).contiguous())
    torch.testing.assert_close(layer(stored), layer(plain))


def test_output_is_channels_last() -> None:
    module = MSFRN(TAPS, WIDTHS, 6, MSFRNConfig())
    assert module(features()).is_contiguous(memory_format=torch.channels_last)
