"""Latents and noise: what they depend on, and nothing else."""

import numpy as np
import pytest
import torch

from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.latents import LatentEncoder, NoiseKey, add_noise, scaled_latents

KEYS = [NoiseKey("aa", "identity"), NoiseKey("bb", "identity"), NoiseKey("aa", "hflip")]


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> LatentEncoder:
    return LatentEncoder(checkpoint.load_vae(torch.float32), "cpu")


def test_moments_are_the_posterior_of_the_vae(checkpoint: Checkpoint, encoder: LatentEncoder) -> None:
    pixels = torch.rand(2, 3, 64, 128) * 2 - 1
    moments = encoder.moments(pixels)
    assert moments.shape == (2, 8, 16, 8)
    with torch.inference_mode():
        posterior = checkpoint.load_vae(torch.float32).encode(pixels).latent_dist
    assert torch.equal(moments[..., :4], posterior.mean.permute(0, 2, 3, 1))
    std = (0.5 * moments[..., 4:].clamp(-30, 20)).exp().permute(0, 3, 1, 2)
    torch.testing.assert_close(std, posterior.std)


def test_the_vae_never_holds_the_scores_of_its_one_wide_head() -> None:
    """Stable Diffusion's VAE attends over all positions with one head 512 wide; at canvas 1280 the scores would take
    2.6 GB."""
    from diffusers import AutoencoderKL
    from torch.profiler import ProfilerActivity, profile

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 512),
        norm_num_groups=8,
        latent_channels=4,
    )
    encoder = LatentEncoder(vae.eval().requires_grad_(False), "cpu")
    pixels = torch.zeros(1, 3, 512, 512)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        encoder.moments(pixels)
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    scores = 4 * (512 // 8) ** 4
    # Explicit attention holds the scores and their softmax at once.
    assert scores / 4 < peak < 1.5 * scores


def test_the_mean_is_scaled_and_ignores_the_seed() -> None:
    moments = torch.randn(3, 4, 4, 8)
    first, second = (scaled_latents(moments, "mean", KEYS, seed, 0.18215) for seed in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, moments[..., :4].permute(0, 3, 1, 2) * 0.18215)


def test_a_sample_has_the_posterior_s_spread() -> None:
    moments = torch.zeros(1, 64, 64, 8)
    moments[..., :4], moments[..., 4:] = 3.0, 2 * float(np.log(0.5))
    sample = scaled_latents(moments, "sample", KEYS[:1], 0, 1.0)
    assert abs(float(sample.mean()) - 3) < 0.02
    assert abs(float(sample.std()) - 0.5) < 0.02


def test_noise_depends_on_image_view_timestep_and_seed_alone() -> None:
    clean = torch.zeros(3, 4, 8, 8)

    def noise(keys: list[NoiseKey], timestep: int = 5, seed: int = 0) -> torch.Tensor:
        return add_noise(clean[: len(keys)], timestep, 0.5, "seeded", keys, seed)

    together = noise(KEYS)
    for i, key in enumerate(KEYS):
        assert torch.equal(noise([key])[0], together[i])
    assert torch.equal(noise(KEYS[::-1]), together.flip(0))
    assert len({tuple(row.flatten()[:4].tolist()) for row in together}) == 3
    assert not torch.equal(noise(KEYS, timestep=6), together)
    assert not torch.equal(noise(KEYS, seed=1), together)


def test_noise_has_the_variance_of_its_timestep(checkpoint: Checkpoint) -> None:
    alphas = checkpoint.alphas_cumprod()
    # Stable Diffusion's schedule: the first timestep is not free of noise.
    assert float((1 - alphas[0]).sqrt()) == pytest.approx(0.0292, abs=1e-4)
    noisy = add_noise(torch.ones(1, 4, 128, 128), 600, float(alphas[600]), "seeded", KEYS[:1], 0)
    assert float(noisy.mean()) == pytest.approx(float(alphas[600].sqrt()), abs=0.02)
    assert float(noisy.std()) == pytest.approx(float((1 - alphas[600]).sqrt()), abs=0.02)


def test_no_noise_is_the_latent_itself() -> None:
    clean = torch.randn(1, 4, 8, 8)
    assert torch.equal(add_noise(clean, 500, 0.1, "none", KEYS[:1], 0), clean)


def test_the_stream_is_the_same_on_every_machine() -> None:
    row = add_noise(torch.zeros(1, 1, 1, 3), 0, 0.0, "seeded", KEYS[:1], 7)[0, 0, 0]
    np.testing.assert_allclose(row.numpy(), PINNED, rtol=1e-6)


# A change here changes every stored feature: raise EXTRACTION_VERSION in stages/recipes.py with it.
PINNED = [-0.031138908, -0.703901887, 0.723709583]


@pytest.mark.parametrize(("given", "taken"), [(1000.0, 20.0), (-1000.0, -30.0)])
def test_a_log_variance_is_held_within_diffusers_range(given: float, taken: float) -> None:
    far, near = torch.zeros(1, 4, 4, 8), torch.zeros(1, 4, 4, 8)
    far[..., 4:], near[..., 4:] = given, taken
    sample = scaled_latents(far, "sample", KEYS[:1], 0, 1.0)
    assert torch.equal(sample, scaled_latents(near, "sample", KEYS[:1], 0, 1.0))
    assert 0.3 < float(sample.std()) / float(np.exp(taken / 2)) < 3
