"""Taps of the models that timm builds: every module of a ViT's blocks, every block of a CNN's stages.

``vit-block07-{norm1,q,k,v,attn-out,ffn-inner,out}``, ``vit-norm``; ``cnn-stage3-block05-out``, stages counted from 1.
q, k and v are as they leave the linear layers: before heads, their norms and rotary positions. Prefix tokens (class,
registers) are dropped; what is left lies on the grid of patches.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffps.backbone.headers import one_line
from diffps.backbone.hooks import Hooks
from diffps.errors import CheckpointError
from diffps.taps import TapSpec

_PROBE = (256, 320)  # any canvas whose two grids differ
_STAGE = re.compile(r"(?:layer|stages\.|blocks\.|s|stage)(\d+)")


def is_vit(model: nn.Module) -> bool:
    """True for a model of equal transformer blocks on one grid of patches, with positions that follow the canvas."""
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer | Eva)


def timm_table(model: Any, name: str) -> dict[str, TapSpec]:
    """Every tap of a ``model`` on the meta device, in forward order. Raises CheckpointError for one of another kind."""
    table = {tap.id: tap for tap in (_vit_taps(model) if is_vit(model) else _cnn_taps(model, name))}
    if not table:
        raise CheckpointError(f"{name}: neither a ViT with plain blocks nor a CNN with stages that give grids")
    return table


def _vit_taps(model: Any) -> Iterator[TapSpec]:
    stride = int(model.patch_embed.patch_size[0])
    width = int(model.embed_dim)
    for number, block in enumerate(model.blocks):
        prefix, path = f"vit-block{number:02}", f"blocks.{number}"
        attention, ffn = getattr(block, "attn", None), getattr(getattr(block, "mlp", None), "fc2", None)
        if hasattr(block, "norm1"):
            yield TapSpec(f"{prefix}-norm1", f"{path}.norm1", "grid", width, stride)
        for part, channels in zip("qkv", _projected(attention), strict=False):
            yield TapSpec(f"{prefix}-{part}", f"{path}.attn", "grid", channels, stride)
        if attention is not None:
            yield TapSpec(f"{prefix}-attn-out", f"{path}.attn", "grid", width, stride)
        if ffn is not None:
            yield TapSpec(f"{prefix}-ffn-inner", f"{path}.mlp.fc2", "grid", ffn.in_features, stride)
        yield TapSpec(f"{prefix}-out", path, "grid", width, stride)
    if not isinstance(model.norm, nn.Identity):
        yield TapSpec("vit-norm", "norm", "grid", width, stride)


def _projected(attention: Any) -> tuple[int, ...]:
    """Channels of q, k and v; none where an attention computes them otherwise."""
    if isinstance(getattr(attention, "qkv", None), nn.Linear):
        return (attention.qkv.out_features // 3,) * 3
    layers = [getattr(attention, f"{part}_proj", None) for part in "qkv"]
    return tuple(layer.out_features for layer in layers if isinstance(layer, nn.Linear)) if all(layers) else ()


def _cnn_taps(model: Any, name: str) -> Iterator[TapSpec]:
    places = dict(_blocks(model)) or _whole_stages(model)
    shapes: dict[str, tuple[int, ...]] = {}
    hooks = Hooks(())

    def note(path: str) -> Callable[[Any], None]:
        def keep(value: Any) -> None:
            shapes[path] = tuple(value.shape) if isinstance(value, Tensor) else ()

        return keep

    for path in places.values():
        hooks.on_output(model.get_submodule(path), note(path))
    try:
        with torch.inference_mode():
            model.forward_features(torch.zeros(1, 3, *_PROBE, device="meta"))
    except Exception as error:  # a model that takes one size only, in its own words
        raise CheckpointError(f"{name}: runs on no other canvas than its own ({one_line(error)})") from error
    finally:
        hooks.close()
    for tap, path in places.items():
        shape = shapes.get(path, ())
        stride = _PROBE[0] // shape[2] if len(shape) == 4 and shape[2] else 0
        if stride and (shape[2] * stride, shape[3] * stride) == _PROBE:
            yield TapSpec(tap, path, "grid", shape[1], stride)


def _blocks(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(tap, module) of every block of ``layer1``, ``stages.0.blocks``, ``blocks.0`` and their like."""
    found = [(path, module) for path, module in model.named_modules() if _STAGE.fullmatch(path)]
    for number, (path, stage) in enumerate(found, 1):
        inner = f"{path}.blocks" if hasattr(stage, "blocks") else path
        for place, child in enumerate(name for name, _ in model.get_submodule(inner).named_children()):
            yield f"cnn-stage{number}-block{place:02}-out", f"{inner}.{child}"


def _whole_stages(model: Any) -> dict[str, str]:
    infos = getattr(model, "feature_info", [])
    return {f"cnn-stage{number}-out": info["module"] for number, info in enumerate(infos, 1)}


class TimmReader:
    """Hooks on one model that read ``specs`` as (B, H, W, C)."""

    def __init__(self, model: Any, specs: Mapping[str, TapSpec]) -> None:
        self._model, self._vit = model, is_vit(model)
        self._prefix = int(model.num_prefix_tokens) if self._vit else 0
        self._hooks = Hooks(specs)
        self._grid = (0, 0)
        for spec in specs.values():
            self._watch(spec)

    def run(self, pixels: Tensor, stop: bool = True) -> dict[str, Tensor]:
        """Forward ``pixels`` (B, 3, H, W), normalised; ``stop`` ends it after the last tap."""
        if self._vit:
            patch = int(self._model.patch_embed.patch_size[0])
            self._grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        return self._hooks.run(lambda: self._model.forward_features(pixels), stop)

    def close(self) -> None:
        """Take the hooks off the model."""
        self._hooks.close()

    def _watch(self, spec: TapSpec) -> None:
        module = self._model.get_submodule(spec.module)
        part = spec.id.rpartition("-")[2]
        if not self._vit:
            # A copy: the next block may work in place.
            self._hooks.on_output(module, lambda value: self._keep(spec, value.permute(0, 2, 3, 1).clone()))
        elif part in ("q", "k", "v"):
            self._watch_projection(spec, module, part)
        elif part == "inner":
            self._hooks.on_input(module, lambda value: self._keep(spec, self._patches(value)))
        else:
            self._hooks.on_output(module, lambda value: self._keep(spec, self._patches(value)))

    def _watch_projection(self, spec: TapSpec, attention: Any, part: str) -> None:
        fused, place = attention.qkv, "qkv".index(part)
        if fused is None:
            layer = getattr(attention, f"{part}_proj")
            self._hooks.on_output(layer, lambda value: self._keep(spec, self._patches(value)))
        elif getattr(attention, "q_bias", None) is None:
            self._hooks.on_output(fused, lambda value: self._keep(spec, self._patches(value.chunk(3, -1)[place])))
        else:
            # EVA joins its biases and calls no module, so the projection is done again.
            def project(value: Tensor) -> None:
                weight = fused.weight.chunk(3)[place]
                self._keep(spec, self._patches(F.linear(value, weight, getattr(attention, f"{part}_bias"))))

            self._hooks.on_input(attention, project)

    def _patches(self, tokens: Tensor) -> Tensor:
        rows = tokens[:, self._prefix :]
        return rows.reshape(len(rows), *self._grid, -1)

    def _keep(self, spec: TapSpec, value: Tensor) -> None:
        self._hooks.take(spec.id, value)
        self._hooks.done(spec.id)
