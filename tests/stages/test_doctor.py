"""Every line of `diffps doctor`, and what it says where something is wrong."""

import re
import sys
from pathlib import Path

import pytest
import torch

from diffps.backbone.checkpoint import load_checkpoint
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
    for word in ("torch ", "device: cpu", "free for", "digests: unet", "pad token '!'", "every tap of extract.taps"):
        assert word in text
    assert "PROBLEM" not in text


def heard(params: Params, **changes: object) -> list[str]:
    changed = override(params, {name.replace("__", "."): value for name, value in changes.items()}, "test")
    job = Listener(changed.runtime)
    doctor.run(changed, job)
    return job.lines


def test_each_line_says_what_is_there(params: Params) -> None:
    software, device, disk, dataset, checkpoint, digests, pad, prompt, taps = heard(params, runtime__threads=1)
    assert software.startswith(f"software: torch {torch.__version__.partition('+')[0]}")
    assert device.startswith("device: cpu, 1 of ")
    assert re.search(r"GB free for data/features, writes [\d.,]+ [kMG]?B/s, reads [\d.,]+ [kMG]?B/s", disk)
    assert dataset == "dataset: streets at data/streets"
    assert "builtin:random" in checkpoint
    assert "UNet of 32-64-96-96 channels, text embeddings of 64" in checkpoint
    folder = load_checkpoint("builtin:random")
    assert all(f"{part} {folder.digest(part)}" in digests for part in ("unet", "vae", "text_encoder"))
    assert pad == "  pad token '!' (0); 229 taps"
    assert prompt == "  prompt 'person': words at token positions {'person': (1, 2)}"
    assert taps == "  every tap of extract.taps is there"


def test_other_unet_weights_are_named(params: Params) -> None:
    from diffps.backbone.builtin.topology import make_random

    make_random(Path("other"), seed=7)
    weights = "other/unet/diffusion_pytorch_model.safetensors"
    assert f"  UNet weights from {weights}" in heard(params, extract__unet=weights)


def test_versions_that_do_not_go_together_are_problems(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"zarr": "2.18", "dvc": None}
    monkeypatch.setattr(doctor, "_version", lambda name: versions.get(name, "9999"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)  # what importing a mismatched build comes to
    problems = [line for line in heard(params) if line.startswith("PROBLEM")]
    assert [re.split(r"[>=]", line)[0] for line in problems[:2]] == ["PROBLEM: zarr", "PROBLEM: dvc"]
    assert "found 2.18; pip install" in problems[0]
    assert "found none" in problems[1]
    assert "torchvision 9999 does not go with torch 9999" in problems[2]
    assert len(problems) == 3


def test_a_store_that_cannot_be_written_is_a_problem_and_the_rest_is_said(params: Params) -> None:
    Path("file").touch()
    lines = heard(params, runtime__store="file/features")
    (problem,) = [line for line in lines if line.startswith("PROBLEM")]
    assert problem.startswith("PROBLEM: file: cannot be written (")
    assert "runtime.store" in problem
    assert lines[-1] == "  every tap of extract.taps is there"


def test_a_dataset_that_is_not_there_is_a_problem_and_the_rest_is_said(params: Params) -> None:
    lines = heard(params, index__dataset="prw", index__root="data/prw")
    assert "PROBLEM: dataset prw: no folder data/prw; put it there, or set index.root" in lines
    assert lines[-1] == "  every tap of extract.taps is there"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_problem_and_the_rest_is_said(params: Params) -> None:
    lines = heard(params, runtime__device="cuda")
    assert any(line.startswith("PROBLEM: runtime.device cuda: not usable here") for line in lines)
    assert lines[-1] == "  every tap of extract.taps is there"


def test_a_folder_that_is_no_checkpoint_says_what_is_expected(params: Params) -> None:
    Path("wrong").mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint wrong: .*expected diffusers' layout") as caught:
        heard(params, encode__checkpoint="wrong")
    assert "\n" not in str(caught.value)


def test_half_precision_on_a_cpu_is_a_problem(params: Params) -> None:
    job = Listener(params.runtime)
    doctor.run(override(params, {"extract.dtype": "float16"}, "test"), job)
    assert any(line.startswith("PROBLEM: extract.dtype float16") for line in job.lines)


def test_a_missing_checkpoint_is_named_after_everything_else_was_said(params: Params) -> None:
    job = Listener(params.runtime)
    with pytest.raises(CheckpointError, match=r"models/sd21-base: no such folder"):
        doctor.run(override(params, {"encode.checkpoint": "models/sd21-base"}, "test"), job)
    assert any("free for" in line for line in job.lines)
