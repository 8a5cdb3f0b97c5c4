"""A real prior on real frames, from the index to the scores, where the frames lie beside the repository."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from diffps.datasets.tables import read_scenes
from stages import encode, evaluate, extract, index, train
from stages.job import QuietJob
from stages.params import override
from stages.places import INDEX
from tests.backbone.lite0 import imagenet_lite0
from tests.stages.test_other_priors import CNN, RUNTIME, make_params

FRAMES = Path(__file__).parents[3] / "shared" / "data" / "cuhk-sysu" / "images"
TRAINED = ("s15160.jpg", "s15161.jpg", "s15162.jpg", "s15163.jpg")


def test_efficientnet_on_real_frames_from_the_index_to_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not FRAMES.is_dir():
        pytest.skip("no frames beside the repository")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(FRAMES, "data/frames/images")
    persons = json.loads((FRAMES / "boxes.json").read_text())["persons"]
    with Path("data/frames/persons.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "image", "x", "y", "w", "h", "person", "camera"])
        for person, boxes in persons.items():
            for image, box, _ in boxes:
                table.writerow(["train" if image in TRAINED else "test", image, *box, person, int(image[5])])
    changes = {"index.dataset": "folder", "index.root": "data/frames", "evaluate.also": [], "evaluate.gt_boxes": True}
    changes |= {"index.tolerate": 0.5}  # three of the four persons are in both halves
    params = override(make_params(imagenet_lite0(tmp_path), CNN, name="lite0"), changes, "test")
    for stage in (index, encode, extract, train, evaluate):
        stage.run(params, RUNTIME, QuietJob())
    assert len(read_scenes(INDEX)) == 8
    scores = json.loads(Path("results/evaluate/metrics.json").read_text())
    assert scores["search"]["queries"] == 8  # every box of a person who is in two frames of the test split
    assert 0 < scores["search"]["map"] <= 100
