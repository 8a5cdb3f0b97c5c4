"""Taps of diffusion transformers, from their config alone: what every module of a block gives for the image.

``vit-block07-{modulated,self-q,self-k,self-v,self-out,cross-q,cross-map,cross-out,ffn-inner,out}`` of PixArt;
``joint-block07-img-{modulated,q,k,v,attn-out,ffn-inner,out}`` and ``joint-block07-map`` of SD 3, and
``joint-block07-img-self-{modulated,q,k,v,attn-out}`` where a block of SD 3.5 attends to the image once more.
``modulated`` is what AdaLN gives to the attention.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from diffps.taps import LATENT_STRIDE, TapSpec

# What decides the tables of the published models.
PIXART_SIGMA = {"num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72, "patch_size": 2}
SD3_MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "attention_head_dim": 64, "patch_size": 2}

_PIXART = {
    "modulated": "attn1",
    "self-q": "attn1.to_q",
    "self-k": "attn1.to_k",
    "self-v": "attn1.to_v",
    "self-out": "attn1",
    "cross-q": "attn2.to_q",
    "cross-map": "attn2",
    "cross-out": "attn2",
    "ffn-inner": "ff.net.0",
    "out": "",
}
_JOINT = {"modulated": "{}", "q": "{}.to_q", "k": "{}.to_k", "v": "{}.to_v", "attn-out": "{}"}


def pixart_table(config: Mapping[str, Any]) -> dict[str, TapSpec]:
    """Every tap of the transformer that ``config`` describes, by id, in forward order."""
    taps = (
        _tap(config, f"vit-block{block:02}-{part}", f"transformer_blocks.{block}" + (f".{module}" if module else ""))
        for block in range(config["num_layers"])
        for part, module in _PIXART.items()
    )
    return {tap.id: tap for tap in taps}


def sd3_table(config: Mapping[str, Any]) -> dict[str, TapSpec]:
    """Every tap of the transformer that ``config`` describes, by id, in forward order."""
    return {tap.id: tap for block in range(config["num_layers"]) for tap in _joint_block(config, block)}


def _joint_block(config: Mapping[str, Any], block: int) -> Iterator[TapSpec]:
    name, path = f"joint-block{block:02}", f"transformer_blocks.{block}"
    for part, module in _JOINT.items():
        yield _tap(config, f"{name}-img-{part}", f"{path}.{module.format('attn')}")
    yield _tap(config, f"{name}-map", f"{path}.attn")
    if block in config.get("dual_attention_layers", ()):
        for part, module in _JOINT.items():
            yield _tap(config, f"{name}-img-self-{part}", f"{path}.{module.format('attn2')}")
    yield _tap(config, f"{name}-img-ffn-inner", f"{path}.ff.net.0")
    yield _tap(config, f"{name}-img-out", path)


def _tap(config: Mapping[str, Any], name: str, module: str) -> TapSpec:
    heads = int(config["num_attention_heads"])
    width, stride = heads * int(config["attention_head_dim"]), LATENT_STRIDE * int(config["patch_size"])
    if name.endswith("-map"):
        return TapSpec(name, module, "cross-map", heads, stride)
    return TapSpec(name, module, "grid", 4 * width if name.endswith("-ffn-inner") else width, stride)
