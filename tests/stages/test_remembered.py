"""What beside store and index remembers an image: which files, why, and what deleting them leaves."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from cache import FeatureStore
from cache.sealed import read_table, write_table
from diffps.datasets.tables import write_index
from diffps.records import Annotations, Gallery, Query, Scene, SearchIndex
from stages.forgetting.chosen import Chosen
from stages.forgetting.reindex import scrub, without
from stages.forgetting.remembered import Memory, delete, fitted, memories, others
from stages.places import KNOWN_FILES, calibration_file, similarity_file
from tests.cache.builders import images, spec, write

GONE = Chosen(
    names=frozenset({"a/1.jpg"}), paths=frozenset({"a/1.jpg"}), digests=frozenset({"ab12"}), splits=frozenset({"test"})
)
HEAD = Path("results/train/head")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(name: str, text: str = "x") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def told(found: list[Memory]) -> dict[str, tuple[str, bool]]:
    return {str(memory.path): (memory.why, memory.forget is not None) for memory in found}


def test_arrays_under_a_basis_of_theirs_go_with_it_where_that_is_asked_for() -> None:
    store, array = FeatureStore(Path("store")), spec("project:4")
    write(store, [array, spec()], images(3))
    name = array.path.rpartition("/")[2]
    mine = put(f"store/bases/x/t0/{name}.npz")
    kept = [put(f"store/bases/x/t1/{name}.npz"), put("store/bases/x/t0/other.npz")]
    why = "its principal channels were fitted on them"
    assert told(list(fitted(store.root, [array.path], heads=False))) == {
        f"store/features.zarr/{array.path}": (why, False)
    }
    (memory,) = fitted(store.root, [array.path], heads=True)
    assert memory.forget is not None
    memory.forget()
    assert store.arrays() == [spec()]
    assert not mine.exists()
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize("heads", [False, True])
def test_results_of_test_scenes_and_heads_of_training_scenes_are_named(heads: bool) -> None:
    of_test = "scores, boxes and embeddings of all test scenes"
    scores = "scores over all test scenes"
    expected = {
        "results/evaluate": (of_test, True),
        "results/sweep/heads/v/evaluate": (of_test, True),
        "results/sweep/heads/v/result.json": (scores, True),
        "results/sweep/table.csv": (scores, True),
        str(similarity_file(HEAD)): ("drawn from the embeddings of all test scenes", True),
    }
    always = {
        "results/report": ("pictures", True),
        "results/figures": ("pictures", True),
        str(calibration_file(HEAD)): ("measured on people of the dataset", True),
    }
    of_training = {
        "results/probe": ("persons of training scenes as numbers", True),
        "results/train/checkpoint": ("a head's memory of whom it was shown", True),
        "results/sweep/heads/v/checkpoint": ("a head's memory of whom it was shown", True),
        "results/train/head": ("its weights learned from them", heads),
        "results/sweep/heads/v/head": ("its weights learned from them", heads),
    }
    for name in (*expected, *always, *of_training):
        put(name if "." in name.rpartition("/")[2] else f"{name}/config.json")
    assert told(list(memories(GONE, HEAD, heads=heads))) == {**expected, **always}
    trained = Chosen(names=GONE.names, paths=GONE.paths, digests=GONE.digests, splits=frozenset({"train"}))
    assert told(list(memories(trained, HEAD, heads=heads))) == {**always, **of_training}
    put("elsewhere/head/config.json")
    found = told(list(memories(trained, Path("elsewhere/head"), heads=heads)))
    assert found["elsewhere/head"] == ("its weights learned from them", heads)


def test_logs_lose_the_lines_that_name_them_and_nothing_else() -> None:
    other = json.dumps({"message": "b/2.jpg: odd"})
    log = put("results/train/log.jsonl", "\n".join([json.dumps({"message": "a/1.jpg: odd"}), other, "ab12", ""]))
    put("results/report/log.jsonl", other)
    (memory,) = memories(GONE, HEAD, heads=False)
    assert (memory.path, memory.why) == (log, "lines that name them")
    assert memory.forget is not None
    memory.forget()
    assert log.read_text() == f"{other}\n"
    memory.forget()
    assert list(memories(GONE, HEAD, heads=False)) == []


def test_known_files_lose_them_by_content_and_by_name() -> None:
    rows = {"path": ["/x/a/1.jpg", "/x/aa/1.jpg", "/y/b.jpg", "/x/ba/1.jpg"], "digest": ["1", "2", "ab12", "3"]}
    KNOWN_FILES.parent.mkdir()
    write_table(KNOWN_FILES, pa.table(rows))
    (memory,) = memories(GONE, HEAD, heads=False)
    assert (memory.path, memory.why) == (KNOWN_FILES, "their size and digest")
    assert memory.forget is not None
    memory.forget()
    assert read_table(KNOWN_FILES, "x")["digest"].to_pylist() == ["2", "3"]
    assert list(memories(GONE, HEAD, heads=False)) == []
    KNOWN_FILES.write_bytes(b"torn")
    assert list(memories(GONE, HEAD, heads=False)) == []


def test_whatever_else_of_the_project_names_them_is_found_plain_or_as_json_or_in_a_table() -> None:
    strange = Chosen(names=frozenset({'ü"1.jpg'}), paths=frozenset(), digests=frozenset(), splits=frozenset())
    mine = [
        put("results/search/a.html", '<p>ü"1.jpg</p>'),
        put("results/b.json", json.dumps({"name": 'ü"1.jpg'})),
        put("data/inputs/train.json", 'ü"1.jpg'),
    ]
    Path("data/encode").mkdir()
    write_table(Path("data/encode/t.parquet"), pa.table({"n": [1.0, 2.0], "name": ['ü"1.jpg', "z" * 50]}))
    known = put("results/evaluate/metrics.json", 'ü"1.jpg')
    for name in ("results/c.json", "results/train/log.jsonl", "data/other/x.txt"):
        put(name, "nothing" if name == "results/c.json" else 'ü"1.jpg')
    found = list(others(strange, [Path("results/evaluate")]))
    assert {memory.path for memory in found} == {*mine, Path("data/encode/t.parquet")}
    assert {memory.why for memory in found} == {"it names them"}
    for memory in found:
        assert memory.forget is not None
        memory.forget()
    assert not any(path.exists() for path in mine)
    assert known.exists()


def test_a_deleted_folder_keeps_its_log_alone() -> None:
    for name in ("results/train/a.json", "results/train/head/b", "results/train/digests.json"):
        put(name)
    log = put("results/train/log.jsonl")
    delete(log.parent)
    assert list(log.parent.iterdir()) == [log]
    assert list(memories(GONE, HEAD, heads=False)) == []  # a log alone is no result
    log.unlink()
    put("results/train/a.json")
    delete(log.parent)
    assert not log.parent.exists()
    delete(put("results/b"))
    assert list(Path("results").iterdir()) == []


def test_an_index_without_some_images_is_numbered_anew() -> None:
    """Scenes 0 to 3, of which 1 is forgotten by its name and 3 by its content."""
    scenes = tuple(
        Scene(scene_id=f"{n}.jpg", split="test", path=f"{n}.jpg", width=9, height=9, digest=f"{n:064x}")
        for n in range(4)
    )
    boxes = np.float32([[0, 0, 2, 2], [1, 1, 3, 3], [2, 2, 4, 4]])
    gallery = Gallery(
        name="g",
        query_ids=("q0", "q1"),
        scenes=(np.array([3, 2, 1, 0], np.int32), np.array([1, 2], np.int32)),
        positive_scenes=(np.array([1, 2, 3], np.int32), np.array([2], np.int32)),
        positive_boxes=(boxes, boxes[:1]),
    )
    annotations = {scene.scene_id: Annotations(boxes[:1], np.array([5])) for scene in scenes}
    index = SearchIndex(
        scenes=scenes,
        annotations=annotations,
        queries=tuple(Query(query_id=f"q{n}", scene_id=f"{n}.jpg", box=boxes[0], identity=5) for n in (0, 1)),
        galleries=(gallery,),
        report={},
    )
    write_index(index, Path("index"))
    report = {
        "forgotten": 2,
        "skipped": {"1.jpg": "torn", "0.jpg": "odd"},
        "note": "1.jpg is odd",
        "list": ["1.jpg", 5],
    }
    found = without(Path("index"), report, {"1.jpg"}, {scenes[3].digest})
    assert [scene.scene_id for scene in found.scenes] == list(found.annotations) == ["0.jpg", "2.jpg"]
    assert [each.query_id for each in found.queries] == ["q0"]
    (left,) = found.galleries
    assert left.query_ids == ("q0",)
    assert [part.tolist() for part in (*left.scenes, *left.positive_scenes)] == [[1, 0], [1]]
    assert left.positive_boxes[0].tolist() == boxes[1:2].tolist()
    assert found.report == {"forgotten": 4, "skipped": {"0.jpg": "odd"}, "note": "", "list": [5]}
    assert without(Path("index"), {}, {"1.jpg"}, {scenes[3].digest}).report == {"forgotten": 2}
    assert scrub({"a": 1}, {""}) == {"a": 1}
