"""Failures as the page shows them: why a person was missed, what a wrong result is."""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffps.figures.sheets import Sheet
from stages.page.evidence import Evidence
from stages.page.failures import failures
from stages.page.features import candidates
from stages.page.searches import rankings
from tests.metrics.worlds import iou
from tests.page.conftest import Run

DETECTIONS = "results/evaluate/detections.parquet"
RANKING = "results/evaluate/ranking.parquet"


def captions(sheet: Sheet, label: str) -> list[str]:
    return [tile.caption for row in sheet.rows if row.label == label for tile in row.tiles]


def shift(run: Run, file: str, pixels: float, wanted: Sequence[bool]) -> None:
    """Move boxes of a table to the right."""
    table = pq.read_table(run.folder / file)
    for name in ("x1", "x2"):
        values = np.where(wanted, table[name].to_numpy() + pixels, table[name].to_numpy())
        table = table.set_column(table.schema.get_field_index(name), name, [values.astype(np.float32)])
    pq.write_table(table, run.folder / file)


def test_a_loose_box_has_its_overlap_and_its_person_was_found_loosely(run: Run) -> None:
    table = pq.read_table(run.folder / DETECTIONS)
    first = [row == 0 for row in range(len(table))]
    shift(run, DETECTIONS, 17, first)  # half of a person's 34 pixels: an overlap of about a third
    evidence, scene = run.evidence, table["scene_id"][0].as_py()
    person = evidence.annotations[scene].boxes[0]
    overlap = iou(evidence.detections[scene].boxes[evidence.detections[scene].boxes[:, 0].argsort()][1], person)
    assert 0.25 < overlap < 0.4
    sheet = failures(evidence)
    (loose,) = captions(sheet, "Loose boxes")
    assert loose.endswith(f", IoU {overlap:.2f}")
    assert any(each.endswith(f"found loosely, IoU {overlap:.2f}") for each in captions(sheet, "Missed persons"))


def test_a_missed_person_was_not_proposed_or_below_the_threshold(filled: Run) -> None:
    """Nobody was detected: every cause against what the head had to choose from."""
    path = filled.folder / DETECTIONS
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.equal(table["scene_id"], "nowhere")), path)
    evidence = filled.evidence
    (row,) = (row for row in failures(evidence).rows if row.label == "Missed persons")
    told = [(tile.alt, tile.caption.partition(", ")[2]) for tile in row.tiles]
    expected = {scene: causes(evidence, scene) for scene in evidence.annotations}
    for alt, cause in told:
        (scene,) = (name for name in expected if name in alt)
        assert cause in expected[scene]
    assert {re.sub(r" 0\.\d\d$", "", cause) for _, cause in told} == {
        "not proposed",
        "below the threshold",  # proposed, and lost to another box
        "below the threshold, score",
    }


def causes(evidence: Evidence, scene: str) -> list[str]:
    """Why each person of a scene without detections was missed, written plainly."""
    found, frame, size = candidates(evidence, scene), evidence.params.encode.frame, evidence.scenes[scene].size
    boxes, proposals = (frame.to_scene(each.float().numpy(), size) for each in (found.boxes, found.proposals))
    told = []
    for person in evidence.annotations[scene].boxes:
        scores = [s for s, box in zip(found.scores.tolist(), boxes, strict=True) if s < 0.5 and iou(box, person) >= 0.5]
        proposed = any(iou(box, person) >= 0.5 for box in proposals)
        below = "below the threshold" if proposed else "not proposed"
        told.append(f"below the threshold, score {max(scores):.2f}" if scores else below)
    return told


def test_a_wrong_result_says_what_is_in_its_box(run: Run) -> None:
    run.change("report", queries=6, results=8)
    ranking = pq.read_table(run.folder / RANKING).to_pylist()
    loosened = [bool(row["correct"]) and row["rank"] <= 8 for row in ranking]
    shift(run, RANKING, 17, loosened)
    table = pq.read_table(run.folder / RANKING)
    wrong = pc.if_else(np.array(loosened), False, table["correct"].combine_chunks())
    pq.write_table(table.set_column(table.schema.get_field_index("correct"), "correct", [wrong]), run.folder / RANKING)
    tiles = [tile for row in rankings(run.evidence).rows for tile in row.tiles[1:]]
    reasons = {re.sub(r"^-?[\d.]+, |, IoU 0\.\d\d$", "", tile.caption) for tile in tiles if tile.mark == "wrong"}
    assert reasons == {"right person, loose box", "another person", "nobody annotated"}
    loose = [tile.caption for tile in tiles if "loose" in tile.caption]
    assert loose
    assert all(0.2 < float(each[-4:]) < 0.45 for each in loose)


def test_a_confusion_is_the_first_answer_beside_the_first_right_one(run: Run) -> None:
    table = pq.read_table(run.folder / RANKING)
    right = [row["rank"] in (2, 4) for row in table.to_pylist()]
    pq.write_table(table.set_column(table.schema.get_field_index("correct"), "correct", [right]), run.folder / RANKING)
    evidence = run.evidence
    wanted = sorted((-rows[0]["similarity"], name) for name, rows in evidence.ranking.items() if len(rows) > 2)[:3]
    told = captions(failures(evidence), "Confused identities")
    assert len(told) == 3 * len(wanted) > 0
    for number, (similarity, name) in enumerate(wanted):
        second = next(row["similarity"] for row in evidence.ranking[name] if row["correct"])
        assert told[3 * number] == "query"
        assert told[3 * number + 1].startswith(f"{-similarity:.2f}")
        assert told[3 * number + 2] == f"{second:.2f}"
        assert evidence.ranking[name][1]["similarity"] != -similarity
