"""Drawn streets on disk: PRW's reader reads them, and a half-drawn folder is never taken for a whole one."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat

import diffps.datasets.streets.layout as layout
from diffps.datasets.prw import read_prw
from diffps.datasets.streets import StreetsConfig, draw
from diffps.errors import ConfigError, DatasetError

SMALL = StreetsConfig(train_scenes=12, test_scenes=18, train_identities=8, test_identities=8, cameras=3, size=96)


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
