"""Who is meant by what is asked to be forgotten: names, folders and persons as people write them."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from diffps.datasets.folder import read_folder
from diffps.errors import ConfigError
from diffps.records import Scene
from stages.config_data import IndexConfig
from stages.forgetting.chosen import by_folder, by_name, by_person

NAMES = ("1.png", "11.png", "a/1.png", "b/1.png", "B & C.png", "mu\u0308ller.png", "copy of 1.png")
TABLE = """split,image,x,y,w,h,person
train,1.png,1,1,20,20,7.0
train,a/1.png,1,1,20,20,8.0
test,B/1.PNG,1,1,20,20,8.0
test,B%20%26%20C.png,1,1,20,20,9.0
test,m\u00fcller.png,1,1,20,20,9.0
"""


@pytest.fixture
def album(tmp_path: Path) -> tuple[Path, list[Scene]]:
    """Photographs in folders, with names that are hard to tell apart; `copy of 1.png` is one."""
    root = tmp_path / "own"
    for number, name in enumerate(NAMES):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (number * (name != NAMES[-1]), 0, 0)).save(path)
    (root / "persons.csv").write_text(TABLE, encoding="utf-8")
    return root, list(read_folder(root).scenes)


def person(album: tuple[Path, list[Scene]], name: str) -> set[str]:
    root, scenes = album
    annotations = read_folder(root).annotations
    return {*by_person(name, scenes, annotations, IndexConfig(dataset="folder", root=str(root)), root).names}


def test_a_person_is_on_the_images_that_the_index_reads_from_the_table(album: tuple[Path, list[Scene]]) -> None:
    assert person(album, "7") == person(album, "7.0") == {"1.png"}
    assert person(album, "8") == {"a/1.png", "b/1.png"}, "a name in other letters"
    assert person(album, "9") == {"B & C.png", "mu\u0308ller.png"}, "names as a URL and as another system write them"
    with pytest.raises(ConfigError, match="is on no image"):
        person(album, "70")


def test_a_person_is_known_by_the_table_when_the_pictures_are_gone(album: tuple[Path, list[Scene]]) -> None:
    root, scenes = album
    shutil.rmtree(root / "images")
    config = IndexConfig(dataset="folder", root=str(root))
    assert by_person("8", scenes, {}, config, root).names == {"a/1.png", "b/1.png"}


def test_a_name_means_one_image(album: tuple[Path, list[Scene]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, scenes = album
    monkeypatch.chdir(root.parent)

    def names(image: str) -> set[str]:
        return {*by_name([image], scenes, root).names}

    for name in NAMES:
        ways = (name, f"images/{name}", f"own/images/{name}", f"own/images/a/../{name}", str(root / "images" / name))
        assert all(names(way) == {name} for way in ways), name
    assert names("m\u00fcller.png") == {"mu\u0308ller.png"}
    (root / "link.png").symlink_to(root / "images/b/1.png")
    assert names("own/link.png") == {"b/1.png"}
    found = by_name(["1.png", "2.png"], scenes, root)
    assert found.strange == {"2.png"}
    assert found.splits == {"train", "test"}


def test_copies_are_meant_too_in_whatever_split(album: tuple[Path, list[Scene]]) -> None:
    root, scenes = album
    first = by_name(["1.png"], scenes, root)
    assert first.splits == {"train"}
    both = first.with_copies(scenes)
    assert both.names == {"1.png", "copy of 1.png"}
    assert both.splits == {"train", "test"}
    assert len(both.digests) == 1


def test_a_folder_has_what_is_linked_into_it(album: tuple[Path, list[Scene]], tmp_path: Path) -> None:
    root, _ = album
    elsewhere = tmp_path / "elsewhere.png"
    Image.new("RGB", (40, 40), "teal").save(elsewhere)
    (root / "images/a/linked.png").symlink_to(elsewhere)
    scenes = list(read_folder(root).scenes)
    for folder in ("images/a", str(root / "images/a"), str(root / "images/b/../a")):
        assert by_folder(folder, scenes, root).names == {"a/1.png", "a/linked.png"}, folder
    assert len(by_folder("images", scenes, root).names) == len(NAMES) + 1
    with pytest.raises(ConfigError, match="no image below it"):
        by_folder("images/c", scenes, root)
