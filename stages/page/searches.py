"""Rankings, failures and similarities of a run, as figures."""

from itertools import islice

import numpy as np

from diffps.figures.searches import Find, Search, box_overlaps, failures_sheet, missed_persons, ranking_sheet, spread
from diffps.figures.sheets import Mark, Sheet
from diffps.figures.similarity import Similarity, compare_pairs
from stages.page.evidence import Evidence, Json, NotThereError, box_of

OVERLAP = 0.5  # IoU from which a detection is the annotated person
FAILURES = 8  # pictures a row
CONFUSED = 3


def rankings(evidence: Evidence) -> Sheet:
    """Queries at even steps through the order of average precision, each with its first results."""
    config = evidence.params.report
    known = [name for name in evidence.precisions if name in evidence.queries]
    values = np.array([evidence.precisions[name] for name in known])
    chosen = [known[position] for position in spread(values, config.queries)]
    unjudged = [name for name in evidence.ranking if name in evidence.queries and name not in evidence.precisions]
    chosen += unjudged[: config.queries - len(chosen)]
    searches = [
        Search(
            query_id=name,
            query=_query(evidence, name),
            results=tuple(_result(evidence, row) for row in evidence.ranking.get(name, [])[: config.results]),
            precision=evidence.precisions.get(name),
        )
        for name in chosen
    ]
    if not searches:
        raise NotThereError("figure ranking: no query was ranked; check index and evaluate.gallery")
    return ranking_sheet(searches)


def failures(evidence: Evidence) -> Sheet:
    """Missed persons, false alarms and confused identities of the test split."""
    missed: list[tuple[float, str, np.ndarray]] = []
    false: list[tuple[float, str, np.ndarray]] = []
    for scene in evidence.scenes.values():
        if scene.split != "test":
            continue
        persons, found = evidence.annotations[scene.scene_id].boxes, evidence.detections.get(scene.scene_id)
        boxes = np.empty((0, 4), np.float32) if found is None else found.boxes
        for index in missed_persons(persons, boxes, OVERLAP):
            size = persons[index, 2:] - persons[index, :2]
            missed.append((float(size.prod()), scene.scene_id, persons[index]))
        if found is not None:
            nearest = box_overlaps(boxes, persons).max(axis=1, initial=0)
            false += [(float(found.scores[i]), scene.scene_id, boxes[i]) for i in np.flatnonzero(nearest < OVERLAP)]

    def strongest(cases: list[tuple[float, str, np.ndarray]], *, scored: bool) -> list[Find]:
        ordered = sorted(cases, key=lambda case: (-case[0], case[1]))
        readable = (case for case in ordered if evidence.is_readable(case[1]))
        return [
            Find(scene_id=name, image=evidence.image(name), box=box, value=value if scored else None, mark="wrong")
            for value, name, box in islice(readable, FAILURES)
        ]

    return failures_sheet(strongest(missed, scored=False), strongest(false, scored=True), _confused(evidence))


def similarity(evidence: Evidence) -> Similarity | None:
    """Similarities of pairs of detected and annotated persons whose identity is known; None without such pairs."""
    vectors, identities, places = [], [], []
    for place, (scene_id, found) in enumerate(sorted(evidence.detections.items())):
        persons = evidence.annotations[scene_id]
        if not len(persons.boxes):
            continue
        overlaps = box_overlaps(found.boxes, persons.boxes)
        names = persons.identities[overlaps.argmax(axis=1)]
        known = (overlaps.max(axis=1) >= OVERLAP) & (names >= 0)
        vectors.append(found.embeddings[known])
        identities.append(names[known])
        places.append(np.full(known.sum(), place))
    if not vectors:
        return None
    rate = evidence.params.report.false_match_rate
    return compare_pairs(np.concatenate(vectors), np.concatenate(identities), np.concatenate(places), rate)


def _confused(evidence: Evidence) -> list[tuple[Find, Find, Find]]:
    cases: list[tuple[float, str, Json, Json]] = []
    for name, rows in evidence.ranking.items():
        right = next((row for row in rows if row["correct"]), None)
        if name in evidence.queries and not rows[0]["correct"] and right is not None:
            cases.append((rows[0]["similarity"], name, rows[0], right))
    cases.sort(key=lambda case: (-case[0], case[1]))
    return [
        (_query(evidence, name), _result(evidence, wrong), _result(evidence, right))
        for _, name, wrong, right in cases[:CONFUSED]
    ]


def _query(evidence: Evidence, name: str) -> Find:
    query = evidence.queries[name]
    return Find(scene_id=query.scene_id, image=evidence.image(query.scene_id), box=query.box)


def _result(evidence: Evidence, row: Json) -> Find:
    judged = row["query_id"] in evidence.precisions
    mark: Mark = "none" if not judged else "right" if row["correct"] else "wrong"
    return Find(
        scene_id=row["scene_id"],
        image=evidence.image(row["scene_id"]),
        box=box_of(row),
        value=row["similarity"],
        mark=mark,
    )
