"""A UNet cut off behind its last tap: the early stop for torch.compile, which an exception would break."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from diffps.backbone.parts import DiffusersModel
from diffps.taps import TapSpec, check_taps


def pruned(unet: DiffusersModel, table: Mapping[str, TapSpec], taps: Sequence[str]) -> DiffusersModel:
    """A UNet without what comes after the last of ``taps``: diffusers' own forward runs it, and returns nothing of use.

    Shares its weights with ``unet``, which stays whole. This is the early stop for torch.compile, which an exception
    would break; the taps are bit-equal.
    """
    check_taps(taps, table)
    last = max((spec for spec in table.values() if spec.id in taps), key=list(table.values()).index)
    clone = copy.copy(unet)
    clone._modules = dict(unet._modules)
    path = last.module.split(".")
    if path[0] == "conv_out":
        return clone
    clone.conv_norm_out, clone.conv_out = None, nn.Identity()
    if path[0] == "up_blocks":
        index = int(path[1])
        blocks = list(unet.up_blocks[: index + 1])
        blocks[-1] = _pruned_block(blocks[-1], path[2:])
        clone.up_blocks = nn.ModuleList(blocks)
    else:
        clone.up_blocks = nn.ModuleList()
    return clone


def _pruned_block(block: DiffusersModel, path: list[str]) -> DiffusersModel:
    if path[0] == "upsamplers":
        return block
    clone = copy.copy(block)
    clone._modules = dict(block._modules)
    repeat = int(path[1])
    clone.upsamplers = None
    clone.resnets = nn.ModuleList(list(block.resnets)[: repeat + 1])
    if hasattr(block, "attentions"):
        attentions: list[nn.Module] = list(block.attentions)[: repeat + 1]
        if path[0] == "resnets":
            attentions[-1] = _Passed()
        elif path[2:3] == ["transformer_blocks"]:
            attentions[-1] = _pruned_transformer(attentions[-1], path[3:])
        clone.attentions = nn.ModuleList(attentions)
    return clone


def _pruned_transformer(transformer: DiffusersModel, path: list[str]) -> DiffusersModel:
    clone = copy.copy(transformer)
    clone._modules = dict(transformer._modules)
    index = int(path[0])
    blocks = list(transformer.transformer_blocks)[: index + 1]
    if path[1:2] == ["attn1"]:
        block = copy.copy(blocks[-1])
        block._modules = dict(block._modules)
        block.attn1 = _Projections(block.attn1)
        block.attn2, block.norm2, block.ff, block.norm3 = None, None, nn.Identity(), nn.Identity()
        blocks[-1] = block
    clone.transformer_blocks = nn.ModuleList(blocks)
    return clone


class _Passed(nn.Module):
    """A transformer that is not needed."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
        return (hidden_states,)


class _Projections(nn.Module):
    """Self-attention of which only q, k and v are wanted."""

    def __init__(self, attention: DiffusersModel) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = attention.to_q, attention.to_k, attention.to_v
        self.heads, self.scale = attention.heads, attention.scale
        self.norm_q, self.norm_k = attention.norm_q, attention.norm_k

    def forward(self, hidden_states: Tensor, **_: Any) -> Tensor:
        self.to_q(hidden_states)
        self.to_k(hidden_states)
        self.to_v(hidden_states)
        return hidden_states
