"""Why an answer is wrong: what a detection shows, how a person was missed, where undefined and zero scores come from.

Boxes are x1, y1, x2, y2 in the scene frame, and judged scene by scene.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffps.metrics.matching import IOU_THRESHOLD, box_overlaps, mutual_matches

Boxes = NDArray[np.floating]
LOOSE = 0.1  # IoU from which a box belongs to a person; what is below shows background (TIDE, Bolya et al. 2020)

Kind = Literal["right", "again", "loose", "wrong", "nobody"]
Fate = Literal["found", "loose", "below", "unproposed", "missed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a detection shows: ``person`` is the row of the annotated box it belongs to, or -1; ``iou`` with that."""

    kind: Kind
    person: int
    iou: float


@dataclass(frozen=True, slots=True)
class PersonVerdict:
    """How an annotated person was found or missed: ``iou`` of the detection that tells, ``score`` of one that was
    dropped."""

    fate: Fate
    iou: float
    score: float | None = None


def judge_detections(boxes: Boxes, true_boxes: Boxes) -> list[Verdict]:
    """Each detection of a scene, strongest first, against its annotated persons (t, 4).

    ``right``: matched with a person, as the detection scores count it; ``again``: on a person that a closer box is
    matched with; ``loose``: around a person at an IoU under 0.5; ``nobody``: no annotated person there.
    """
    if not len(true_boxes):
        return [Verdict("nobody", -1, 0.0)] * len(boxes)
    overlaps = box_overlaps(boxes, true_boxes)
    nearest = overlaps.argmax(axis=1)
    matched, _ = mutual_matches(_single(true_boxes), _single(boxes), IOU_THRESHOLD)
    verdicts = []
    for row, person in enumerate(nearest.tolist()):
        iou = float(overlaps[row, person])
        if matched[row] >= 0:
            verdicts.append(Verdict("right", person, iou))
        elif iou >= IOU_THRESHOLD:
            verdicts.append(Verdict("again", person, iou))
        else:
            verdicts.append(Verdict("loose", person, iou) if iou >= LOOSE else Verdict("nobody", -1, iou))
    return verdicts


def judge_results(boxes: Boxes, true_boxes: Boxes, wanted: NDArray[np.bool_], thresholds: Boxes) -> list[Verdict]:
    """Results (n, 4) of a search in one scene against its annotated persons, of which ``wanted`` (t,) is looked for.

    ``thresholds`` (t,): the IoU from which each counts as found (:func:`diffps.metrics.matching.iou_thresholds`).
    ``right``: on the person looked for; ``loose``: nearest to that person, under the threshold; ``wrong``: nearest to
    somebody else; ``nobody``: no annotated person there.
    """
    if not len(true_boxes):
        return [Verdict("nobody", -1, 0.0)] * len(boxes)
    verdicts = []
    for overlaps in box_overlaps(boxes, true_boxes):
        right = np.flatnonzero(wanted & (overlaps >= thresholds))
        person = int(right[overlaps[right].argmax()] if len(right) else overlaps.argmax())
        iou = float(overlaps[person])
        if len(right):
            verdicts.append(Verdict("right", person, iou))
        elif iou < LOOSE:
            verdicts.append(Verdict("nobody", -1, iou))
        else:
            verdicts.append(Verdict("loose" if wanted[person] else "wrong", person, iou))
    return verdicts


