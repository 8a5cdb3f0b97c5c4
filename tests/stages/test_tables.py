"""What was found in the test split, as tables, as a gallery to be searched, and as scores: all made by hand."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from diffps.datasets.tables import BOX_COLUMNS, read_annotations, read_queries
from diffps.errors import ConfigError, DatasetError
from stages.config_heads import EvaluateConfig
from stages.finding.prepared import evaluated_gallery
from stages.finding.searcher import Searcher
from stages.images import ImageFolder
from stages.places import EVALUATE, INDEX
from stages.search.gallery import open_task, read_search_set
from stages.search.inference import search_gallery
from stages.search.scoring import detection_metrics, rank, score_colours, search_metrics
from stages.search.tables import Detected, made_by, read_detections, write_per_query, write_ranking
from tests.world import CPU, Listener, SmallSource

CONFIG = EvaluateConfig(score_threshold=0.5, ranking=2)


def looks(identities: NDArray[np.int64]) -> NDArray[np.float32]:
    """A direction for everybody; the unlabelled share one."""
    return np.eye(6, dtype=np.float32)[np.where(identities < 0, 5, identities - 100)]


def all_found() -> Detected:
    """Every person of the six test scenes in the true box, and their looks without a fault."""
    test = read_search_set(INDEX)
    persons = [test.annotations[scene.scene_id] for scene in test.scenes]
    identities = np.concatenate([part.identities for part in persons])
    return Detected(
        boxes=np.concatenate([part.boxes for part in persons]),
        scores=np.tile(np.float32([0.6, 0.9, 0.7]), 6),
        embeddings=looks(identities),
        scenes=np.repeat(np.arange(6), 3),
        query_embeddings=looks(np.array([query.identity for query in test.queries])),
    )


def test_detections_come_back_the_strongest_first_and_say_whose_they_are(here: Path) -> None:
    found, test, path = all_found(), read_search_set(INDEX), EVALUATE / "detections.parquet"
    EVALUATE.mkdir(parents=True)
    assert made_by(path) == ""
    found.write(EVALUATE, test)
    assert made_by(path) == ""
    found.write(EVALUATE, test, "ab" * 32)
    assert made_by(path) == "ab" * 32
    read = read_detections(path)
    assert list(read) == [f"c{number}_1.jpg" for number in range(6)]
    np.testing.assert_array_equal(read["c2_1.jpg"].boxes, found.boxes[6:9][[1, 2, 0]])
    np.testing.assert_array_equal(read["c2_1.jpg"].embeddings, found.embeddings[6:9][[1, 2, 0]])
    assert read["c2_1.jpg"].scores.tolist() == np.float32([0.9, 0.7, 0.6]).tolist()
    queries = pq.read_table(EVALUATE / "queries.parquet").to_pylist()
    assert [row["query_id"] for row in queries] == ["q0", "q1", "q2", "q3"]
    assert [row["scene_id"] for row in queries] == [f"c{number}_1.jpg" for number in range(4)]
    assert [row["identity"] for row in queries] == [100, 101, 102, 103]
    assert queries[1]["embedding"] == [0, 1, 0, 0, 0, 0]


def test_detections_for_other_programs_are_numbered_and_measured(here: Path) -> None:
    found = all_found()
    EVALUATE.mkdir(parents=True)
    found.write_exchange(EVALUATE, read_search_set(INDEX))
    content = json.loads((EVALUATE / "coco.json").read_text())
    assert content["images"][2] == {"id": 2, "file_name": "c2_1.jpg", "width": 100, "height": 80}
    assert content["categories"] == [{"id": 1, "name": "person"}]
    x, *_ = found.boxes[7].tolist()
    width = float(found.boxes[7, 2] - found.boxes[7, 0])
    assert content["annotations"][7] == {
        "id": 8,
        "image_id": 2,
        "category_id": 1,
        "bbox": [x, 8.0, width, 62.0],
        "area": pytest.approx(width * 62),
        "iscrowd": 0,
        "score": pytest.approx(0.9),
    }
    assert len(content["annotations"]) == len(np.load(EVALUATE / "embeddings.npy")) == 18


def test_a_search_without_a_fault_has_the_person_at_the_first_rank(here: Path) -> None:
    """Beside the query's scene, which does not count, three people are seen twice or more; the fourth once."""
    test, found = read_search_set(INDEX), all_found()
    task = open_task("all", "protocol", test, INDEX)
    ranked = rank(CONFIG, task, test, found)
    EVALUATE.mkdir(parents=True)
    write_ranking(task, ranked, found, EVALUATE)
    write_per_query(task, ranked, EVALUATE)
    ranking = pq.read_table(EVALUATE / "ranking.parquet").to_pylist()
    assert [(row["query_id"], row["rank"]) for row in ranking] == [(f"q{q}", r) for q in range(4) for r in (1, 2)]
    assert [row["correct"] for row in ranking] == [True] * 7 + [False]
    assert [row["similarity"] for row in ranking] == [1.0] * 7 + [0.0]
    truth = read_annotations(INDEX)
    for row, query in zip(ranking[::2], read_queries(INDEX), strict=True):
        at = truth[row["scene_id"]].identities.tolist().index(query.identity)
        assert row["scene_id"] != query.scene_id
        assert [row[name] for name in BOX_COLUMNS] == truth[row["scene_id"]].boxes[at].tolist()
    per_query = pq.read_table(EVALUATE / "per_query.parquet").to_pylist()
    assert [row["existing"] for row in per_query] == [2, 3, 2, 1]
    assert [row["found"] for row in per_query] == [2, 3, 2, 1]
    assert [(row["ap"], row["top1"], row["first_rank"]) for row in per_query] == [(1, True, 0)] * 4
    assert [(row["scene_id"], row["identity"]) for row in per_query] == [(f"c{n}_1.jpg", 100 + n) for n in range(4)]
    metrics = search_metrics(CONFIG, task, ranked)
    said = {"map": 1, "queries": 4, "gallery": "all", "convention": "protocol", "gt_boxes": False, "cbgm": False}
    assert {name: metrics[name] for name in said} == said


