"""Taps read from released diffusers with plain forward hooks, and a forward that ends where the last tap lies.

Nothing in diffusers is patched and no attention processor is replaced: q, k and v are the outputs of ``to_q``,
``to_k`` and ``to_v``; a map is the softmax of hooked q and k, in float32, while the model stays on fused attention.
Features are channels last, (B, H, W, C); see :class:`TapReader` for maps and text.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from diffps.backbone.hooks import Hooks
from diffps.backbone.parts import DiffusersModel
from diffps.errors import CheckpointError
from diffps.taps import FeatureName, TapSpec, check_taps

HeadRule = Literal["mean", "all"] | int
Span = tuple[int, int]

MAP_BLOCK_BYTES = 256 << 20
_PLAIN_PROCESSORS = ("AttnProcessor", "AttnProcessor2_0")


@dataclass(frozen=True, slots=True)
class Request:
    """What to read in one forward.

    ``taps`` are ids of the UNet's table. Cross-attention maps are read for the token ``spans`` (word -> first, last + 1
    of the prompt's tokens) and come out under :class:`~diffps.taps.FeatureName`; without spans the whole map under
    the tap's id. ``head`` is an attention head, their mean, or all of them.
    """

    taps: tuple[str, ...]
    spans: Mapping[str, Span] = field(default_factory=dict)
    head: HeadRule = "mean"


class TapReader:
    """Hooks on one UNet, alive between ``__enter__`` and ``__exit__``; :meth:`run` does a forward and returns the taps.

    Shapes: grid taps (B, H, W, C); text taps (B, T, C); maps of a word (B, H, W, heads), mean over its tokens; whole
    maps (B, H, W, heads, keys). Raises UnknownTapError, or CheckpointError for a UNet whose q and k cannot be seen.
    """

    def __init__(self, unet: DiffusersModel, table: Mapping[str, TapSpec], request: Request) -> None:
        check_taps(request.taps, table)
        self._unet = unet
        self._specs = [spec for spec in table.values() if spec.id in set(request.taps)]
        self._request = request
        self._hooks = Hooks(spec.id for spec in self._specs)
        self._grids: dict[str, tuple[int, int]] = {}
        self._queries: dict[str, Tensor] = {}
        _refuse_hidden_projections(unet, self._specs)
        for spec in self._specs:
            if spec.kind.endswith("-map"):
                _selected_heads(request.head, spec)

    def __enter__(self) -> "TapReader":
        for spec in self._specs:
            self._watch(spec)
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()

    def run(
        self,
        latents: Tensor,
        timestep: int | Tensor,
        context: Tensor,
        stop: bool = True,
        added: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Forward ``latents`` (B, 4, h, w) under ``context`` (1 or B, T, D); ``stop`` ends it after the last tap.

        ``added``: what SDXL's UNet wants beside, (1, ...) each.
        """
        count = len(latents)
        options: dict[str, Any] = {"encoder_hidden_states": context.expand(count, -1, -1), "return_dict": False}
        if added is not None:
            options["added_cond_kwargs"] = {name: value.expand(count, -1) for name, value in added.items()}
        taken = self._hooks.run(lambda: self._unet(latents, timestep, **options), stop)
        self._grids.clear()
        self._queries.clear()
        return taken

    def _watch(self, spec: TapSpec) -> None:
        module = self._unet.get_submodule(spec.module)
        parent, inside, _ = spec.module.partition(".transformer_blocks.")
        if inside:
            self._hooks.on_input(self._unet.get_submodule(parent), lambda value: self._note_grid(parent, value))
        if spec.id == "unet-in":
            self._hooks.on_input(module, lambda value: self._keep(spec, value.permute(0, 2, 3, 1)))
        elif spec.kind in ("self-map", "cross-map"):
            self._watch_map(spec, module, parent)
        else:
            self._hooks.on_output(module, lambda value: self._keep(spec, self._on_grid(spec, parent, value)))

    def _note_grid(self, parent: str, value: Tensor) -> None:
        self._grids[parent] = (value.shape[-2], value.shape[-1])

    def _on_grid(self, spec: TapSpec, parent: str, value: Tensor) -> Tensor:
        if spec.kind == "text":
            return value
        if value.ndim == 4:
            return value.permute(0, 2, 3, 1)
        return value.reshape(len(value), *self._grids[parent], -1)

    def _watch_map(self, spec: TapSpec, attention: DiffusersModel, parent: str) -> None:
        def keep_query(query: Tensor) -> None:
            self._queries[spec.id] = query

        def compute(key: Tensor) -> None:
            query = self._queries.pop(spec.id)
            heads = _selected_heads(self._request.head, spec)
            spans = self._request.spans if spec.kind == "cross-map" else {}
            maps = attention_map(attention, query, key, heads, list(spans.values()))
            if self._request.head == "mean":
                maps = maps.mean(2, keepdim=True)
            maps = maps.reshape(len(maps), *self._grids[parent], *maps.shape[2:])
            for column, word in enumerate(spans):
                self._hooks.take(str(FeatureName(spec.id, word)), maps[..., column])
            self._keep(spec, None if spans else maps)

        self._hooks.on_output(attention.to_q, keep_query)
        self._hooks.on_output(attention.to_k, compute)

    def _keep(self, spec: TapSpec, value: Tensor | None) -> None:
        if value is not None:
            self._hooks.take(spec.id, value)
        self._hooks.done(spec.id)