def judge_persons(
    true_boxes: Boxes,
    boxes: Boxes,
    dropped: Boxes | None = None,
    dropped_scores: NDArray[np.floating] | None = None,
    proposals: Boxes | None = None,
) -> list[PersonVerdict]:
    """Each annotated person (t, 4) of a scene against its detections, strongest first.

    ``found``: matched; ``loose``: an unmatched detection is nearest to this person, at an IoU from 0.1; ``below``: on a
    detection that was ``dropped`` for its score (``dropped_scores``), or proposed and then lost; ``unproposed``: no
    proposal at an IoU of 0.5; ``missed``: none of these, where ``proposals`` are not known.
    """
    found: dict[int, float] = {}
    loose: dict[int, float] = {}
    for verdict in judge_detections(boxes, true_boxes):
        if verdict.kind == "right":
            found[verdict.person] = verdict.iou
        elif verdict.kind != "nobody":
            loose[verdict.person] = max(verdict.iou, loose.get(verdict.person, 0.0))
    verdicts = []
    for person, box in enumerate(np.asarray(true_boxes)):
        if person in found:
            verdicts.append(PersonVerdict("found", found[person]))
        elif person in loose:
            verdicts.append(PersonVerdict("loose", loose[person]))
        else:
            verdicts.append(_missed(box, dropped, dropped_scores, proposals))
    return verdicts


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchCauses:
    """What stands behind the scores of a search.

    ``detections`` passed the score threshold, in ``scenes`` of which ``empty_scenes`` have none. Of ``queries``,
    ``without_person`` have nobody annotated to be found in their gallery, which leaves them out of the means; of the
    others, ``undetected`` score 0 as no detection covers their person anywhere.
    """

    detections: int
    scenes: int
    empty_scenes: int
    queries: int
    without_person: int
    undetected: int

    def sentences(self, score_threshold: float) -> list[str]:
        """What a reader of the scores has to know, most important first; nothing where all is well."""
        said = []
        judged = self.queries - self.without_person
        if not judged:
            said.append(f"No score is defined: none of {self.queries} queries has its person in its gallery.")
        elif self.without_person:
            said.append(
                f"Left out of the means: {self.without_person} of {self.queries} queries, with nobody annotated to be "
                "found in their gallery."
            )
        if self.undetected:
            said.append(f"Scored 0 for want of a detection of their person: {self.undetected} of {judged} queries.")
        if self.empty_scenes:
            said.append(
                f"Passed the score threshold {score_threshold:g}: {self.detections} detections; {self.empty_scenes} of "
                f"{self.scenes} scenes have none."
            )
        return said


def search_causes(
    detected_scenes: NDArray[np.integer], scenes: int, existing: NDArray[np.integer], found: NDArray[np.integer]
) -> SearchCauses:
    """From the scene of every detection (N,), the number of scenes, and for each query how many positives its gallery
    has (``existing``) and how many of those a detection covers (``found``), as SearchScores gives them."""
    return SearchCauses(
        detections=len(detected_scenes),
        scenes=scenes,
        empty_scenes=scenes - len(np.unique(detected_scenes)),
        queries=len(existing),
        without_person=int((existing == 0).sum()),
        undetected=int(((existing > 0) & (found == 0)).sum()),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelRecall:
    """Persons annotated with a name and without, and the share of each that is detected, NaN where there are none."""

    labelled: int
    unlabelled: int
    recall_labelled: float
    recall_unlabelled: float

    def sentence(self, foreign: int = 0) -> str:
        """Both recalls in words. ``foreign``: boxes of training identities among the unlabelled of the test split."""
        parts = [
            f"{name} {100 * share:.1f} % of {count}" if count else f"no {name}"
            for name, count, share in (
                ("labelled", self.labelled, self.recall_labelled),
                ("unlabelled", self.unlabelled, self.recall_unlabelled),
            )
        ]
        said = f"Detected: {', '.join(parts)} persons; labelled are those whose identity is known."
        if foreign:
            said += (
                f" {foreign} of the unlabelled carry identities of the training split: unlabelled here and in DiffPS, "
                "labelled in SeqNet, whose labelled recall therefore counts other persons."
            )
        return said


def recall_by_label(matches: NDArray[np.integer], labelled: NDArray[np.bool_]) -> LabelRecall:
    """From the true box each detection is matched with, or -1 (DetectionScores.matches), and ``labelled`` (T,)."""
    seen = np.zeros(len(labelled), np.bool_)
    seen[matches[matches >= 0]] = True
    named, nameless = seen[labelled], seen[~labelled]
    return LabelRecall(
        labelled=len(named),
        unlabelled=len(nameless),
        recall_labelled=float(named.mean()) if len(named) else float("nan"),
        recall_unlabelled=float(nameless.mean()) if len(nameless) else float("nan"),
    )


def _missed(
    box: Boxes, dropped: Boxes | None, scores: NDArray[np.floating] | None, proposals: Boxes | None
) -> PersonVerdict:
    if dropped is not None and scores is not None and len(dropped):
        overlaps = box_overlaps(box[None], dropped)[0]
        covering = np.flatnonzero(overlaps >= IOU_THRESHOLD)
        if len(covering):
            best = covering[np.argmax(scores[covering])]
            return PersonVerdict("below", float(overlaps[best]), float(scores[best]))
    if proposals is None:
        return PersonVerdict("missed", 0.0)
    closest = float(box_overlaps(box[None], proposals).max(initial=0.0))
    return PersonVerdict("below" if closest >= IOU_THRESHOLD else "unproposed", closest)


def _single(boxes: Boxes) -> NDArray[np.float32]:
    return np.ascontiguousarray(boxes, np.float32)