def test_persons_with_and_without_a_name_are_counted_apart(here: Path) -> None:
    test, found = read_search_set(INDEX), all_found()
    every = detection_metrics(test, found.boxes, found.scores, found.scenes)
    assert (every["labelled"], every["unlabelled"], every["recall"], every["recall_labelled"]) == (12, 6, 1, 1)
    named = np.tile([True, True, False], 6)
    some = detection_metrics(test, found.boxes[named], found.scores[named], found.scenes[named])
    assert (some["recall_labelled"], some["recall_unlabelled"]) == (1, 0)
    assert some["recall"] == pytest.approx(2 / 3)


def test_an_evaluated_split_is_searched_as_it_was_found(here: Path) -> None:
    test, found = read_search_set(INDEX), all_found()
    EVALUATE.mkdir(parents=True)
    found.write(EVALUATE, test, "ab" * 32)
    gallery = evaluated_gallery(INDEX, EVALUATE, "ab" * 32)
    searched = gallery.searched
    assert gallery.head == "ab" * 32
    assert searched.names == [f"c{number}_1.jpg" for number in range(6)]
    assert searched.images.tolist() == np.repeat(np.arange(6), 3).tolist()
    np.testing.assert_array_equal(searched.boxes[3:6], found.boxes[3:6][[1, 2, 0]])
    np.testing.assert_array_equal(searched.embedding(4), found.embeddings[5])
    assert gallery.sizes.tolist() == [[80, 100]] * 6
    assert gallery.named(f"{3:064x}") == "c3_1.jpg"
    with pytest.raises(ConfigError, match=r"of this head are of another head, or of true boxes; run `diffps evaluate`"):
        evaluated_gallery(INDEX, EVALUATE, "cd" * 32)
    with pytest.raises(ConfigError, match=r"the detections of this head are not there; run `diffps evaluate`"):
        evaluated_gallery(INDEX, Path("elsewhere"), "ab" * 32)


def test_galleries_are_searched_together_and_one_added_twice_once(here: Path) -> None:
    """A head that is nowhere has no digest, like detections by nobody."""
    EVALUATE.mkdir(parents=True)
    all_found().write(EVALUATE, read_search_set(INDEX))
    head: Any = SimpleNamespace(folder=Path("nowhere"), of_drawings=False)
    searcher = Searcher(head)
    with pytest.raises(ConfigError, match=r"^search: there is nothing to search; add a folder of pictures first$"):
        searcher.find([0])
    for root in ("one", "other", "one"):
        searcher.add_evaluated(INDEX, EVALUATE, Path(root))
    gallery = searcher.gallery
    assert gallery.names == [f"{root}/c{number}_1.jpg" for root in ("one", "other") for number in range(6)]
    assert gallery.images.tolist() == np.repeat(np.arange(12), 3).tolist()
    assert (len(gallery), searcher.sizes.tolist()) == (36, [[80, 100]] * 12)
    Path("other").mkdir()
    Image.fromarray(np.full((80, 100, 3), 77, np.uint8)).save("other/c1_1.jpg")
    assert int(searcher.picture(7).max()) == 77
    answer = searcher.find([4], top=3)
    assert (answer.own, answer.boxes, len(answer.hits)) == ((4,), 35, 3)
    assert all(hit.similarity == pytest.approx(1) for hit in answer.hits)
    assert 22 in {hit.row for hit in searcher.find([4]).hits}  # the same box under the other root
    assert len(searcher.find([4]).hits) == 20
    photo: Any = SimpleNamespace(digest=f"{3:064x}")
    assert searcher._images_of(photo.digest) == [3, 9]


def test_a_query_in_a_scene_that_was_skipped_is_named(here: Path) -> None:
    class Skipping(SmallSource):
        def skipped(self) -> frozenset[str]:
            return frozenset({"c1_1.jpg", "c3_1.jpg", "c5_1.jpg"})

    with pytest.raises(DatasetError, match=r"^evaluate: query q1 and 1 more lie in images that could not be read;"):
        search_gallery(CONFIG, {}, Skipping(), read_search_set(INDEX), CPU, Listener())


def test_colours_find_people_in_their_own_clothes(here: Path) -> None:
    test, job = read_search_set(INDEX), Listener()
    task = open_task("all", "protocol", test, INDEX)
    for scene in test.scenes:
        pixels = np.full((scene.height, scene.width, 3), 128, np.uint8)
        persons = test.annotations[scene.scene_id]
        for box, identity in list(zip(persons.boxes.astype(int), persons.identities, strict=True))[::-1]:
            x1, y1, x2, y2 = box
            pixels[y1:y2, x1:x2] = (60 * (identity % 4), 255 - 60 * (identity % 4), 90)
        Image.fromarray(pixels).save(here / scene.path, "png")
    found = score_colours(task, test, ImageFolder(Path(), 10**6), job)
    assert found is not None
    assert found["name"] == "colour histograms in ground-truth boxes"
    assert (found["queries"], found["recall"]) == (4, 1)
    (here / "c4_1.jpg").unlink()
    assert score_colours(task, test, ImageFolder(Path(), 10**6), job) is None
    (line,) = job.lines
    assert line.startswith("evaluate: no colour baseline: ")
    assert "c4_1.jpg" in line