def attention_map(
    attention: DiffusersModel,
    query: Tensor,
    key: Tensor,
    heads: slice,
    spans: Sequence[Span] = (),
    block_bytes: int = MAP_BLOCK_BYTES,
) -> Tensor:
    """Softmax over all keys, in float32: query (B, N, C), key (B, T, C) -> (B, N, heads, columns) float32.

    Columns are the T keys, or one per span: the mean of its keys' probabilities. Positions are taken in blocks of
    ``block_bytes`` of logits, so memory stays bounded whatever the grid.
    """
    q, k = by_head(query, attention.heads, attention.norm_q), by_head(key, attention.heads, attention.norm_k)
    columns = [slice(*span) for span in spans]
    return softmax_columns(q[:, heads], k[:, heads], attention.scale, columns, block_bytes)


def by_head(projected: Tensor, heads: int, norm: nn.Module | None) -> Tensor:
    """(B, N, C) -> (B, heads, N, C / heads), normalised where the attention does it."""
    value = projected.reshape(*projected.shape[:2], heads, -1).transpose(1, 2)
    return value if norm is None else norm(value)


def softmax_columns(
    query: Tensor, key: Tensor, scale: float, columns: Sequence[slice | list[int]], block_bytes: int = MAP_BLOCK_BYTES
) -> Tensor:
    """:func:`attention_map` of query (B, heads, N, d) and key (B, heads, T, d); ``columns`` pick keys of the T."""
    q, k = query.float(), key.float().transpose(2, 3)
    rows = max(1, block_bytes // (4 * q.shape[0] * q.shape[1] * k.shape[3]))
    blocks = []
    for first in range(0, q.shape[2], rows):
        probabilities = (q[:, :, first : first + rows] @ k * scale).softmax(-1)
        if columns:
            probabilities = torch.stack([probabilities[..., picked].mean(-1) for picked in columns], -1)
        blocks.append(probabilities)
    return torch.cat(blocks, dim=2).transpose(1, 2)


@contextmanager
def fixed_context(unet: DiffusersModel, context: Tensor) -> Iterator[None]:
    """Inside, cross-attention keys and values are those of ``context`` (1, T, D), computed once and not per image."""
    attentions = [module for name, module in unet.named_modules() if name.endswith(".attn2")]
    kept = [(attention, attention.to_k, attention.to_v) for attention in attentions]
    with torch.inference_mode():
        for attention, to_k, to_v in kept:
            attention.to_k, attention.to_v = _Fixed(to_k(context)), _Fixed(to_v(context))
    try:
        yield
    finally:
        for attention, to_k, to_v in kept:
            attention.to_k, attention.to_v = to_k, to_v


class _Fixed(nn.Module):
    """Stands for a projection whose input never changes."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value, persistent=False)

    def forward(self, context: Tensor) -> Tensor:
        return self.value.expand(len(context), -1, -1)


def _selected_heads(head: HeadRule, spec: TapSpec) -> slice:
    if not isinstance(head, int):
        return slice(None)
    if not 0 <= head < spec.channels:
        raise CheckpointError(f"tap {spec.id}: head {head} of {spec.channels}; heads count from 0")
    return slice(head, head + 1)


def _refuse_hidden_projections(unet: DiffusersModel, specs: Sequence[TapSpec]) -> None:
    for spec in specs:
        path, inside, part = spec.module.partition(".attn")
        if not inside:
            continue
        attention = unet.get_submodule(f"{path}.attn{part[0]}")
        processor = type(getattr(attention, "processor", None)).__name__
        # Not attention.fused_projections, which stays set when projections are unfused.
        if processor.startswith("Fused"):
            raise CheckpointError(
                f"tap {spec.id}: projections are fused, so q and k cannot be seen; call unet.unfuse_qkv_projections()"
            )
        if processor not in (*_PLAIN_PROCESSORS, "NoneType"):
            raise CheckpointError(
                f"tap {spec.id}: attention processor {processor} may hide q and k; "
                "call unet.set_attn_processor(AttnProcessor2_0()) of diffusers.models.attention_processor"
            )
