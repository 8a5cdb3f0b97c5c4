import json
import re
from pathlib import Path

import numpy as np
import pytest

from diffps.records import Detections
from stages.page import introduction
from stages.page.compose import compose
from stages.page.searches import rankings
from tests.page.conftest import Run


def test_the_first_picture_shows_a_right_answer_in_its_whole_scene(run: Run) -> None:
    example = introduction.example(run.evidence)
    assert example is not None
    scene = example.scene
    assert scene.image.shape == (160, 240, 3)
    assert [each.kind for each in scene.outlines].count("right") == 1
    assert scene.outlines[-1].kind == "right"
    assert len(scene.outlines) >= 2
    assert all(0 <= edge <= 1 for each in scene.outlines for edge in each.box)


def test_without_a_right_answer_there_is_no_first_picture(run: Run) -> None:
    evidence = run.evidence
    for rows in evidence.ranking.values():
        for row in rows:
            row["correct"] = False
    assert introduction.example(evidence) is None
    assert compose(evidence).example is None


@pytest.mark.parametrize(
    ("given", "dataset", "expected"),
    [
        ("", "streets", "Person search on drawn streets"),
        ("", "prw", "Person search on PRW"),
        ("Ours", "prw", "Ours"),
        ("Ours", "streets", "Ours, on drawn streets"),
    ],
)
def test_the_title_is_that_of_the_data(run: Run, given: str, dataset: str, expected: str) -> None:
    run.change("report", title=given)
    run.write("data/index/report.json", {"dataset": dataset})
    assert introduction.title(run.evidence) == expected
    quality = compose(run.evidence).quality
    assert ("drawn streets" in quality) == (dataset == "streets")


def test_every_hit_opens_as_its_whole_scene_with_everyone_found(run: Run) -> None:
    evidence = run.evidence
    sheet = rankings(evidence)
    assert [row.label for row in sheet.rows][:3] == ["A median query", "A good query", "A bad query"]
    hits = [tile for row in sheet.rows for tile in row.tiles[1:]]
    assert all(tile.opens is not None and tile.opens.image.shape == (160, 240, 3) for tile in hits)
    wrong = [tile.opens for tile in hits if tile.mark == "wrong" and tile.opens is not None]
    assert all(tile.outlines[-1].kind == "wrong" for tile in wrong)
    assert any(each.kind == "annotated" for tile in wrong for each in tile.outlines)
    right = [tile.opens for tile in hits if tile.mark == "right" and tile.opens is not None]
    assert not any(each.kind == "annotated" for tile in right for each in tile.outlines)


def test_a_picture_that_is_gone_leaves_a_placeholder(run: Run) -> None:
    row = next(iter(run.evidence.ranking.values()))[0]
    Path(run.folder / "images" / run.evidence.scenes[row["scene_id"]].path).unlink()
    tiles = [tile for each in rankings(run.evidence).rows for tile in each.tiles]
    gone = [tile for tile in tiles if "picture gone" in tile.caption]
    assert gone
    assert all("the picture is gone" in tile.alt for tile in gone)
    run.report()
    assert "the picture is gone" in (run.folder / "results/report/index.html").read_text()


def test_what_makes_one_doubt_the_head_stands_above_everything(run: Run) -> None:
    path = run.folder / "results/evaluate/metrics.json"
    doubt = "9 detections pass evaluate.score_threshold 0.5, but 10 persons are annotated"
    run.write("results/evaluate/metrics.json", json.loads(path.read_text()) | {"doubts": [doubt]})
    run.report()
    html = (run.folder / "results/report/index.html").read_text()
    assert re.search(rf'<p class="warning" role="note">.*</span> {re.escape(doubt)}\.</p>', html)


@pytest.mark.parametrize(("persons", "others"), [(1, "nobody else"), (2, "1 other person"), (3, "2 other persons")])
def test_the_first_picture_is_of_the_ten_most_typical_queries_the_fullest_scene(
    run: Run, persons: int, others: str
) -> None:
    """Of twelve queries the scenes of the two farthest from the median hold more, and of the tenth ``persons``."""
    evidence = run.evidence
    query, scene = next(iter(evidence.queries.values())), next(iter(evidence.annotations))
    row = next(iter(evidence.ranking.values()))[0] | {"correct": True}
    names = [f"n{number:02}" for number in range(12)]
    evidence.queries = dict.fromkeys(names, query)
    evidence.precisions = {name: 0.5 + 0.01 * at * (-1) ** at for at, name in enumerate(names)}
    evidence.ranking = {name: [row | {"query_id": name, "scene_id": scene}] for name in names}
    evidence.annotations |= dict.fromkeys(names, evidence.annotations[scene])
    evidence.scenes |= dict.fromkeys(names, evidence.scenes[scene])
    evidence.image = lambda scene_id: np.zeros((900, 1600, 3), np.uint8)  # type: ignore[assignment]
    middle = np.median(list(evidence.precisions.values()))
    order = sorted(names, key=lambda name: (abs(evidence.precisions[name] - middle), name))
    for at, name in enumerate(order):
        evidence.ranking[name][0]["scene_id"] = name
        count = persons if at == 9 else 9 if at > 9 else 0
        boxes = np.tile(np.float32([1, 1, 9, 20]), (count, 1))
        evidence.detections[name] = Detections(boxes, np.ones(count, np.float32), np.ones((count, 4), np.float32))
    example = introduction.example(evidence)
    assert example is not None
    assert example.query.alt == f"Query {order[9]}"
    assert f"found {others} there" in example.note
    assert example.scene.image.shape == (405, 720, 3)
