"""`diffps search` as somebody types it who makes mistakes: each is one line and exit code 2."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pipeline.cli import main
from stages.finding.folders import gallery_place
from stages.finding.gallery_files import GalleryWriter
from stages.finding.photos import MARKER
from stages.head.saved import head_digest
from stages.places import GALLERIES
from tests.world import FLOAT16, LIGHT, write_params

HEAD, FRAMES = Path("results/train/head"), "data/streets/frames"
QUERY = f"{FRAMES}/c1s2_000001.jpg"


@pytest.fixture(scope="module")
def project(searchable: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with heads that doubt, a gallery of another head, an empty folder, a photograph."""
    folder = tmp_path_factory.mktemp("mistakes") / "project"
    shutil.copytree(searchable, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        write_params(folder, {**LIGHT, "extract": {**LIGHT["extract"], **FLOAT16}})
        for name, bias in (("doubtful", 5.7), ("blind", 30.0)):
            shutil.copytree(HEAD, name)
            tensors = load_file(Path(name) / "model.safetensors")
            tensors["box_head.classifier.bias"] += torch.tensor([bias, -bias])
            save_file(tensors, Path(name) / "model.safetensors")
        for name in ("empty", "photos"):
            Path(name).mkdir()
            (Path(name) / MARKER).write_text("{}")  # drawn, for all that anybody knows
        shutil.copy(QUERY, "photos")
        with GalleryWriter(gallery_place(GALLERIES, Path("photos"), head_digest(HEAD)), "0" * 64, 24):
            pass
        Path("photographs").mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)
        Image.fromarray(noise).save("photographs/me.png")
        Path("text.jpg").write_text("no picture")
        Path("nothing.jpg").touch()
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([QUERY], r"\d+ people are in it; say which with --person 1 to \d+, or with --box .*people.jpg"),
        (
            [QUERY, "--head", "doubtful", "--in", FRAMES],
            "no person is found in it .the best candidate, .* scores 0.[1-4]",
        ),
        ([QUERY, "--head", "blind", "--in", FRAMES], "no person is found in it .there is no candidate either.*--box"),
        ([QUERY, "--box", "100,100,60,60"], "lies outside .*, which is 128 x 128 pixels as displayed"),
        ([QUERY, "--box", "1,2,3"], "expected x,y,width,height in pixels"),
        ([QUERY, "--box", "nan,2,3,4"], "expected x,y,width,height in pixels"),
        ([QUERY, "--box", "1,2,30,40", "--person", "1"], "give one of them"),
        ([QUERY, "--person", "0"], "person 0: .* expected 1 to"),
        ([QUERY, "--person", "1", "--in", "empty"], "empty: holds no picture of a kind that is read"),
        ([QUERY, "--person", "1", "--in", "nowhere"], "nowhere: no such folder of pictures"),
        ([QUERY, "--person", "1", "--in", QUERY], "no such folder of pictures"),
        ([QUERY, "--person", "1", "--in", "photos"], "made with another head"),
        ([QUERY, "--person", "1", "--head", "blind"], "are of another head.*diffps evaluate"),
        ([QUERY, "--head", "nowhere"], "head nowhere: no such folder; train one"),
        ([QUERY, "--head", "photos"], "holds no config.json"),
        ([QUERY, "--checkpoint", "some/one"], "some/one, which is not on this machine: `hf download some/one` .* 5 GB"),
        ([QUERY, "--checkpoint", "builtin:streets"], "another backbone than builtin:streets"),
        ([QUERY, "--promise", "0"], "promise 0: .*between 0 and 1"),
        ([QUERY, "--person", "1", "--also", QUERY], "people are in it; cut out the one that is meant"),
        ([QUERY, "--keep-features"], "name a folder with --in"),
        (["photographs/me.png"], "trained on drawn scenes.*--anyway"),
        ([QUERY, "--person", "1", "--in", "photographs"], "trained on drawn scenes.*--anyway"),
        (["nowhere.jpg"], "nowhere.jpg: no readable file"),
        (["photos"], "photos: no regular file"),
        (["text.jpg"], "text.jpg: not a readable image"),
        (["nothing.jpg"], "nothing.jpg: not a readable image"),
        (["--in", FRAMES], "name the picture that shows the person, or --serve"),
        (["--serve", "--in", "nowhere"], "nowhere: no such folder of pictures"),
    ],
)
def test_a_mistake_is_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["diffps", "search", *arguments])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("diffps: ")
    assert re.search(said, line), line


def test_without_arguments_it_explains_itself_with_an_example_that_runs(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(project)

    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["diffps", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        assert not left.value.code
        return capsys.readouterr().out

    (example,) = re.findall(r"^    diffps (search data/.*)$", said("search"), re.M)
    assert example.split()[1] == QUERY  # which this project and the demo both have
    assert "similarity" in said(*example.split())
