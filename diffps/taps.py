"""Tables of taps: every place in a frozen model whose output can be kept, and the table of the UNets of diffusers.

A tap's id says where it lies (``up-level3-repeat1-vit-block0-self-k``); its spec says which module gives it and what
comes out. Plain Python on the UNet's ``config.json``: nothing here needs weights or torch.
"""

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from diffps.backbone.configs import complete
from diffps.errors import CheckpointError, UnknownTapError

UNetConfig = Mapping[str, Any]

LATENT_STRIDE = 8  # canvas pixels per latent cell: the VAE halves three times

# grid: (B, H, W, channels). text: one row per prompt token, the same for every image. *-map: attention probabilities.
TapKind = Literal["grid", "text", "self-map", "cross-map"]

# The sizes of SD 2.1; ids and modules are those of every SD 1.x and 2.x, SD-Turbo and CleanDIFT UNet.
STANDARD_UNET: UNetConfig = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": 1,
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
}

# SDXL's: two levels attend, with up to ten transformer blocks in one.
SDXL_UNET: UNetConfig = {
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
}


@dataclass(frozen=True, slots=True)
class TapSpec:
    """One tap of one model.

    ``module`` is the path of the library's module it is read from. ``channels`` counts what a position holds (for maps:
    the attention's heads). ``stride`` is the number of canvas pixels per position along each side, 0 for text.
    """

    id: str
    module: str
    kind: TapKind
    channels: int
    stride: int


def tap_table(config: UNetConfig) -> dict[str, TapSpec]:
    """Every tap of the UNet that ``config`` (its config.json) describes, by id, in the order of the forward pass.

    What the file leaves out has diffusers' defaults. Raises CheckpointError for a config without its sizes, and for
    block types other than those of the SD 1.x/2.x (and SDXL) UNets.
    """
    return {tap.id: tap for tap in _walk(complete("unet", config, "unet/config.json"))}


@dataclass(frozen=True, slots=True)
class FeatureName:
    """What a head calls a feature: a grid tap by its id, a cross-attention map as ``<tap>.<word>``.

    Blanks of a phrase become hyphens.
    """

    tap: str
    word: str | None = None

    @classmethod
    def parse(cls, text: str) -> "FeatureName":
        """The reverse of ``str``: tap ids hold no dot."""
        tap, dot, word = text.partition(".")
        return cls(tap, word if dot else None)

    def __str__(self) -> str:
        return self.tap if self.word is None else f"{self.tap}.{'-'.join(self.word.split())}"


@cache
def standard_taps() -> dict[str, TapSpec]:
    """The 229 taps of SD 2.1; the ids hold for every checkpoint of the topology, whatever its widths."""
    return tap_table(STANDARD_UNET)


def tap_kind(tap: str) -> TapKind:
    """The kind that a tap's id says it is of, in every family: ``…-self-map``, ``…-map``, ``…-cross-k``, or a grid."""
    if tap.endswith("-map"):
        return "self-map" if tap.endswith("-self-map") else "cross-map"
    return "text" if tap.endswith(("-cross-k", "-cross-v")) else "grid"


def check_taps(ids: Iterable[str], table: Collection[str]) -> None:
    """Raise UnknownTapError for the first id that ``table`` lacks, naming the nearest."""
    for tap in ids:
        if tap not in table:
            nearest = difflib.get_close_matches(tap, table, n=1, cutoff=0.0)[0]
            raise UnknownTapError(f"tap {tap!r}: no such tap in this model; the nearest is {nearest!r}")


