"""Where to compute, from ``runtime.device`` and ``runtime.threads``."""

from typing import TYPE_CHECKING

from diffps.errors import ConfigError
from stages.job import Runtime

if TYPE_CHECKING:
    import torch


def choose_device(runtime: Runtime) -> "torch.device":
    """The device to use; ``auto`` is the GPU where there is one, else the CPU. Sets the thread counts as well.

    Raises ConfigError for a device this machine does not have.
    """
    import numba
    import torch

    threads = runtime.threads or torch.get_num_threads()
    # Also starts Numba's threads, which changes PyTorch's count where both share OpenMP: here, not during training, as
    # that count shows in the last bits.
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if runtime.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(runtime.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"runtime.device {runtime.device}: not usable here ({reason}); try auto or cpu") from error
    return device
