"""The model of a pass is opened once, as the parameters say, and given back as it was."""

import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from stages.features.backbone import PassRunner
from stages.features.inputs import record_checkpoint, weights_of
from stages.places import checkpoint_record
from tests.world import small_params


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


def test_which_weights_a_pass_was_made_with_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    params = small_params({"encode.checkpoint": "models/one", "extract.name": "p"})
    for digest in ("12ab", "34cd"):
        prior = SimpleNamespace(digests=lambda digest=digest: {"unet": digest})
        plan: Any = SimpleNamespace(encode=params.encode, extract=params.extract, prior=prior)
        for _ in range(2):
            record_checkpoint(plan)
            found = json.loads(checkpoint_record("p").read_text())
            assert found["digests"] == {"unet": digest}
            assert found["named"]["encode.checkpoint"] == "models/one"
            # As they were written down: nothing is looked for at the place.
            assert weights_of(params.encode, params.extract) == {"unet": digest}
