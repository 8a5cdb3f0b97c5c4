"""Random numbers of one head's own, whatever else draws from torch's generators."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class RandomStream:
    """A state of torch's global generators that is put in place for one head and taken out again."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._device = device
        with self._outer_kept():
            torch.manual_seed(seed)
            self.state = self._read()

    @contextmanager
    def active(self) -> Iterator[None]:
        with self._outer_kept():
            self._write(self.state)
            yield
            self.state = self._read()

    @contextmanager
    def _outer_kept(self) -> Iterator[None]:
        outer = self._read()
        try:
            yield
        finally:
            self._write(outer)

    def _read(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        if self._device.type == "cuda":
            state["cuda"] = torch.cuda.get_rng_state(self._device)
        return state

    def _write(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and self._device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], self._device)
