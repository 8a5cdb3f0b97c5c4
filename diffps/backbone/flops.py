"""Floating-point operations of a model, counted on the meta device: no weights, no memory."""

from collections.abc import Callable


def count_flops(run: Callable[[], object]) -> int:
    """Operations of what ``run`` computes with tensors on the meta device, two for a multiplication with its sum."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        run()
    total: int = counter.get_total_flops()
    return total
