"""The hook named in pyproject.toml checks the shapes in signatures: without it these calls broadcast unnoticed."""

import pytest
import torch
from jaxtyping import TypeCheckError

from diffps.heads.config import DGRPNConfig
from diffps.heads.dgrpn import DGRPN
from diffps.heads.gate import gated


def test_a_gate_of_another_batch_is_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"diffps\.heads\.gate\.gated"):
        gated(torch.zeros(2, 3, 4, 5), torch.zeros(1, 4, 5))


def test_a_map_of_another_batch_is_refused() -> None:
    with pytest.raises(TypeCheckError, match=r"diffps\.heads\.dgrpn\.DGRPN\.forward"):
        DGRPN(DGRPNConfig())(torch.zeros(2, 3, 8, 8), torch.zeros(1, 8, 8))
