"""Maps of vectors and of scalars, position by position; the backwards build one map of all channels, not three."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def gated(features: Float[Tensor, "B C H W"], gate: Float[Tensor, "B H W"]) -> Float[Tensor, "B C H W"]:
    """``features`` times ``gate``, in the type of the features."""
    scaled: Tensor = _Gated.apply(features, gate)
    return scaled


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(features, gate)
        return features * gate[:, None].to(features.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        features, gate = ctx.saved_tensors
        to_features = to_gate = None
        if ctx.needs_input_grad[0]:
            to_features = grad * gate[:, None].to(grad.dtype)
        if ctx.needs_input_grad[1]:
            # A dot product per position; grad * features would be one more map of all channels.
            rows = (tensor.permute(0, 2, 3, 1) for tensor in (grad, features))
            to_gate = torch.einsum("bhwc,bhwc->bhw", *rows).to(gate.dtype)
        return to_features, to_gate


def norms(features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B H W"]:
    """Euclidean length of the vector at each position of ``features``, at least float32."""
    lengths: Tensor = _Norms.apply(features)
    return lengths


class _Norms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        wide = torch.promote_types(features.dtype, torch.float32)
        lengths: Tensor = torch.linalg.vector_norm(features, dim=1, dtype=wide)
        ctx.save_for_backward(features, lengths)
        return lengths

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        features, lengths = ctx.saved_tensors
        # The length has no derivative at 0; 0 is one of its subgradients.
        scale = torch.where(lengths > 0, grad / lengths, 0.0)
        to_features: Tensor = features * scale[:, None].to(features.dtype)
        return to_features
