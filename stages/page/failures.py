"""Failures of a run: persons missed and why, loose boxes, false alarms, identities confused."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import CacheError
from diffps.errors import DiffPSError
from diffps.figures.searches import Find, failures_sheet
from diffps.figures.sheets import Sheet
from diffps.metrics.failures import Fate, Kind, judge_detections, judge_persons
from stages.page.evidence import Evidence, Json, NotThereError
from stages.page.features import candidates
from stages.page.searches import query_find, result_find
from stages.text import count

FAILURES = 8  # pictures a row
CONFUSED = 3
Boxes = NDArray[np.float32]
NONE: Boxes = np.empty((0, 4), np.float32)
FATES: dict[Fate, str] = {
    "loose": "found loosely, IoU {iou:.2f}",
    "below": "below the threshold",
    "unproposed": "not proposed",
    "missed": "",
}


@dataclass(frozen=True, slots=True)
class _Case:
    """A box of a scene; the greatest ``weight`` is shown first."""

    weight: float
    scene_id: str
    box: Boxes
    cause: str = ""


def failures(evidence: Evidence) -> Sheet:
    """Missed persons, loose boxes, false alarms and confused identities of the test split, the most telling of each."""
    missed: list[_Case] = []
    cases: dict[Kind, list[_Case]] = {"loose": [], "nobody": []}
    for scene in (scene for scene in evidence.scenes.values() if scene.split == "test"):
        persons, found = evidence.annotations[scene.scene_id].boxes, evidence.detections.get(scene.scene_id)
        boxes = NONE if found is None else found.boxes
        for person, verdict in zip(persons, judge_persons(persons, boxes), strict=True):
            if verdict.fate != "found":
                missed.append(_Case(float((person[2:] - person[:2]).prod()), scene.scene_id, person))
        if found is not None:
            for row, judged in enumerate(judge_detections(boxes, persons)):
                if judged.kind in cases:
                    cause = f"IoU {judged.iou:.2f}" if judged.kind == "loose" else ""
                    cases[judged.kind].append(_Case(float(found.scores[row]), scene.scene_id, boxes[row], cause))
    sheet = failures_sheet(
        _finds(evidence, missed, lambda chosen: _causes(evidence, chosen)),
        _finds(evidence, cases["nobody"], scored=True) if evidence.is_annotated else [],
        _confused(evidence),
        loose=_finds(evidence, cases["loose"], scored=True),
    )
    if not sheet.rows:
        raise NotThereError("figure failures: nothing is wrong that could be shown")
    return sheet


def kinds_of_detections(evidence: Evidence) -> str:
    """One sentence that counts what the detections show, empty where there are none."""
    kinds: Counter[str] = Counter()
    for scene_id, found in evidence.detections.items():
        kinds.update(verdict.kind for verdict in judge_detections(found.boxes, evidence.annotations[scene_id].boxes))
    if not kinds:
        return ""
    return (
        f"Of {count(kinds.total(), 'detection')}, {kinds['right']:,} are right, {kinds['again']:,} on a person already "
        f"found, {kinds['loose']:,} loose around a person, {kinds['nobody']:,} where nobody is annotated."
    )


def _finds(
    evidence: Evidence,
    cases: Sequence[_Case],
    causes: Callable[[Sequence[_Case]], Sequence[str]] | None = None,
    *,
    scored: bool = False,
) -> list[Find]:
    ordered = sorted(cases, key=lambda case: (-case.weight, case.scene_id))
    chosen = list(islice((case for case in ordered if evidence.is_readable(case.scene_id)), FAILURES))
    told = causes(chosen) if causes is not None else [case.cause for case in chosen]
    return [
        Find(
            scene_id=case.scene_id,
            image=evidence.image(case.scene_id),
            box=case.box,
            value=case.weight if scored else None,
            mark="wrong",
            cause=cause,
            found=None if scored else evidence.found_in(case.scene_id),
        )
        for case, cause in zip(chosen, told, strict=True)
    ]


def _causes(evidence: Evidence, missed: Sequence[_Case]) -> list[str]:
    """Why each was missed, from what the head proposed there; less where it cannot be run on the scene again."""
    seen: dict[str, tuple[Boxes | None, Boxes | None, Boxes | None]] = {}
    told = []
    for case in missed:
        if case.scene_id not in seen:
            seen[case.scene_id] = _dropped(evidence, case.scene_id)
        dropped, scores, proposals = seen[case.scene_id]
        persons, found = evidence.annotations[case.scene_id].boxes, evidence.detections.get(case.scene_id)
        verdicts = judge_persons(persons, NONE if found is None else found.boxes, dropped, scores, proposals)
        verdict = verdicts[int(np.flatnonzero((persons == case.box).all(axis=1))[0])]
        score = "" if verdict.score is None else f", score {verdict.score:.2f}"
        told.append(FATES[verdict.fate].format(iou=verdict.iou) + score)
    return told


def _dropped(evidence: Evidence, scene_id: str) -> tuple[Boxes | None, Boxes | None, Boxes | None]:
    """Boxes under the threshold with their scores, and all proposals, in the scene frame; None where not known."""
    if evidence.params.evaluate.gt_boxes:
        return None, None, None
    try:
        found = candidates(evidence, scene_id)
    except (DiffPSError, CacheError) as error:
        evidence.job.say(f"why persons in {scene_id} were missed is not told: {error}")
        return None, None, None

    def placed(boxes: torch.Tensor) -> Boxes:
        return evidence.params.encode.frame.to_scene(boxes.float().numpy(), evidence.scenes[scene_id].size)

    low = found.scores < evidence.params.evaluate.score_threshold
    return placed(found.boxes[low]), found.scores[low].float().numpy(), placed(found.proposals)


def _confused(evidence: Evidence) -> list[tuple[Find, Find, Find]]:
    cases: list[tuple[float, str, Json, Json]] = []
    for name, rows in evidence.ranking.items():
        right = next((row for row in rows if row["correct"]), None)
        if name in evidence.queries and not rows[0]["correct"] and right is not None:
            cases.append((rows[0]["similarity"], name, rows[0], right))
    cases.sort(key=lambda case: (-case[0], case[1]))
    return [
        (query_find(evidence, name), result_find(evidence, wrong), result_find(evidence, right))
        for _, name, wrong, right in cases[:CONFUSED]
    ]
