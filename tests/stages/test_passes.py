"""The model of a pass is opened once, as the parameters say, and given back as it was."""

from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch

from stages.features.backbone import PassRunner


def test_a_runner_opens_its_pass_and_leaves_it_when_it_is_closed() -> None:
    said: list[Any] = []

    @contextmanager
    def open_pass(*arguments: Any, compiled: bool) -> Any:
        said.append((*arguments, compiled))
        yield "pass"
        said.append("left")

    extract = SimpleNamespace(taps=("a",), conditions="conditions", dtype="bfloat16")
    plan: Any = SimpleNamespace(extract=extract, prior=SimpleNamespace(open_pass=open_pass))
    device = torch.device("cpu")
    runner = PassRunner(plan, device)
    assert said == [(("a",), "conditions", device, "bfloat16", False)]
    runner.close()
    assert said[1:] == ["left"]
    PassRunner(plan, device, True).close()
    assert said[2:] == [(("a",), "conditions", device, "bfloat16", True), "left"]
