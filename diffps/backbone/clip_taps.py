"""Taps of the image side of CLIP and SigLIP as transformers builds them, by the ids of timm's ViTs.

``vit-text-map`` is the cosine of every patch with a word, in the space where images and texts are compared: a patch
goes the way that the whole image's vector goes (CLIP: last norm and projection; SigLIP: its pooling, with that patch
alone to pool).
"""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from diffps.backbone.hooks import Hooks
from diffps.taps import FeatureName, TapSpec

TEXT_MAP = "vit-text-map"
_MODULES = {
    "norm1": "layer_norm1",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "attn-out": "self_attn",
    "ffn-inner": "mlp.fc2",
    "out": "",
}


def clip_table(vision: Any, siglip: bool) -> dict[str, TapSpec]:
    """Every tap of the image side that the config ``vision`` describes, in forward order."""
    return {tap.id: tap for tap in _taps(vision, siglip)}


def _taps(vision: Any, siglip: bool) -> Iterator[TapSpec]:
    width, stride = int(vision.hidden_size), int(vision.patch_size)
    for number in range(vision.num_hidden_layers):
        for part, module in _MODULES.items():
            path = f"vision_model.encoder.layers.{number}" + (f".{module}" if module else "")
            channels = int(vision.intermediate_size) if part == "ffn-inner" else width
            yield TapSpec(f"vit-block{number:02}-{part}", path, "grid", channels, stride)
    if siglip:  # CLIP's last norm sees the class token alone
        yield TapSpec("vit-norm", "vision_model.post_layernorm", "grid", width, stride)
    last = f"vision_model.encoder.layers.{vision.num_hidden_layers - 1}"
    yield TapSpec(TEXT_MAP, last, "cross-map", 1, stride)


class ClipReader:
    """Hooks on the image side of ``model`` that read ``specs``; ``words`` (D,) are unit vectors of texts by name."""

    def __init__(self, model: Any, specs: Mapping[str, TapSpec], words: Mapping[str, Tensor]) -> None:
        self._model, self._words = model, words
        self._siglip = hasattr(model.vision_model, "head")
        self._hooks = Hooks(specs)
        self._grid = (0, 0)
        for spec in specs.values():
            self._watch(spec)

    def run(self, pixels: Tensor, stop: bool = True) -> dict[str, Tensor]:
        """Forward ``pixels`` (B, 3, H, W), normalised; ``stop`` ends it after the last tap."""
        patch = int(self._model.config.vision_config.patch_size)
        self._grid = (pixels.shape[2] // patch, pixels.shape[3] // patch)
        vision = self._model.vision_model
        return self._hooks.run(lambda: vision(pixel_values=pixels, interpolate_pos_encoding=True), stop)

    def close(self) -> None:
        """Take the hooks off the model."""
        self._hooks.close()

    def _watch(self, spec: TapSpec) -> None:
        module = self._model.get_submodule(spec.module)
        if spec.id == TEXT_MAP:
            self._hooks.on_output(module, lambda value: self._take_maps(spec, value))
        elif spec.id.endswith("-ffn-inner"):
            self._hooks.on_input(module, lambda value: self._keep(spec, value))
        else:
            self._hooks.on_output(module, lambda value: self._keep(spec, value))

    def _keep(self, spec: TapSpec, tokens: Tensor) -> None:
        self._hooks.take(spec.id, self._patches(tokens))
        self._hooks.done(spec.id)

    def _patches(self, tokens: Tensor) -> Tensor:
        rows = tokens if self._siglip else tokens[:, 1:]
        return rows.reshape(len(rows), *self._grid, -1)

    def _take_maps(self, spec: TapSpec, tokens: Tensor) -> None:
        patches = F.normalize(self._projected(self._patches(tokens)).float(), dim=-1)
        for word, vector in self._words.items():
            self._hooks.take(str(FeatureName(spec.id, word)), (patches @ vector)[..., None])
        self._hooks.done(spec.id)

    def _projected(self, patches: Tensor) -> Tensor:
        vision = self._model.vision_model
        norm = vision.post_layernorm
        normed = F.layer_norm(patches, norm.normalized_shape, norm.weight, norm.bias, norm.eps)  # calls no hook of it
        if not self._siglip:
            projected: Tensor = self._model.visual_projection(normed)
            return projected
        # Attention over one patch is that patch's value, whatever the query asks.
        head = vision.head
        weight, bias = head.attention.in_proj_weight.chunk(3)[2], head.attention.in_proj_bias.chunk(3)[2]
        pooled = head.attention.out_proj(F.linear(normed, weight, bias))
        result: Tensor = pooled + head.mlp(head.layernorm(pooled))
        return result
