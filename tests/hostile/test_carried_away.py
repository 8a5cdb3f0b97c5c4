"""What a head or a page carries away when it is handed on: no path of the machine, no camera's notes, nobody's name."""

import base64
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from diffps.backbone.checkpoint import load_checkpoint
from stages import encode, evaluate, extract, index, report, train
from tests.world import Project

NAMES = ("Zoe Quimby", "Ola Brandt", "Ivo Katz")
NOTE = "taken at the secret garden"
HANDED_ON = ("results/train/head/*", "results/report/*", "results/evaluate/card.md")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One's own photographs by absolute path, with names of persons and notes of a camera, after every stage."""
    folder = tmp_path_factory.mktemp("private-place") / "project"
    images = folder / "own/images"
    images.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x010E] = exif[0x013B] = NOTE  # description, artist
    lines = ["split,image,x,y,w,h,person"]
    for number in range(12):
        picture = Image.new("RGB", (120, 96), (20 * number, 90, 200 - 10 * number))
        picture.save(images / f"{number:02}.jpg", exif=exif, comment=NOTE.encode())
        split = "train" if number < 6 else "test"
        lines += [f"{split},{number:02}.jpg,{10 + 30 * k},10,26,70,{NAMES[(number + k) % 3]}" for k in range(2)]
    (folder / "own/persons.csv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Project(folder, monkeypatch)
        weights = folder / "weights"
        shutil.copytree(load_checkpoint("builtin:random").folder, weights)
        made.change(
            index={"dataset": "folder", "root": str(folder / "own"), "tolerate": 1.0},
            encode={"checkpoint": str(weights)},
        )
        made.run(index, encode, extract, train, evaluate, report)
        yield made


def handed_on() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for pattern in HANDED_ON for path in Path().glob(pattern)}


@pytest.mark.slow
def test_nothing_private_is_carried_away(project: Project) -> None:
    files = handed_on()
    assert {"results/train/head/config.json", "results/report/index.html", "results/evaluate/card.md"} <= files.keys()
    for path, content in files.items():
        for secret in (*NAMES, *(name.split()[1] for name in NAMES), NOTE, "secret garden", "private-place"):
            at = content.find(secret.encode())
            assert at < 0, f"{path}: {secret} in {content[max(0, at - 200) : at + 80]!r}"


@pytest.mark.slow
def test_pictures_of_the_page_are_pixels_alone(project: Project) -> None:
    page = Path("results/report/index.html").read_text()
    pictures = re.findall(r"data:image/(?:\w+);base64,([A-Za-z0-9+/=]+)", page)
    assert pictures
    for text in pictures:
        data = base64.b64decode(text)
        with Image.open(io.BytesIO(data)) as picture:
            assert not picture.getexif()
            assert not {"comment", "exif", "xmp", "Description"} & picture.info.keys()
        assert NOTE.encode() not in data
