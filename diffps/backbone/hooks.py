"""Forward hooks that collect features and leave the forward once the last of them is there."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from torch import Tensor, nn

from diffps.errors import CheckpointError


class _StopForward(Exception):  # noqa: N818 - it is no error
    """Leaves the model's forward once everything is read."""


class Hooks:
    """Hooks on one model; :meth:`run` does a forward and returns what was kept. The model is left as it was."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self._wanted = frozenset(wanted)
        self._handles: list[Any] = []
        self._taken: dict[str, Tensor] = {}
        self._waiting: set[str] = set()
        self._stop = False

    def on_output(self, module: nn.Module, function: Callable[[Any], None], place: int = 0) -> None:
        """Call ``function`` with what ``module`` gives; of a tuple with what is at ``place`` of it."""

        def hook(_: nn.Module, __: Any, output: Any) -> None:
            function(output[place] if isinstance(output, tuple) else output)

        self._handles.append(module.register_forward_hook(hook))

    def on_input(self, module: nn.Module, function: Callable[[Tensor], None]) -> None:
        """Call ``function`` with the first tensor that ``module`` is given, before it runs."""

        def hook(_: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            function(args[0] if args else kwargs["hidden_states"])

        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def take(self, name: str, value: Tensor) -> None:
        """Keep ``value`` under ``name``."""
        self._taken[name] = value

    def done(self, tap: str) -> None:
        """All of ``tap`` has been taken; after the last one the forward is left."""
        self._waiting.discard(tap)
        if self._stop and not self._waiting:
            raise _StopForward

    def run(self, forward: Callable[[], object], stop: bool = True) -> dict[str, Tensor]:
        """What the hooks take during ``forward``, which ``stop`` ends after the last of them.

        Raises CheckpointError for a tap whose module did not run.
        """
        self._taken, self._waiting, self._stop = {}, set(self._wanted), stop
        if self._waiting:
            with suppress(_StopForward):
                forward()
        if self._waiting:
            raise CheckpointError(f"tap {min(self._waiting)}: its module did not run in this model's forward")
        taken, self._taken = self._taken, {}
        return taken

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
