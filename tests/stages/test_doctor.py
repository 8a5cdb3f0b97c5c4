from pathlib import Path

import pytest

from diffps.errors import CheckpointError
from pipeline.config import load_params
from stages import doctor
from stages.job import QuietJob, RuntimeConfig
from stages.params import Params, override
from tests.tiny import write_params


class Listener(QuietJob):
    """Keeps what is said."""

    def __init__(self, runtime: RuntimeConfig) -> None:
        super().__init__(runtime)
        self.lines: list[str] = []

    def say(self, message: str, **fields: object) -> None:
        self.lines.append(message)


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    return load_params(tmp_path / "params.yaml")


def test_the_doctor_names_versions_device_disk_and_checkpoint(params: Params) -> None:
    job = Listener(params.runtime)
    doctor.run(params, job)
    text = "\n".join(job.lines)
    for word in ("torch ", "device: cpu", "free at", "digests: unet", "pad token '!'", "every tap of extract.taps"):
        assert word in text
    assert "PROBLEM" not in text


def test_half_precision_on_a_cpu_is_a_problem(params: Params) -> None:
    job = Listener(params.runtime)
    doctor.run(override(params, {"extract.dtype": "float16"}, "test"), job)
    assert any(line.startswith("PROBLEM: extract.dtype float16") for line in job.lines)


def test_a_missing_checkpoint_is_named_after_everything_else_was_said(params: Params) -> None:
    job = Listener(params.runtime)
    with pytest.raises(CheckpointError, match=r"models/sd21-base: no such folder"):
        doctor.run(override(params, {"encode.checkpoint": "models/sd21-base"}, "test"), job)
    assert any("free at" in line for line in job.lines)
