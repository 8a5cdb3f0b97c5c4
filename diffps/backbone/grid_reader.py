"""Taps of diffusion transformers, whose tokens are the patches of a grid, by plain forward hooks.

Nothing of diffusers is patched: q, k and v are what their linear layers give, what follows AdaLN is what an attention
is given, and a map is the softmax of hooked q and k.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from diffps.backbone.capture import by_head, softmax_columns
from diffps.backbone.hooks import Hooks
from diffps.backbone.parts import DiffusersModel
from diffps.taps import FeatureName, TapSpec

Forward = Callable[[DiffusersModel, Tensor, Tensor, Sequence[Tensor]], object]


class GridReader:
    """Hooks on ``model`` that read ``specs`` as (B, H, W, C), and maps (B, H, W, heads) of each of ``words``, whose
    tokens have the given places in the text; ``head`` is one of them or their mean.

    ``forward`` runs the model on latents, timestep and texts. A context manager that leaves the model as it was.
    """

    def __init__(
        self,
        model: DiffusersModel,
        specs: Sequence[TapSpec],
        forward: Forward,
        words: Mapping[str, Sequence[int]],
        head: Literal["mean"] | int = "mean",
    ) -> None:
        self._model, self._specs, self._forward = model, specs, forward
        self._words, self._head = words, head
        self._hooks = Hooks(spec.id for spec in specs)
        self._grid = (0, 0)

    def __enter__(self) -> "GridReader":
        for spec in self._specs:
            self._watch(spec)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def run(self, latents: Tensor, timestep: Tensor, texts: Sequence[Tensor], stop: bool = True) -> dict[str, Tensor]:
        """Forward ``latents`` (B, C, h, w) at ``timestep`` (B,); ``stop`` ends it after the last tap."""
        patch = int(self._model.config.patch_size)
        self._grid = (latents.shape[2] // patch, latents.shape[3] // patch)
        return self._hooks.run(lambda: self._forward(self._model, latents, timestep, texts), stop)

    def _watch(self, spec: TapSpec) -> None:
        module = self._model.get_submodule(spec.module)
        if spec.kind == "cross-map":
            self._watch_map(spec, module)
        elif spec.id.endswith("-modulated"):
            self._hooks.on_input(module, lambda value: self._keep(spec, value))
        else:
            # A joint block gives texts and image in this order, its attention the other way round.
            place = 0 if ".attn" in spec.module else -1
            self._hooks.on_output(module, lambda value: self._keep(spec, value), place)

    def _keep(self, spec: TapSpec, tokens: Tensor) -> None:
        self._hooks.take(spec.id, tokens.reshape(len(tokens), *self._grid, -1))
        self._hooks.done(spec.id)

    def _watch_map(self, spec: TapSpec, attention: DiffusersModel) -> None:
        """The keys are the text's or, where an attention is joint, the image's and then the text's."""
        joint = getattr(attention, "add_k_proj", None) is not None
        keys = [attention.to_k, *([attention.add_k_proj] if joint else [])]
        seen: list[Tensor] = []

        def compute(_: Tensor) -> None:
            q = by_head(seen[0], attention.heads, attention.norm_q)
            norms = (attention.norm_k, getattr(attention, "norm_added_k", None))
            parts = [by_head(key, attention.heads, norm) for key, norm in zip(seen[1:], norms, strict=False)]
            before = sum(part.shape[2] for part in parts[:-1])
            seen.clear()
            heads = slice(None) if self._head == "mean" else slice(self._head, self._head + 1)
            columns = [[before + place for place in places] for places in self._words.values()]
            maps = softmax_columns(q[:, heads], torch.cat(parts, 2)[:, heads], attention.scale, columns)
            if self._head == "mean":
                maps = maps.mean(2, keepdim=True)
            maps = maps.reshape(len(maps), *self._grid, *maps.shape[2:])
            for column, word in enumerate(self._words):
                self._hooks.take(str(FeatureName(spec.id, word)), maps[..., column])
            self._hooks.done(spec.id)

        def begin(value: Tensor) -> None:
            seen[:] = [value]  # whatever a forward that failed left behind

        self._hooks.on_output(attention.to_q, begin)
        for layer in keys:
            self._hooks.on_output(layer, seen.append)
        self._hooks.on_output(keys[-1], compute)


def cut(model: DiffusersModel, specs: Sequence[TapSpec]) -> DiffusersModel:
    """``model`` without the blocks after the last of ``specs``: the early stop for torch.compile, which an exception
    would break. Shares its weights with ``model``, which stays whole."""
    last = max(int(spec.module.split(".")[1]) for spec in specs)
    clone = copy.copy(model)
    clone._modules = dict(model._modules)
    clone.transformer_blocks = nn.ModuleList(list(model.transformer_blocks)[: last + 1])
    return clone
