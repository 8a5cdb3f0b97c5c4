"""Stored arrays as tensors that heads take."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cache import ArraySpec, Encoded
from cache.encodings import Project
from diffps.features import Basis, Feature


def feature_of(values: NDArray[Any], scales: NDArray[Any] | None, basis: Basis | None) -> Feature:
    """A batch as it is stored: ``values`` (B, H, W, K) and ``scales`` (B, blocks, K), not copied."""
    return Feature(torch.from_numpy(values), None if scales is None else torch.from_numpy(scales), basis)


def joined_feature(rows: Sequence[Encoded], basis: Basis | None) -> Feature:
    """Images encoded one by one, as one batch."""
    scales = [row.scales for row in rows if row.scales is not None]
    return feature_of(np.concatenate([row.values for row in rows]), np.concatenate(scales) if scales else None, basis)


def torch_basis(spec: ArraySpec) -> Basis | None:
    """The fitted basis of a ``project:k`` array; None for other encodings."""
    if not isinstance(spec.encoding, Project) or spec.encoding.basis is None:
        return None
    basis = spec.encoding.basis
    # In one memory order wherever it was read from: another one takes other kernels, which shows in the last bits.
    mean, vectors = (torch.from_numpy(np.ascontiguousarray(array)) for array in (basis.mean, basis.vectors))
    return Basis(mean, vectors)
