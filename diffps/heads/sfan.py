"""Semantic feature aggregation (Eq. 6): body-part words weight each location of a RoI by one scalar."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from diffps.heads.config import SFANConfig
from diffps.heads.gate import gated, norms
from diffps.heads.precision import full_precision


class SFAN(nn.Module):
    """F_sem = F + alpha (sum_c w_c S_c * F - F) for word embeddings T.

    sum_c w_c S_c is one scalar per location, so F_sem = F (1 + alpha (that - 1)): nothing is stacked per word. As S
    sums to one over n words, that scalar is 1/n + sum_c (w_c - 1/n) (S_c - 1/n): with equal weights 1/n everywhere.
    Where the text width is not C, a bias-free linear maps T to C; where it is, there is none.
    """

    words: Float[Tensor, "words text_width"]

    def __init__(self, config: SFANConfig, words: Float[Tensor, "words text_width"], channels: int) -> None:
        super().__init__()
        self.temperature = config.temperature
        self.register_buffer("words", words.detach().float().clone())
        self.project = nn.Linear(words.shape[1], channels, bias=False) if words.shape[1] != channels else nn.Identity()
        self.part_weights = nn.Parameter(torch.ones(len(words)))
        self.alpha = nn.Parameter(torch.tensor(config.alpha))

    def similarities(self, features: Float[Tensor, "R C H W"]) -> Float[Tensor, "R words H W"]:
        """S of ``features``: the softmax over words of their cosines, divided by the temperature."""
        with full_precision(features):
            text = F.normalize(self.project(self.words), dim=1)
        dots = F.conv2d(features, text[:, :, None, None].to(features.dtype)).float()
        cosines = dots / norms(features).clamp_min(1e-12)[:, None]
        return (cosines / self.temperature).softmax(1)

    def semantic_map(self, features: Float[Tensor, "R C H W"]) -> Float[Tensor, "R H W"]:
        """sum_c w_c S_c of ``features``."""
        with full_precision(features):
            weights = self.part_weights.softmax(0)
        return torch.einsum("rwyx,w->ryx", self.similarities(features), weights)

    def gate(self, features: Float[Tensor, "R C H W"]) -> Float[Tensor, "R H W"]:
        """What each location of ``features`` is multiplied by."""
        return 1 + self.alpha * (self.semantic_map(features) - 1)

    def forward(self, features: Float[Tensor, "R C H W"]) -> Float[Tensor, "R C H W"]:
        return gated(features, self.gate(features))
