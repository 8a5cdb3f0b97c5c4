"""Which dataset an index is of: it stays that while its images change, and is another one elsewhere."""

import hashlib
import json
from pathlib import Path

import numpy as np

from diffps.records import Annotations, Scene, SearchIndex
from stages.config_data import IndexConfig
from stages.dataset.identity import with_identity

CONFIG = IndexConfig(dataset="folder", root="photos")


def index(*names: str) -> SearchIndex:
    scenes = tuple(
        Scene(
            scene_id=name, split="test", path=name, width=9, height=9, digest=hashlib.sha256(name.encode()).hexdigest()
        )
        for name in names
    )
    nobody = Annotations(np.empty((0, 4), np.float32), np.empty(0, np.int64))
    return SearchIndex(
        scenes=scenes, annotations=dict.fromkeys(names, nobody), queries=(), galleries=(), report={"odd": 1}
    )


def kept(found: SearchIndex, folder: Path) -> SearchIndex:
    (folder / "report.json").write_text(json.dumps(found.report))
    return found


def test_it_has_the_name_of_its_first_images_and_keeps_it(tmp_path: Path) -> None:
    first = kept(with_identity(index("a.jpg", "b.jpg"), CONFIG, tmp_path), tmp_path)
    lines = "\n".join(f"test {name} {hashlib.sha256(name.encode()).hexdigest()}" for name in ("a.jpg", "b.jpg"))
    assert first.report == {
        "odd": 1,
        "id": f"folder-{hashlib.sha256(lines.encode()).hexdigest()[:10]}",
        "place": hashlib.sha256(b"folder photos").hexdigest()[:10],
    }
    changed = with_identity(index("b.jpg", "c.jpg"), CONFIG, tmp_path)
    assert changed.report == first.report
    assert [scene.scene_id for scene in changed.scenes] == ["b.jpg", "c.jpg"]


def test_another_folder_is_another_dataset_and_a_copy_is_the_same(tmp_path: Path) -> None:
    first = kept(with_identity(index("a.jpg"), CONFIG, tmp_path), tmp_path)
    elsewhere = IndexConfig(dataset="folder", root="other")
    assert with_identity(index("b.jpg"), elsewhere, tmp_path).report["id"] != first.report["id"]
    copy = with_identity(index("a.jpg"), elsewhere, tmp_path).report
    assert (copy["id"], copy["place"] == first.report["place"]) == (first.report["id"], False)
    assert with_identity(index("a.jpg"), CONFIG, tmp_path / "none").report == first.report


def test_after_a_damaged_report_it_is_named_anew(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    fresh = with_identity(index("a.jpg"), CONFIG, tmp_path / "none")
    assert with_identity(index("a.jpg"), CONFIG, tmp_path).report == fresh.report
