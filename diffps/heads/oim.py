"""Online instance matching: a table of labelled identities and a circular queue of unlabelled persons."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from diffps.heads.config import OIMConfig
from diffps.heads.precision import full_precision
from diffps.records import UNLABELLED

BACKGROUND = -2  # a RoI that shows no person; it enters neither the loss nor the memory


class OIM(nn.Module):
    """Cross-entropy of 30 f . [table; queue], in float32. Labels: an identity 0..L-1, UNLABELLED (-1) or BACKGROUND
    (-2).

    The forward remembers its samples; :meth:`update` moves table and queue after the backward.
    """

    table: Float[Tensor, "L D"]
    queue: Float[Tensor, "Q D"]
    head: Int64[Tensor, ""]

    def __init__(self, config: OIMConfig, identities: int, size: int) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("table", torch.zeros(identities, size))
        self.register_buffer("queue", torch.zeros(config.queue, size))
        self.register_buffer("head", torch.zeros((), dtype=torch.int64))
        self._pending: tuple[Tensor, Tensor] | None = None

    def forward(self, embeddings: Float[Tensor, "R D"], labels: Int64[Tensor, " R"]) -> Float32[Tensor, ""]:
        """Mean loss over the labelled rows of ``embeddings``, of unit length; 0 with zero gradient without any."""
        with full_precision(embeddings):
            embeddings = embeddings.float()
            self._pending = embeddings.detach(), labels
            labelled = labels >= 0
            memory = torch.cat([self.table, self.queue])  # a copy: the update may come before the backward
            logits = self.config.scale * embeddings[labelled] @ memory.T
            return F.cross_entropy(logits, labels[labelled], reduction="sum") / labelled.sum().clamp_min(1)

    @torch.no_grad()
    def update(self) -> None:
        """table[y] = normalise(m table[y] + (1 - m) f), sample after sample; unlabelled f enter the queue at its
        head."""
        if self._pending is None:
            return
        (embeddings, labels), self._pending = self._pending, None
        self._update_table(embeddings[labels >= 0], labels[labels >= 0])
        self._update_queue(embeddings[labels == UNLABELLED])

    def _update_table(self, embeddings: Float[Tensor, "R D"], labels: Int64[Tensor, " R"]) -> None:
        # Samples of different identities do not touch each other: the n-th samples of all identities go together.
        order = labels.argsort(stable=True)
        ordered = labels[order]
        place = torch.arange(len(ordered), device=labels.device)
        turn = place - torch.searchsorted(ordered, ordered)
        for n in range(int(turn.max()) + 1 if len(turn) else 0):
            rows = order[turn == n]
            old = self.table[labels[rows]]
            mixed = self.config.momentum * old + (1 - self.config.momentum) * embeddings[rows]
            self.table[labels[rows]] = F.normalize(mixed, dim=1)

    def _update_queue(self, embeddings: Float[Tensor, "R D"]) -> None:
        length = len(self.queue)
        if length == 0:
            return
        start, kept = int(self.head), embeddings[-length:]
        start += len(embeddings) - len(kept)
        places = (start + torch.arange(len(kept), device=kept.device)) % length
        self.queue[places] = kept
        self.head.fill_((start + len(kept)) % length)
