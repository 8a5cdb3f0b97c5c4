"""Every line of `diffps doctor`, and what it says where something is wrong."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from diffps.backbone.builtin.topology import make_random
from diffps.backbone.checkpoint import load_checkpoint
from diffps.errors import CheckpointError
from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.model import build_searcher
from stages import doctor, index
from tests.world import Listener, Project


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch, {})


def heard(project: Project, **sections: dict[str, Any]) -> list[str]:
    job = Listener()
    project.run(doctor, job=job, **sections)
    return job.lines


def test_the_doctor_names_versions_device_disk_and_checkpoint(project: Project) -> None:
    text = "\n".join(heard(project))
    for word in ("torch ", "device: cpu", "free for", "digests: unet", "pad token '!'", "every tap of extract.taps"):
        assert word in text
    assert "PROBLEM" not in text


def test_each_line_says_what_is_there(project: Project) -> None:
    lines = heard(project, runtime={"threads": 1})
    software, device, disk, dataset, checkpoint, digests, pad, prompt, taps, operations = lines
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
    assert re.fullmatch(r"  operations: [\d.]+ TFLOP an image at one timestep \(VAE [\d.]+, UNet [\d.]+\)", operations)


def test_other_unet_weights_are_named(project: Project) -> None:
    make_random(Path("other"), seed=7)
    weights = "other/unet/diffusion_pytorch_model.safetensors"
    assert f"  UNet weights from {weights}" in heard(project, extract={"unet": weights})


def test_a_source_tree_that_is_not_installed_is_a_problem_not_a_traceback() -> None:
    problems = [line for line in doctor.software(package="no-such-package") if line.startswith("PROBLEM")]
    assert problems == ["PROBLEM: no-such-package is not installed, so what it needs is not known; pip install -e ."]


def test_versions_that_do_not_go_together_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"zarr": "2.18", "scipy": None}
    monkeypatch.setitem(sys.modules, "torchvision.ops", None)  # what importing a mismatched build comes to
    problems = [line for line in doctor.software(lambda name: versions.get(name, "9999")) if line.startswith("PROBLEM")]
    assert [re.split(r"[>=]", line)[0] for line in problems[:2]] == ["PROBLEM: scipy", "PROBLEM: zarr"]
    assert "found 2.18; pip install" in problems[1]
    assert "found none" in problems[0]
    assert "torchvision 9999 does not go with torch 9999" in problems[2]
    assert len(problems) == 3


def test_a_store_that_cannot_be_written_is_a_problem_and_the_rest_is_said(project: Project) -> None:
    Path("file").touch()
    lines = heard(project, runtime={"store": "file/features"})
    (problem,) = [line for line in lines if line.startswith("PROBLEM")]
    assert problem.startswith("PROBLEM: file: cannot be written (")
    assert "runtime.store" in problem
    assert lines[-2] == "  every tap of extract.taps is there"


def test_a_dataset_that_is_not_there_is_a_problem_and_the_rest_is_said(project: Project) -> None:
    lines = heard(project, index={"dataset": "prw", "root": "data/prw"})
    assert "PROBLEM: dataset prw: no folder data/prw; put it there, or set index.root" in lines
    assert lines[-2] == "  every tap of extract.taps is there"


def test_annotation_files_are_read_and_the_head_is_compared_with_the_weights(project: Project) -> None:
    project.run(index)
    (said,) = [line for line in heard(project) if line.startswith("dataset")]
    assert re.search(r"streets at data/streets, 14 images, \d+ boxes, \d+ queries", said)
    Path("data/streets/ID_test.mat").write_bytes(b"torn")
    assert any(re.match(r"PROBLEM: .*ID_test\.mat", line) for line in heard(project))
    params = project.params()
    names = {name: FeatureShape(8, 8, 1 if name.endswith(".person") else 4) for name in params.train.taps.names}
    frame, words = Canvas(128, 64), torch.zeros(4, 64)
    head = build_searcher(params.train.model, params.train.taps, names, frame, words, 4)
    facts = {"recipe": {"unet": "0" * 16, "latent": {"vae": load_checkpoint("builtin:random").digest("vae")}}}
    head.save_pretrained(Path(params.evaluate.head), facts)
    lines = heard(project)
    assert f"PROBLEM: {params.evaluate.head} was trained on a canvas of 128 x 64, encode.canvas is [128, 128]" in lines
    (other,) = [line for line in lines if "features of other weights" in line]
    assert f"unet {'0' * 16}, here {load_checkpoint('builtin:random').digest('unet')}" in other
    Path(params.evaluate.head, "config.json").write_text("{}")
    assert any("not a trained head" in line for line in heard(project))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_a_problem_and_the_rest_is_said(project: Project) -> None:
    lines = heard(project, runtime={"device": "cuda"})
    assert any(line.startswith("PROBLEM: runtime.device cuda: not usable here") for line in lines)
    assert lines[-2] == "  every tap of extract.taps is there"


def test_a_folder_that_is_no_checkpoint_says_what_is_expected(project: Project) -> None:
    Path("wrong").mkdir()
    with pytest.raises(CheckpointError, match=r"checkpoint wrong: .*expected diffusers' layout") as caught:
        heard(project, encode={"checkpoint": "wrong"})
    assert "\n" not in str(caught.value)


def test_half_precision_on_a_cpu_is_a_problem(project: Project) -> None:
    lines = heard(project, extract={"dtype": "float16"})
    assert any(line.startswith("PROBLEM: extract.dtype float16") for line in lines)


def test_a_missing_checkpoint_is_named_after_everything_else_was_said(project: Project) -> None:
    job = Listener()
    with pytest.raises(CheckpointError, match=r"models/sd21-base: no such folder"):
        project.run(doctor, job=job, encode={"checkpoint": "models/sd21-base"})
    assert any("free for" in line for line in job.lines)


def test_weights_that_do_not_fit_are_named_before_anything_is_encoded(project: Project) -> None:
    folder = make_random(Path("other"), seed=7) or Path("other")
    path = Path("other/unet/diffusion_pytorch_model.safetensors")
    sound = load_file(path)
    lacking = {name: value for name, value in sound.items() if name != "conv_in.bias"}
    wrong = {**sound, "conv_in.bias": torch.zeros(3)}
    lora = {f"{name}.lora_A.weight": torch.zeros(1) for name in sound}
    for tensors, said in ((lora, "holds a LoRA"), (lacking, "lacks 1 weights"), (wrong, "conv_in.bias 3 for")):
        save_file(tensors, "swapped.safetensors")
        with pytest.raises(CheckpointError, match=f"swapped.safetensors.*{said}"):
            heard(project, extract={"unet": "swapped.safetensors"})
    vae = Path(folder, "vae/diffusion_pytorch_model.safetensors")
    tensors = load_file(vae)
    del tensors[min(tensors)]
    save_file(tensors, vae, {"format": "pt"})
    with pytest.raises(CheckpointError, match="lacks 1 weights of the vae"):
        heard(project, encode={"checkpoint": "other"})
