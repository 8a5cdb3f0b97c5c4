"""Rankings and similarities of a run, as figures."""

import numpy as np

from diffps.figures.searches import Find, Search, box_overlaps, ranking_sheet, telling
from diffps.figures.sheets import Mark, Sheet
from diffps.figures.similarity import Similarity, compare_pairs
from diffps.metrics.failures import Kind, judge_results
from diffps.metrics.matching import iou_thresholds
from stages.page.evidence import Evidence, Json, NotThereError, box_of

OVERLAP = 0.5  # IoU from which a detection is the annotated person
# Why a result is wrong, in a caption.
REASONS: dict[Kind, str] = {"loose": "right person, loose box", "wrong": "another person", "nobody": "nobody annotated"}


def rankings(evidence: Evidence) -> Sheet:
    """A median query, a good one, a bad one and others by average precision, each with its first results."""
    config = evidence.params.report
    known = [name for name in evidence.precisions if name in evidence.queries]
    values = np.array([evidence.precisions[name] for name in known])
    chosen = {known[position]: kind for kind, position in telling(values, config.queries)}
    unjudged = [name for name in evidence.ranking if name in evidence.queries and name not in evidence.precisions]
    chosen |= dict.fromkeys(unjudged[: config.queries - len(chosen)], "A query that cannot be judged")
    searches = [
        Search(
            query_id=name,
            kind=kind,
            query=query_find(evidence, name),
            results=tuple(result_find(evidence, row) for row in evidence.ranking.get(name, [])[: config.results]),
            precision=evidence.precisions.get(name),
        )
        for name, kind in chosen.items()
    ]
    if not searches:
        raise NotThereError("figure ranking: no query was ranked; check index and evaluate.gallery")
    return ranking_sheet(searches)


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


def query_find(evidence: Evidence, name: str) -> Find:
    """The person looked for."""
    query = evidence.queries[name]
    image, gone = evidence.picture(query.scene_id)
    return Find(scene_id=query.scene_id, image=image, box=query.box, gone=gone)


def result_find(evidence: Evidence, row: Json) -> Find:
    """A row of ranking.parquet; a wrong one with its reason."""
    judged = row["query_id"] in evidence.precisions
    mark: Mark = "none" if not judged else "right" if row["correct"] else "wrong"
    image, gone = evidence.picture(row["scene_id"])
    persons = evidence.annotations[row["scene_id"]]
    return Find(
        scene_id=row["scene_id"],
        image=image,
        box=box_of(row),
        value=row["similarity"],
        mark=mark,
        cause=_reason(evidence, row) if mark == "wrong" else "",
        found=evidence.found_in(row["scene_id"]),
        wanted=persons.boxes[persons.identities == evidence.queries[row["query_id"]].identity],
        gone=gone,
    )


def _reason(evidence: Evidence, row: Json) -> str:
    persons = evidence.annotations[row["scene_id"]]
    wanted = persons.identities == evidence.queries[row["query_id"]].identity
    thresholds = iou_thresholds(persons.boxes, evidence.params.evaluate.convention)
    verdict = judge_results(box_of(row)[None], persons.boxes, wanted, thresholds)[0]
    # A second box on the person looked for is wrong as well: a person is found once.
    reason = REASONS.get(verdict.kind, "found again")
    return f"{reason}, IoU {verdict.iou:.2f}" if verdict.kind == "loose" else reason
