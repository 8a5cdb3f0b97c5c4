"""SD 2.1's true config with random weights: its widths and heads, and every tap, in 3.5 GB of weights."""

import pytest
import torch

from diffps.backbone.capture import Request, TapReader
from diffps.taps import STANDARD_UNET, standard_taps
from tests.backbone.reference import Reference, as_reference

HEIGHT, WIDTH = 256, 192
# Of the level's taps, outermost last: up path, then the middle.
LEVELS = {"up-level3": (320, 5, 8), "up-level2": (640, 10, 16), "up-level1": (1280, 20, 32), "mid": (1280, 20, 64)}


@pytest.mark.slow
def test_every_tap_at_true_width_equals_an_independent_forward() -> None:
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(**STANDARD_UNET, use_linear_projection=True).eval().requires_grad_(False)
    assert sum(weight.numel() for weight in unet.parameters()) == 865_910_724
    latents, text = torch.randn(1, 4, HEIGHT // 8, WIDTH // 8), torch.randn(1, 77, 1024)
    table = standard_taps()
    with torch.inference_mode():
        with TapReader(unet, table, Request(tuple(table), head="all")) as reader:
            found = reader.run(latents, torch.tensor([0]), text)
        expected = Reference(unet)(latents, 0, text)
    assert set(found) == set(expected) == set(table)
    for name, value in expected.items():
        result = as_reference(table[name], found[name])
        assert result.shape == value.shape, name
        assert float((result - value).abs().max() / value.abs().max()) < 1e-4, name
    for level, (width, heads, stride) in LEVELS.items():
        block = f"{level}-vit-block0" if level == "mid" else f"{level}-repeat0-vit-block0"
        grid = (1, HEIGHT // stride, WIDTH // stride)
        for part in ("self-q", "self-k", "self-v", "cross-q", "out"):
            assert found[f"{block}-{part}"].shape == (*grid, width)
        assert found[f"{block}-ffn-inner"].shape == (*grid, 4 * width)
        assert found[f"{block}-cross-k"].shape == (1, 77, width)
        assert found[f"{block}-cross-map"].shape == (*grid, heads, 77)
        assert found[f"{block}-self-map"].shape == (*grid, heads, grid[1] * grid[2])
