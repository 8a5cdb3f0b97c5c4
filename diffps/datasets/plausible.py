"""What the parts of an index say about each other: images beside images, splits beside splits, queries beside those who
are to be found; and what is too little to learn from."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.findings import Findings
from diffps.records import UNLABELLED, Annotations, Gallery, Query, Scene

SAME_CONTENT = "have the content of another image of their split"
IN_BOTH_SPLITS = "have the content of a training image"
SPLIT_IDENTITIES = "are named in both splits, where training and test persons should differ"
ALMOST_NAMES = "differ from another name in letter case only"
NO_BOX_LEFT = "have no box left"
LOST_QUERIES = "went with their box"
NOBODY_TO_FIND = "ask for somebody who is on no other image of their gallery"
NOT_ANNOTATED = "lie where their person is not annotated"
SAME_PERSON = 0.5  # IoU of a query and the annotated box of its person

FEW_IDENTITIES = 50  # PRW has 483, the fewest that the method was published with; the rest is a guess, and said so
FEW_BOXES = 500
FEW_VIEWS = 2


def compare_images(scenes: Sequence[Scene], findings: Findings) -> None:
    """Count images whose pixels another image has, within a split and across. Files that cannot be read have none."""
    first: dict[str, Scene] = {}
    for scene in (scene for scene in scenes if any(scene.size)):
        other = first.setdefault(scene.digest, scene)
        if other is not scene:
            reason = SAME_CONTENT if other.split == scene.split else IN_BOTH_SPLITS
            findings.add("doubtful", reason, "images", f"{scene.scene_id} and {other.scene_id}")


def compare_names(train: Iterable[str], test: Iterable[str], findings: Findings) -> None:
    """Count persons who are named in both splits, and names that are almost alike."""
    train, test = set(train) - {""}, set(test) - {""}
    both = sorted(train & test)
    if both:
        findings.add("doubtful", SPLIT_IDENTITIES, "persons", both[0], count=len(both))
    folded: dict[str, str] = {}
    for name in sorted(train | test):
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            findings.add("doubtful", ALMOST_NAMES, "persons", f"{other} and {name}")


def compare_queries(
    scenes: Sequence[Scene],
    annotations: Mapping[str, Annotations],
    queries: Sequence[Query],
    findings: Findings,
    galleries: Sequence[Gallery] = (),
) -> None:
    """Count queries that lie where their person is not annotated, and those with nobody to find: in the galleries that
    are listed, else among all other test images."""
    findings.seen("queries", len(queries))
    places: Counter[int] = Counter()
    for scene in scenes:
        if scene.split == "test":
            places.update(set(annotations[scene.scene_id].identities.tolist()) - {UNLABELLED})
    for query in queries:
        persons = annotations[query.scene_id]
        own = persons.boxes[persons.identities == query.identity]
        at = f"query {query.query_id} on {query.scene_id}"
        if not len(own) or overlaps(query.box, own).max() < SAME_PERSON:
            findings.add("doubtful", NOT_ANNOTATED, "queries", at)
        if not galleries and places[query.identity] - bool(len(own)) < 1:
            findings.add("doubtful", NOBODY_TO_FIND, "queries", at)
    for gallery in galleries:
        findings.seen("gallery lines", len(gallery.query_ids))
        for line, found in enumerate(gallery.positive_scenes, 1):
            if not len(found):
                findings.add("doubtful", NOBODY_TO_FIND, "gallery lines", f"gallery {gallery.name} line {line}")


def too_little(scenes: Sequence[Scene], annotations: Mapping[str, Annotations]) -> list[str]:
    """What the training split has too little of to learn from, a sentence each; empty where there is no such split.

    The limits are rules of thumb, not measurements: a head trained below them tends to learn its few persons by heart.
    """
    found = [annotations[scene.scene_id].identities for scene in scenes if scene.split == "train"]
    if not found:
        return []
    identities = np.concatenate(found)
    views = Counter(identities[identities != UNLABELLED].tolist())
    once = sum(count < FEW_VIEWS for count in views.values())
    warnings = []
    if len(views) < FEW_IDENTITIES:
        warnings.append(f"{len(views)} training identities are few (under {FEW_IDENTITIES}) to tell strangers apart by")
    if len(identities) < FEW_BOXES:
        warnings.append(f"{len(identities)} training boxes are few (under {FEW_BOXES}) to learn to find people from")
    if views and 2 * once > len(views):
        warnings.append(f"{once} of {len(views)} training identities have a single box: nothing to compare it with")
    return warnings


def overlaps(box: NDArray[np.float32], boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """IoU of one box with (n, 4) others."""
    both = np.concatenate([np.maximum(box[:2], boxes[:, :2]), np.minimum(box[2:], boxes[:, 2:])], axis=1)
    areas = [np.maximum(part[..., 2:] - part[..., :2], 0).prod(-1) for part in (both, box, boxes)]
    iou: NDArray[np.float32] = areas[0] / np.maximum(areas[1] + areas[2] - areas[0], 1e-9)
    return iou
