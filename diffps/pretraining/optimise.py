"""What both trainings share: the learning rate, the noise of a step, the step itself."""

import math

import torch
from torch import Tensor

from diffps.errors import DivergedError


def cosine(step: int, steps: int, warmup: int) -> float:
    """Factor of the learning rate: linear warm-up, then a cosine to 2 %."""
    return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps))))


def settling(step: int, steps: int, settle: int, warmup: int) -> float:
    """Factor of the learning rate: linear warm-up, constant, linear to 2 % over the last ``settle`` steps."""
    left = (steps - step) / settle if settle else 1.0
    return min(1.0, (step + 1) / warmup) * min(1.0, 0.02 + 0.98 * left)


def step_generator(seed: int, stream: int, step: int) -> torch.Generator:
    """The noise of one step, the same in a resumed run."""
    return torch.Generator().manual_seed((seed * 16 + stream) * 1_000_003 + step)


def descend(loss: Tensor, optimiser: torch.optim.Optimizer, lr: float, what: str, step: int) -> None:
    """One step of ``optimiser`` at ``lr``, the gradient clipped at norm 1. Raises DivergedError."""
    if not torch.isfinite(loss):
        raise DivergedError(
            f"pretraining of the {what}: loss {float(loss.detach())} at step {step}; lower its learning rate"
        )
    for group in optimiser.param_groups:
        group["lr"] = lr
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for group in optimiser.param_groups:
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
    optimiser.step()
