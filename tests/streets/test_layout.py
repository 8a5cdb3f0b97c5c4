"""Drawn streets on disk: PRW's reader reads them, and a half-drawn folder is never taken for a whole one."""

import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

import diffps.datasets.streets.layout as layout
from diffps.datasets.prw import read_prw
from diffps.datasets.streets import StreetsConfig, draw
from diffps.errors import ConfigError, DatasetError

SMALL = StreetsConfig(train_scenes=12, test_scenes=18, train_identities=8, test_identities=8, cameras=3, size=96)
# The persons of each training frame of SMALL, -2 for nobody, and its queries.
PIDS = [
    [4, 3],
    [2, 1, -2, 5, 7],
    [-2],
    [6, 7, 3, 4, 5],
    [1, 6, 2, 8],
    [3, 4, 6],
    [1, 2, -2],
    [2, 4, -2, -2, 6],
    [7, 8, 5],
    [3, -2, -2, 4],
    [7, 8],
    [5, 6, 3, -2, -2, 2],
]
QUERIES = [
    "9 78.00 29.00 12.00 40.00 c3s2_000009",
    "9 69.00 38.00 9.00 38.00 c2s2_000011",
    "10 52.00 33.00 15.00 43.00 c3s2_000012",
    "10 54.00 28.00 10.00 29.00 c1s2_000010",
    "11 30.00 40.00 16.00 44.00 c2s2_000014",
    "11 36.00 26.00 11.00 43.00 c1s2_000010",
    "12 69.00 30.00 20.00 53.00 c1s2_000007",
    "12 21.00 46.00 15.00 48.00 c2s2_000017",
    "13 11.00 34.00 12.00 42.00 c3s2_000018",
    "13 0.00 43.00 13.00 36.00 c2s2_000008",
    "14 76.00 25.00 17.00 53.00 c1s2_000010",
    "14 2.00 39.00 12.00 43.00 c2s2_000002",
    "15 0.00 27.00 18.00 57.00 c1s2_000010",
    "15 74.00 30.00 13.00 34.00 c3s2_000006",
    "16 14.00 28.00 18.00 57.00 c3s2_000012",
    "16 42.00 36.00 17.00 36.00 c2s2_000002",
]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets") / "data"
    draw(SMALL, root)
    return root


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*.jpg"))}


def test_prw_reader_reads_it(streets: Path) -> None:
    index = read_prw(streets)
    train = [scene for scene in index.scenes if scene.split == "train"]
    test = [scene for scene in index.scenes if scene.split == "test"]
    assert (len(train), len(test)) == (12, 18)
    assert {scene.camera for scene in train} == {1, 2, 3}
    identities = np.concatenate([index.annotations[scene.scene_id].identities for scene in train])
    assert set(identities) <= set(range(-1, 8))
    assert -1 in identities
    assert len(index.queries) > 0


def test_files_have_prw_keys(streets: Path) -> None:
    names = loadmat(streets / "frame_train.mat")["img_index_train"]
    assert names.shape == (12, 1)
    assert str(names[0, 0][0]) == "c1s1_000001"
    boxes = loadmat(streets / "annotations" / "c1s1_000001.jpg.mat")["box_new"]
    assert boxes.shape[1] == 5
    train, test = loadmat(streets / "ID_train.mat")["ID_train"], loadmat(streets / "ID_test.mat")["ID_test2"]
    assert not set(train.ravel()) & set(test.ravel())


def test_every_query_is_seen_before_another_camera(streets: Path) -> None:
    seen: dict[float, set[str]] = {}
    for path in (streets / "annotations").glob("*s2_*.mat"):
        for row in loadmat(path)["box_new"]:
            seen.setdefault(row[0], set()).add(path.name[:2])
    lines = (streets / "query_info.txt").read_text().splitlines()
    for line in lines:
        pid, *_, frame = line.split()
        assert seen[float(pid)] - {frame[:2]}
    assert len({line.split()[0] for line in lines}) >= 6


def test_the_demo_has_enough_to_learn_from(tmp_path: Path) -> None:
    draw(StreetsConfig(), tmp_path / "demo")
    index = read_prw(tmp_path / "demo")
    train = np.concatenate([index.annotations[s.scene_id].identities for s in index.scenes if s.split == "train"])
    names, counts = np.unique(train[train >= 0], return_counts=True)
    assert len(names) >= 40
    assert counts.min() >= 5
    assert len(index.queries) >= 60


def test_complete_folder_is_left_alone_and_another_config_redraws(tmp_path: Path) -> None:
    root = tmp_path / "data"
    draw(SMALL, root)
    first, stamp = _bytes(root), (root / "frame_test.mat").stat().st_mtime_ns
    draw(SMALL, root)
    assert (root / "frame_test.mat").stat().st_mtime_ns == stamp
    draw(replace(SMALL, seed=1), root)
    assert _bytes(root) != first
    draw(SMALL, root)
    assert _bytes(root) == first


