"""Where half precision must not reach."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[None]:
    """No autocast on the device of ``like``; the meta device, where costs are counted, knows none."""
    return nullcontext() if like.is_meta else torch.autocast(like.device.type, enabled=False)