def _walk(config: UNetConfig) -> Iterator[TapSpec]:
    widths = tuple(config["block_out_channels"])
    levels = len(widths)
    repeats = _per_level(config["layers_per_block"], levels)
    depths = _per_level(config["transformer_layers_per_block"] or 1, levels)
    # Named attention_head_dim in these configs, it holds the number of heads.
    heads = _per_level(config["num_attention_heads"] or config["attention_head_dim"], levels)
    strides = [LATENT_STRIDE << level for level in range(levels)]

    yield TapSpec("unet-in", "conv_in", "grid", config["in_channels"], strides[0])
    yield TapSpec("unet-after-conv-in", "conv_in", "grid", widths[0], strides[0])

    for level, block_type in enumerate(config["down_block_types"]):
        attends = _attends(block_type, "down", ("DownBlock2D", "CrossAttnDownBlock2D"))
        at = (widths[level], strides[level])
        for repeat in range(repeats[level]):
            prefix, block = f"down-level{level}-repeat{repeat}", f"down_blocks.{level}"
            yield from _resnet(f"{prefix}-res", f"{block}.resnets.{repeat}", *at)
            if attends:
                yield from _transformer(
                    f"{prefix}-vit", f"{block}.attentions.{repeat}", depths[level], heads[level], *at
                )
        if level < levels - 1:
            name, module = f"down-level{level}-downsampler-out", f"down_blocks.{level}.downsamplers.0"
            yield TapSpec(name, module, "grid", widths[level], strides[level + 1])

    _attends(str(config["mid_block_type"]), "mid", ("", "UNetMidBlock2DCrossAttn"))
    at = (widths[-1], strides[-1])
    yield from _resnet("mid-repeat0-res", "mid_block.resnets.0", *at)
    yield from _transformer("mid-vit", "mid_block.attentions.0", depths[-1], heads[-1], *at)
    yield from _resnet("mid-repeat1-res", "mid_block.resnets.1", *at)

    up_depths = config["reverse_transformer_layers_per_block"] or depths[::-1]
    for index, block_type in enumerate(config["up_block_types"]):
        attends = _attends(block_type, "up", ("UpBlock2D", "CrossAttnUpBlock2D"))
        level = levels - 1 - index  # of the down path, with the same width and stride
        at = (widths[level], strides[level])
        for repeat in range(repeats[level] + 1):
            prefix, block = f"up-level{index}-repeat{repeat}", f"up_blocks.{index}"
            yield from _resnet(f"{prefix}-res", f"{block}.resnets.{repeat}", *at)
            if attends:
                yield from _transformer(
                    f"{prefix}-vit", f"{block}.attentions.{repeat}", up_depths[index], heads[level], *at
                )
        if level:
            name, module = f"up-level{index}-upsampler-out", f"up_blocks.{index}.upsamplers.0"
            yield TapSpec(name, module, "grid", widths[level], strides[level - 1])

    yield TapSpec("unet-out", "conv_out", "grid", config["out_channels"], strides[0])


def _resnet(prefix: str, module: str, width: int, stride: int) -> Iterator[TapSpec]:
    yield TapSpec(f"{prefix}-increment", f"{module}.conv2", "grid", width, stride)
    yield TapSpec(f"{prefix}-out", module, "grid", width, stride)


def _transformer(
    prefix: str, module: str, depth: int | tuple[int, ...], heads: int, width: int, stride: int
) -> Iterator[TapSpec]:
    if not isinstance(depth, int):
        raise CheckpointError("unet/config.json: transformer_layers_per_block that differs within a level")
    for block in range(depth):
        name, path = f"{prefix}-block{block}", f"{module}.transformer_blocks.{block}"
        for part in "qkv":
            yield TapSpec(f"{name}-self-{part}", f"{path}.attn1.to_{part}", "grid", width, stride)
        yield TapSpec(f"{name}-self-map", f"{path}.attn1", "self-map", heads, stride)
        yield TapSpec(f"{name}-cross-q", f"{path}.attn2.to_q", "grid", width, stride)
        yield TapSpec(f"{name}-cross-k", f"{path}.attn2.to_k", "text", width, 0)
        yield TapSpec(f"{name}-cross-v", f"{path}.attn2.to_v", "text", width, 0)
        yield TapSpec(f"{name}-cross-map", f"{path}.attn2", "cross-map", heads, stride)
        yield TapSpec(f"{name}-ffn-inner", f"{path}.ff.net.0", "grid", 4 * width, stride)
        yield TapSpec(f"{name}-out", path, "grid", width, stride)
    yield TapSpec(f"{prefix}-out", module, "grid", width, stride)


def _per_level(value: Any, levels: int) -> tuple[Any, ...]:
    return (value,) * levels if isinstance(value, int) else tuple(value)


def _attends(block_type: str, where: str, known: tuple[str, str]) -> bool:
    if block_type not in known:
        raise CheckpointError(f"unet/config.json: {where} block {block_type!r} is not of the SD 1.x/2.x topology")
    return block_type == known[1]