def test_interrupted_drawing_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    with monkeypatch.context() as broken:
        broken.setattr(layout, "_queries", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            draw(SMALL, root)
    assert not (root / "streets.json").exists()
    draw(SMALL, root)
    assert len(read_prw(root).scenes) == 30


def test_an_interrupted_redrawing_is_not_taken_for_the_drawing_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    draw(SMALL, root)
    before = _bytes(root)
    with monkeypatch.context() as broken:
        broken.setattr(layout, "_queries", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            draw(replace(SMALL, seed=1), root)
    draw(SMALL, root)
    assert _bytes(root) == before


def test_a_folder_of_other_files_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "c1s1_000151.jpg").write_bytes(b"mine")
    with pytest.raises(DatasetError, match=r"not drawn streets; give index\.root another folder"):
        draw(SMALL, tmp_path)
    assert (tmp_path / "frames" / "c1s1_000151.jpg").read_bytes() == b"mine"


def test_scenes_without_a_query_are_an_error(tmp_path: Path) -> None:
    lonely = replace(SMALL, test_scenes=1)
    with pytest.raises(DatasetError, match="no identity before two cameras"):
        draw(lonely, tmp_path / "data")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("cameras", 12),
        ("cameras", 1),
        ("size", 10),
        ("persons", (5, 2)),
        ("unlabelled", 1.0),
        ("train_identities", 3),
        ("test_scenes", 0),
        ("seed", -1),
    ],
)
def test_config_names_the_field_that_is_wrong(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"streets.{field}"):
        StreetsConfig(**{field: value})  # type: ignore[arg-type]


def test_the_limits_of_a_config_are_within_them() -> None:
    one = {"train_scenes": 1, "test_scenes": 1, "queries_per_identity": 1, "seed": 0, "unlabelled": 0.0, "size": 64}
    most = {"train_identities": 40, "test_identities": 40, "persons": (0, 40), "cameras": 9}
    for config in (one, most, {"train_identities": 1, "test_identities": 1, "persons": (1, 1), "cameras": 2}):
        StreetsConfig(**config)  # type: ignore[arg-type]
    for wrong in ({"size": 63}, {"cameras": 10}, {"persons": (-1, 2)}, {"persons": (2, 41)}, {"unlabelled": -0.1}):
        with pytest.raises(ConfigError, match=f"streets.{next(iter(wrong))} is"):
            StreetsConfig(**{**most, **wrong})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="streets.test_identities is below the 6 persons a scene may hold"):
        StreetsConfig(test_identities=5)


def test_the_data_set_is_the_recorded_one(streets: Path) -> None:
    """The world of one seed, person by person; a change that is meant gives the drawing another version."""
    names = [row[0][0] for row in loadmat(streets / "frame_train.mat")["img_index_train"]]
    assert names == [f"c{1 + n % 3}s1_{n + 1:06d}" for n in range(12)]
    pids = [loadmat(streets / "annotations" / f"{name}.jpg.mat")["box_new"][:, 0].tolist() for name in names]
    assert pids == PIDS
    assert loadmat(streets / "ID_train.mat")["ID_train"].ravel().tolist() == list(range(1, 9))
    assert loadmat(streets / "ID_test.mat")["ID_test2"].ravel().tolist() == list(range(9, 17))
    assert (streets / "query_info.txt").read_text().splitlines() == QUERIES
    frames = list((streets / "frames").iterdir())
    assert len(frames) == 30
    assert {path.suffix for path in frames} == {".jpg"}
    for path in streets.rglob("*.mat"):
        assert path.read_bytes()[:116] == b"MATLAB 5.0 MAT-file".ljust(116)  # without the date


def test_the_marker_is_written_when_all_else_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[set[str]] = []
    with monkeypatch.context() as watched:
        watched.setattr(os, "sync", lambda: there.append({path.name for path in (tmp_path / "data").iterdir()}))
        draw(replace(SMALL, test_scenes=18, train_scenes=1), tmp_path / "data")
    written = {"frames", "annotations", "frame_train.mat", "frame_test.mat", "ID_train.mat", "ID_test.mat"}
    assert there == [{*written, "query_info.txt", "streets.unfinished"}]
    assert {path.name for path in (tmp_path / "data").iterdir()} == {*written, "query_info.txt", "streets.json"}


def test_what_an_earlier_drawing_left_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    (root / "README.md").write_text("mine")
    draw(SMALL, root)
    draw(replace(SMALL, train_scenes=2), root)
    assert len(list((root / "frames").iterdir())) == len(list((root / "annotations").iterdir())) == 20
    (root / "streets.json").write_text("[" * 100_000)
    draw(SMALL, root)
    assert len(list((root / "frames").iterdir())) == 30
    assert (root / "README.md").read_text() == "mine"


def test_the_demo_is_of_these_sizes() -> None:
    assert asdict(StreetsConfig()) == {
        "seed": 0,
        "train_scenes": 200,
        "test_scenes": 100,
        "train_identities": 48,
        "test_identities": 32,
        "cameras": 6,
        "size": 256,
        "persons": (2, 6),
        "unlabelled": 0.15,
        "queries_per_identity": 2,
    }
    assert StreetsConfig(persons=[1, 3]).persons == (1, 3)  # type: ignore[arg-type]
