"""Stored features expand to what they stand for."""

from dataclasses import replace

import numpy as np
import torch

from diffps.features import SCALE_BLOCK, Basis, Feature, Ref, expand_once

H, W, K, C = 20, 30, 5, 11  # 600 positions: two full blocks of scales and a partial one


def stored() -> Feature:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-127, 128, (2, H, W, K), generator=generator, dtype=torch.int8)
    return Feature(values, (torch.rand(2, 3, K, generator=generator) + 0.1).half())


def test_int8_is_scaled_per_channel_and_block_of_positions() -> None:
    feature = stored()
    dense = feature.dense()
    assert feature.scales is not None
    for image, y, x, channel in [(0, 0, 0, 0), (0, 8, 15, 3), (0, 8, 16, 3), (1, 17, 2, 4), (1, 19, 29, 2)]:
        block = (y * W + x) // SCALE_BLOCK
        want = float(feature.values[image, y, x, channel]) * float(feature.scales[image, block, channel])
        assert float(dense[image, channel, y, x]) == np.float32(want)


def test_expands_in_channels_last_memory() -> None:
    assert stored().dense().is_contiguous(memory_format=torch.channels_last)


def test_basis_expands_to_mean_plus_coefficients_times_vectors() -> None:
    plain = stored()
    basis = Basis(torch.randn(C, generator=torch.Generator().manual_seed(1)), torch.randn(K, C))
    dense = Feature(plain.values, plain.scales, basis).dense()
    want = (
        torch.einsum("bkhw,kc->bchw", plain.dense().double(), basis.vectors.double())
        + basis.mean.double()[:, None, None]
    )
    torch.testing.assert_close(dense.double(), want, rtol=1e-5, atol=1e-4)


def test_mirror_flips_only_the_marked_samples() -> None:
    plain = stored()
    mirrored = Feature(plain.values, plain.scales, mirror=torch.tensor([False, True])).dense()
    assert torch.equal(mirrored[0], plain.dense()[0])
    assert torch.equal(mirrored[1], plain.dense()[1].flip(-1))


def test_every_part_of_a_feature_moves() -> None:
    plain = stored()
    basis = Basis(torch.zeros(C), torch.zeros(K, C))
    moved = Feature(plain.values, plain.scales, basis, torch.tensor([True, False])).to("meta")
    parts = (moved.values, moved.scales, moved.mirror, moved.basis.mean, moved.basis.vectors)
    assert all(part.device.type == "meta" for part in parts)
    assert (moved.values.shape, moved.scales.shape, moved.mirror.shape) == ((2, H, W, K), (2, 3, K), (2,))
    assert (tuple(moved.basis.mean.shape), tuple(moved.basis.vectors.shape)) == ((C,), (K, C))
    bare = Feature(plain.values).to("meta")
    assert (bare.scales, bare.basis, bare.mirror) == (None, None, None)


def test_a_feature_is_expanded_once_for_all_heads() -> None:
    plain = stored()
    for mirror in (None, torch.tensor([False, False]), torch.tensor([True, False])):
        once = expand_once(plain, mirror, torch.device("cpu"))
        assert torch.equal(once.dense(), replace(plain, mirror=mirror).dense())
        assert (once.values.dtype, once.scales, once.mirror) == (torch.float32, None, None)
        assert once.values.is_contiguous()
    basis = Basis(torch.zeros(C), torch.zeros(K, C))
    assert torch.equal(expand_once(replace(plain, basis=basis), None, torch.device("cpu")).basis.vectors, basis.vectors)


def test_a_whole_number_of_blocks_has_no_rest() -> None:
    values = torch.ones(1, 16, 32, 2, dtype=torch.int8)
    scales = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]).half()
    dense = Feature(values, scales).coefficients().flatten(2)
    assert dense[0, :, [0, 255, 256, 511]].tolist() == [[1, 1, 3, 3], [2, 2, 4, 4]]
    assert Feature(values, scales).coefficients(torch.float16).dtype == torch.float16
    assert Ref("a").view == "identity"
