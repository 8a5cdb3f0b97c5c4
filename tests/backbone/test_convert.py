"""Pickles: never loaded, and the command that every refusal names makes safetensors of them."""

import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.backbone.convert import convert, main
from diffps.errors import CheckpointError
from tests.architecture.repository import ROOT
from tests.backbone.layouts import TEXT, UNET, write_original
from tests.faults import shim


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder, tmp_path / "copy")
    return tmp_path / "copy"


def _pickle(file: Path, name: str) -> None:
    torch.save(load_file(file), file.with_name(name))
    file.unlink()


def _run(command: str) -> subprocess.CompletedProcess[str]:
    python, *rest = shlex.split(command)
    assert python == "python"
    return subprocess.run([sys.executable, *rest], cwd=ROOT, capture_output=True, text=True, check=False)


def test_following_what_the_errors_say_gives_the_same_checkpoint(checkpoint: Checkpoint, copy: Path) -> None:
    _pickle(copy / UNET, "diffusion_pytorch_model.bin")
    _pickle(copy / TEXT, "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="diffusion_pytorch_model.bin is a pickle, which is never loaded"
    ) as caught:
        load_checkpoint(str(copy))
    (command,) = re.findall("`(.*)`", str(caught.value))
    assert _run(command).stdout == f"wrote {copy / UNET}\n"
    with pytest.raises(CheckpointError, match="pytorch_model.bin is a pickle, which is never loaded"):
        load_checkpoint(str(copy))
    assert convert(copy / "text_encoder/pytorch_model.bin") == [copy / TEXT]
    assert load_checkpoint(str(copy)).digests() == checkpoint.digests()


def test_shards_are_converted_by_their_index(checkpoint: Checkpoint, copy: Path) -> None:
    weights = load_file(copy / UNET)
    (copy / UNET).unlink()
    places = {}
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        file = f"diffusion_pytorch_model-0000{number + 1}-of-00002.bin"
        torch.save({name: weights[name] for name in names}, copy / "unet" / file)
        places |= dict.fromkeys(names, file)
    index = copy / "unet/diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match=re.escape(f"convert {index}`")):
        load_checkpoint(str(copy))
    assert len(convert(index)) == 3
    assert load_checkpoint(str(copy)).digests() == checkpoint.digests()


def test_a_ckpt_in_the_original_layout_becomes_a_file_that_is_read(checkpoint: Checkpoint, copy: Path) -> None:
    write_original(copy, copy / "sd.safetensors", open_clip=False)
    torch.save({"state_dict": load_file(copy / "sd.safetensors"), "global_step": 3}, copy / "sd.ckpt")
    (copy / "sd.safetensors").unlink()
    for arguments in ((str(copy / "sd.ckpt"), None, None), (str(copy), None, str(copy / "sd.ckpt"))):
        with pytest.raises(CheckpointError, match=r"a pickle, .*convert .*sd.ckpt` makes safetensors of it"):
            load_checkpoint(*arguments)
    assert convert(copy / "sd.ckpt") == [copy / "sd.safetensors"]
    assert load_checkpoint(str(copy / "sd.safetensors")).digests() == checkpoint.digests()
    with pytest.raises(CheckpointError, match="is there already"):
        convert(copy / "sd.ckpt")


class Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("attacked", "w")  # type: ignore[return-value]


def test_code_in_a_pickle_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.bin"
    path.write_bytes(pickle.dumps({"weight": Attack()}))
    done = _run(f"python -m diffps.backbone.convert {path}")
    assert done.returncode == 2
    assert re.fullmatch(r"error: .*bad.bin: not read, for it is damaged or holds more than tensors; .*\n", done.stderr)
    assert sorted(tmp_path.iterdir()) == [path]
    assert not (ROOT / "attacked").exists()


def test_what_is_converted_is_on_the_disk_before_it_has_its_name(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    command = [sys.executable, "-m", "diffps.backbone.convert", str(tmp_path / "a.pt")]
    subprocess.run(command, cwd=ROOT, env=shim.recording(tmp_path / "calls"), check=True)
    partial, target = tmp_path / "a.partial", tmp_path / "a.safetensors"
    made = [call for call in shim.recorded(tmp_path / "calls", tmp_path) if call[0] != "write"]
    assert made[-3:] == [("fsync", partial, None), ("rename", partial, target), ("fsync", tmp_path, None)]


def test_what_is_no_pickle_of_tensors_is_one_line(tmp_path: Path) -> None:
    for value in ({}, [1, 2], {"a": 3}, {1: torch.zeros(1)}, torch.zeros(1)):
        torch.save(value, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="a.pt: holds no tensors by name"):
            convert(tmp_path / "a.pt")
    (tmp_path / "a.pt").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is damaged or"):
        convert(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected a file in .bin, .ckpt"):
        convert(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no such file"):
        convert(tmp_path / "b.pt")
    (tmp_path / "m.bin.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        convert(tmp_path / "m.bin.index.json")


def test_the_command_converts_what_it_is_given_and_says_how_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.pt", "pytorch_model.bin"):
        torch.save({"w": torch.ones(2)}, tmp_path / name)
    paths = [str(tmp_path / name) for name in ("a.pt", "pytorch_model.bin", "b.pt")]
    written = "".join(f"wrote {tmp_path / name}.safetensors\n" for name in ("a", "model"))
    for arguments, status, said, failed in (
        ([], 2, "python -m diffps.backbone.convert FILE", ""),
        (["--help"], 0, "python -m diffps.backbone.convert FILE", ""),
        (paths[:2], 0, written, ""),
        (paths[2:], 2, "", f"error: {paths[2]}: no such file\n"),
    ):
        monkeypatch.setattr(sys, "argv", ["convert", *arguments])
        assert main() == status
        out, err = capsys.readouterr()
        assert said in out
        assert err == failed
    assert load_file(tmp_path / "model.safetensors")["w"].tolist() == [1.0, 1.0]
    assert not list(tmp_path.glob("*.partial"))
