"""MovieNet-PS on small trees: structs as CUHK-SYSU has them, and the cells that its loaders expect."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from diffps.datasets.movienet import read_movienet
from diffps.errors import DatasetError
from tests.datasets.movie_trees import MOVIE_LINE, write_movienet, write_train
from tests.datasets.told import findings, told
from tests.datasets.trees import cells, matlab_box, structs


@pytest.mark.parametrize("in_cells", [False, True])
@pytest.mark.parametrize(("folder", "annotation"), [("Image", "annotation"), ("Image/SSM", "anno_mvn-cs")])
def test_movienet_is_read_like_cuhk_sysu(tmp_path: Path, folder: str, annotation: str, in_cells: bool) -> None:
    index = read_movienet(write_movienet(tmp_path, folder, annotation, in_cells))
    assert [(scene.scene_id, scene.split) for scene in index.scenes] == [
        ("tt01/shot_1.jpg", "train"),
        ("tt01/shot_2.jpg", "train"),
        ("tt02/shot_1.jpg", "test"),
        ("tt02/shot_2.jpg", "test"),
        ("tt02/shot_3.jpg", "test"),
    ]
    assert index.scenes[0].path == f"{folder}/tt01/shot_1.jpg"
    assert {name: part.identities.tolist() for name, part in index.annotations.items()} == {
        "tt01/shot_1.jpg": [0, 1],
        "tt01/shot_2.jpg": [0],
        "tt02/shot_1.jpg": [11],
        "tt02/shot_2.jpg": [11],
        "tt02/shot_3.jpg": [-1],
    }
    assert index.report["galleries"] == {"2000": 1, "4000": 1}
    assert [part.tolist() for part in index.galleries[1].scenes] == [[3, 4]]
    assert "fine 1 training set was read" in told(index, "fine")
    assert "fine 1 training sets were not read" in told(index, "fine")
    assert told(index) == []


def test_queries_may_be_nameless(tmp_path: Path) -> None:
    root = write_movienet(tmp_path, "Image", "annotation", False)
    query = structs([{"imname": MOVIE_LINE[0][0], "idlocate": matlab_box(MOVIE_LINE[0][1]), "ishard": np.uint8(0)}])
    gallery = structs([{"imname": im, "idlocate": matlab_box(box)} for im, box in MOVIE_LINE[1]])
    path = root / "annotation/test/train_test/TestG2000.mat"
    savemat(path, {"TestG2000": structs([{"Query": query, "Gallery": gallery}])})
    (root / "annotation/test/train_test/TestG4000.mat").unlink()
    assert [query.identity for query in read_movienet(root).queries] == [1]


def test_training_images_of_a_pool_are_left_out_and_counted(tmp_path: Path) -> None:
    root = write_movienet(tmp_path, "Image", "annotation", False)
    people = {"nm1": [("tt02/shot_1.jpg", (30, 10, 20, 40))], "nm2": [("tt01/shot_1.jpg", (10, 10, 20, 40))]}
    write_train(root / "annotation/test/train_test/Train_app10.mat", people, False)  # type: ignore[arg-type]
    index = read_movienet(root)
    assert index.annotations["tt01/shot_1.jpg"].identities.tolist() == [0, -1]
    (finding,) = findings(index)
    assert (finding.kind, finding.count, finding.total) == ("refused", 1, 2)


@pytest.mark.parametrize(("gone", "what"), [("Image", "images"), ("annotation", "annotations")])
def test_missing_folders_are_named(tmp_path: Path, gone: str, what: str) -> None:
    root = write_movienet(tmp_path / "root", "Image", "annotation", False)
    (root / gone).rename(tmp_path / "gone")
    with pytest.raises(DatasetError, match=rf"^MovieNet-PS: folder of {what} missing: expected {root}/{gone}; "):
        read_movienet(root)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("annotation/Images.mat", r"boxes of all images missing: expected .*Images.mat"),
        (
            "annotation/pool_2000.mat",
            r"test images missing: expected .*pool_2000.mat; .* holds Images.mat, pool_4000.mat",
        ),
        ("annotation/test/train_test/Train_app*.mat", r"training identities missing: expected .*Train_app10.mat"),
        (
            "annotation/test/train_test/TestG*.mat",
            r"queries and galleries \(at least one\) missing: expected .*TestG2000",
        ),
        ("Image/tt02/shot_3.jpg", r"1 of 5 files missing in .*Image: tt02/shot_3.jpg"),
    ],
)
def test_missing_files_are_named(tmp_path: Path, name: str, message: str) -> None:
    root = write_movienet(tmp_path, "Image", "annotation", False)
    for path in root.glob(name):
        path.unlink()
    with pytest.raises(DatasetError, match=rf"MovieNet-PS: {message}"):
        read_movienet(root)


def test_images_without_boxes_are_named(tmp_path: Path) -> None:
    root = write_movienet(tmp_path, "Image", "annotation", False)
    savemat(root / "annotation/pool_2000.mat", {"pool": cells(["tt02/shot_1.jpg", "tt02/shot_7.jpg"])})
    people = {"nm1": [("tt01/shot_8.jpg", (1, 2, 20, 40))]}
    write_train(root / "annotation/test/train_test/Train_app10.mat", people, False)  # type: ignore[arg-type]
    message = r"^MovieNet-PS: 2 images are listed that Images.mat lacks: tt02/shot_7.jpg, tt01/shot_8.jpg$"
    with pytest.raises(DatasetError, match=message):
        read_movienet(root)


def test_one_training_set_leaves_none_unread(tmp_path: Path) -> None:
    root = write_movienet(tmp_path, "Image", "annotation", False)
    (root / "annotation/test/train_test/Train_app10.mat").unlink()
    assert [
        f"{finding.count} {finding.of}: {finding.example}" for finding in findings(read_movienet(root), "fine")
    ] == ["1 training set: Train_app100.mat"]
