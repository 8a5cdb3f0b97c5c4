"""Initial weights with which a VAE already is a linear colour codec.

From random weights a VAE of this size does not learn colours in minutes; from these it starts with the mean colour and
one luminance gradient of every 8 x 8 block, and training adds what is finer. A normalisation stands in the way of a
linear path: a group that holds s, -s, K and -K has a standard deviation that hardly depends on s, and
silu(s) - silu(-s) = s exactly.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_K = 5.0  # |s| is at most 1, so the group's deviation is constant within 2 %
_RESIDUAL = 0.05  # the residual branches start small, not dead
_LUMINANCE = (0.3, 0.6, 0.1)
_SPREAD = (0.4, 0.22, 0.22, 0.1)  # of luminance, two chroma channels and the gradient in drawn streets


@torch.no_grad()
def wire_colour_codec(vae: Any) -> None:
    """Set the weights of ``vae`` (AutoencoderKL, four levels, four latent channels) in place."""
    from diffusers.models.resnet import ResnetBlock2D

    point, box, smooth = torch.zeros(3, 3), torch.zeros(3, 3), torch.tensor([0.25, 0.5, 0.25])
    point[1, 1] = 1.0
    box[:2, :2] = 0.25  # the downsampler pads right and below
    tent = smooth[:, None] * smooth[None, :]
    rgb = {(channel, channel): 1.0 for channel in range(3)}
    resnets: list[Any] = [module for module in vae.modules() if isinstance(module, ResnetBlock2D)]
    for module in resnets:
        module.conv2.weight.mul_(_RESIDUAL)
        module.conv2.bias.zero_()
        if module.conv_shortcut is not None:
            module.conv_shortcut.weight.mul_(0.3)
            width = min(module.conv_shortcut.weight.shape[:2])
            _wire(module.conv_shortcut, torch.ones(1, 1), {(c, c): 1.0 for c in range(width)})

    encoder = vae.encoder
    _wire(encoder.conv_in, point, rgb)
    _wire(encoder.down_blocks[0].downsamplers[0].conv, box, rgb)
    _wire(encoder.down_blocks[1].downsamplers[0].conv, box, rgb)
    last = encoder.down_blocks[2].downsamplers[0].conv
    group = encoder.conv_norm_out.num_channels // encoder.conv_norm_out.num_groups
    last.weight.zero_()
    _wire(last, box, {(group * c + place, c): sign for c in range(3) for place, sign in ((0, 1.0), (1, -1.0))})
    gradient = torch.tensor([[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0], [0.0, 0.0, 0.0]]) / 4
    for channel, share in enumerate(_LUMINANCE):
        last.weight[3 * group, channel] = share * gradient
        last.weight[3 * group + 1, channel] = -share * gradient
    _linear_through_norm(encoder.mid_block.resnets[-1], encoder.conv_norm_out, encoder.conv_out, groups=4)
    encoder.conv_out.bias[4:] = -7.0  # log variance: next to no noise to begin with

    decoder = vae.decoder
    _wire(decoder.conv_in, point, rgb)
    _wire(decoder.up_blocks[0].upsamplers[0].conv, tent, rgb)
    _wire(decoder.up_blocks[1].upsamplers[0].conv, tent, rgb)
    group = decoder.conv_norm_out.num_channels // decoder.conv_norm_out.num_groups
    paired = {(group * c + place, c): sign for c in range(3) for place, sign in ((0, 1.0), (1, -1.0))}
    silent = {(group * c + place, 0): 0.0 for c in range(3) for place in range(2, group)}
    _wire(decoder.up_blocks[2].upsamplers[0].conv, tent, paired | silent)
    _linear_through_norm(decoder.up_blocks[3].resnets[-1], decoder.conv_norm_out, decoder.conv_out, groups=3)

    mix = torch.zeros(4, 4)
    mix[0, :3] = torch.tensor(_LUMINANCE)
    mix[1, :3] = torch.tensor([1.0, -1.0, 0.0])
    mix[2, :3] = torch.tensor([-0.5, -0.5, 1.0])
    mix[3, 3] = 1.0
    mix /= torch.tensor(_SPREAD)[:, None]
    for convolution, weight in ((vae.quant_conv, mix), (vae.post_quant_conv, torch.linalg.inv(mix))):
        convolution.weight.zero_()
        convolution.bias.zero_()
        convolution.weight[:4, :4, 0, 0] = weight
    vae.quant_conv.weight[4:, 4:, 0, 0] = torch.eye(4)


@torch.no_grad()
def whiten(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Give the latents mean 0 and deviation 1 per channel, in place; what the decoder makes of them stays the same.

    ``mean`` and ``std`` (4,) are those of the present latents.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:4] /= std[:, None, None, None]
    quant.bias[:4] = (quant.bias[:4] - mean) / std
    quant.bias[4:] -= 2 * std.log()
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight *= std[None, :, None, None]


def _wire(convolution: Any, kernel: Tensor, routes: Mapping[tuple[int, int], float]) -> None:
    """Output channels named in ``routes`` get ``kernel`` from their input channels and nothing else."""
    convolution.bias.zero_()
    for out, _ in routes:
        convolution.weight[out] = 0.0
    for (out, into), weight in routes.items():
        convolution.weight[out, into] = weight * kernel


def _linear_through_norm(before: Any, norm: Any, after: Any, groups: int) -> None:
    """Make ``after(silu(norm(x)))`` give s from the pairs s, -s at the head of each of the first ``groups`` groups."""
    size = norm.num_channels // norm.num_groups
    after.weight.mul_(0.1)
    after.bias.zero_()
    after.weight[:groups] = 0.0
    after.weight[groups:, : size * groups] = 0.0
    for group in range(groups):
        before.conv2.bias[size * group + 2] = _K
        before.conv2.bias[size * group + 3] = -_K
        after.weight[group, size * group, 1, 1] = 1.0
        after.weight[group, size * group + 1, 1, 1] = -1.0
    norm.weight.fill_(_K * (2.0 / size) ** 0.5)
