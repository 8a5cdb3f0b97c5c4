"""Data sets whose galleries are listed line by line: boxes of images, labels of boxes and galleries become an index."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.boxes import keep_boxes
from diffps.datasets.files import Measure, corner_boxes, note_images
from diffps.datasets.findings import Findings, to_json
from diffps.datasets.layouts import require_files
from diffps.datasets.plausible import NO_BOX_LEFT, compare_images, compare_queries
from diffps.datasets.protocols import BoxKey, Protocol, box_key, count_oddities
from diffps.records import UNLABELLED, Annotations, Gallery, Query, Scene, SearchIndex, Split

NOT_LISTED = "are in no list and were not read"
WITHOUT_BOX = "have no box of theirs"
TWO_NAMES = "are of two persons; the first was kept"


class Parts(NamedTuple):
    """What the files say: image ``names`` of each split, ``boxes`` (n, 4) x, y, w, h of each image as it is spelled,
    identities 0..L-1 of labelled training boxes; ``at``: where boxes are written."""

    names: Mapping[Split, Sequence[str]]
    boxes: Mapping[str, NDArray[np.float64]]
    train_labels: Mapping[BoxKey, int]
    at: str


def index_listed(
    root: Path,
    folder: str,
    parts: Parts,
    protocols: Mapping[str, Sequence[Protocol]],
    *,
    dataset: str,
    name: str,
    measure: Measure,
    min_box: tuple[int, int],
    findings: Findings,
    expected: Sequence[str],
) -> SearchIndex:
    """The index of the images in ``root``/``folder`` with a gallery for each of ``protocols``. ``expected``: galleries
    that the whole dataset has. Raises DatasetError for images that are not there."""
    everything = [image for split in ("train", "test") for image in parts.names[split]]
    others = require_files(root / folder, everything, dataset)
    findings.add("fine", NOT_LISTED, "files", folder, count=others)
    labels = {"train": dict(parts.train_labels), "test": _test_labels(protocols, findings)}
    scenes: list[Scene] = []
    annotations: dict[str, Annotations] = {}
    report: dict[str, object] = {"dataset": name, "min_box": list(min_box)}
    splits: tuple[Split, ...] = ("train", "test")
    for split in splits:
        members = parts.names[split]
        counts = Counter(boxes=0, labelled=0, dropped=0, dropped_labelled=0, clipped=0, repeated_identities=0)
        used: set[BoxKey] = set()
        facts = measure([root / folder / image for image in members])
        note_images(findings, members, facts)
        for image, fact in zip(members, facts, strict=True):
            path = f"{folder}/{image}"
            scene = Scene(
                scene_id=image, split=split, path=path, width=fact.width, height=fact.height, digest=fact.digest
            )
            scenes.append(scene)
            annotations[image] = _annotate(scene, parts, labels[split], min_box, counts, used, findings)
        unmatched = [key for key in labels[split] if key not in used]
        findings.seen("labels", len(labels[split]))
        if unmatched:
            example = f"{unmatched[0][0]} {list(unmatched[0][1])}"
            findings.add("doubtful", WITHOUT_BOX, "labels", example, count=len(unmatched))
        identities = len(set(labels[split].values()))
        left = {identity for image in members for identity in annotations[image].identities.tolist()}
        findings.seen("persons", identities)
        lost = sorted(set(labels[split].values()) - left)
        findings.add("doubtful", NO_BOX_LEFT, "persons", f"{split} identity {lost[0]}" if lost else "", count=len(lost))
        report[split] = {
            "images": len(members),
            "identities": identities,
            **counts,
            "labels_without_box": len(unmatched),
        }
    rows = {scene.scene_id: row for row, scene in enumerate(scenes)}
    queries, galleries = _search_tasks(protocols, rows)
    compare_images(scenes, findings)
    compare_queries(scenes, annotations, queries, findings, galleries)
    report |= {
        "queries": len(queries),
        "galleries": {gallery.name: len(gallery.query_ids) for gallery in galleries},
        "galleries_missing": [gallery for gallery in expected if gallery not in protocols],
        "oddities": count_oddities(protocols, findings),
        "findings": to_json(findings.records()),
    }
    return SearchIndex(
        scenes=tuple(scenes), annotations=annotations, queries=queries, galleries=galleries, report=report
    )


def _test_labels(protocols: Mapping[str, Sequence[Protocol]], findings: Findings) -> dict[BoxKey, int]:
    """Identities of test boxes: those of queries and of positives in galleries."""
    labels: dict[BoxKey, int] = {}
    for name, lines in protocols.items():
        for number, line in enumerate(lines, 1):
            for row in (line.query, *line.positives):
                if labels.setdefault(box_key(*row), line.identity) != line.identity:
                    findings.add("doubtful", TWO_NAMES, "labels", f"gallery {name} line {number}: {row.image}")
    return labels


def _annotate(
    scene: Scene,
    parts: Parts,
    labels: Mapping[BoxKey, int],
    min_box: tuple[int, int],
    counts: Counter[str],
    used: set[BoxKey],
    findings: Findings,
) -> Annotations:
    image = scene.scene_id
    boxes = parts.boxes[image]
    keys = [box_key(image, box) for box in boxes]
    identities = np.array([labels.get(key, UNLABELLED) for key in keys], np.int64)
    used.update(key for key in keys if key in labels)
    clean = keep_boxes(boxes, scene.size, min_box, findings, lambda row: f"{parts.at}: {image} box {row + 1}")
    labelled = identities != UNLABELLED
    kept = identities[clean.kept & labelled]
    counts["boxes"] += len(clean.boxes)
    counts["labelled"] += len(kept)
    counts["dropped"] += int((~clean.kept).sum())
    counts["dropped_labelled"] += int((~clean.kept & labelled).sum())
    counts["clipped"] += clean.clipped
    counts["repeated_identities"] += len(kept) - len(np.unique(kept))
    return Annotations(clean.boxes, identities[clean.kept])


def _search_tasks(
    protocols: Mapping[str, Sequence[Protocol]], rows: Mapping[str, int]
) -> tuple[tuple[Query, ...], tuple[Gallery, ...]]:
    """Queries of all files, each person and box once, and the galleries by rows of the index."""
    queries: dict[BoxKey, Query] = {}
    galleries = []
    for name, lines in protocols.items():
        ids, scenes, positive_scenes, positive_boxes = [], [], [], []
        for line in lines:
            key = box_key(*line.query)
            if key not in queries:
                query_id, box = f"{len(queries):04d}", corner_boxes(line.query.box)[0]
                queries[key] = Query(query_id=query_id, scene_id=line.query.image, box=box, identity=line.identity)
            ids.append(queries[key].query_id)
            scenes.append(np.array([rows[image] for image in line.images], np.int32))
            positive_scenes.append(np.array([rows[row.image] for row in line.positives], np.int32))
            positive_boxes.append(corner_boxes(np.array([row.box for row in line.positives])))
        galleries.append(
            Gallery(
                name=name,
                query_ids=tuple(ids),
                scenes=tuple(scenes),
                positive_scenes=tuple(positive_scenes),
                positive_boxes=tuple(positive_boxes),
            )
        )
    return tuple(queries.values()), tuple(galleries)
