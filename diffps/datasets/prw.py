"""PRW as it lies on disk, which is also the layout of the drawn streets: frames, a .mat for each, lists, queries."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.files import (
    Measure,
    clean_boxes,
    clip_boxes,
    corner_boxes,
    load_mat,
    measure_images,
    require,
    summarise,
)
from diffps.errors import DatasetError
from diffps.records import UNLABELLED, Annotations, Query, Scene, SearchIndex, Split

ANNOTATION_KEYS = ("box_new", "anno_file", "anno_previous")
SPLITS: tuple[tuple[Split, str, str], ...] = (
    ("train", "img_index_train", "ID_train"),
    ("test", "img_index_test", "ID_test2"),
)
PUBLISHED = {
    "train": {"images": 5704, "boxes": 18048, "labelled": 14907, "identities": 483},
    "test": {"images": 6112, "boxes": 25062, "labelled": 19127, "identities": 450},
    "queries": 2057,
}


def read_prw(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """Read PRW at ``root``. ``measure`` opens the images; boxes below ``min_box`` = (width, height) pixels are dropped.

    Train identities become 0..L-1 in the order of their numbers; persons that ID_*.mat does not list for their split
    are unlabelled, and counted as ``foreign`` among the ``labelled`` of the report. Raises DatasetError naming the file
    that is missing or wrong, ImageError for an image that cannot be opened.
    """
    require(root / "frames", "PRW", "folder of images")
    scenes: list[Scene] = []
    annotations: dict[str, Annotations] = {}
    splits: dict[str, dict[str, int]] = {}
    for split, list_key, id_key in SPLITS:
        names = _frame_names(root / f"frame_{split}.mat", list_key)
        labels = np.unique(
            load_mat(root / f"ID_{split}.mat", "PRW", f"{split} identities", [id_key])[1].astype(np.int64)
        )
        _require_frames(root, names)
        raw = [_read_boxes(root / "annotations" / f"{name}.jpg.mat") for name in names]
        facts = measure([root / "frames" / f"{name}.jpg" for name in names])
        counts = Counter(labelled=0, foreign=0, dropped=0, clipped=0, repeated_identities=0)
        for name, boxes, fact in zip(names, raw, facts, strict=True):
            scene = Scene(
                scene_id=f"{name}.jpg",
                split=split,
                path=f"frames/{name}.jpg",
                width=fact.width,
                height=fact.height,
                digest=fact.digest,
                camera=_camera(name),
            )
            scenes.append(scene)
            annotations[scene.scene_id] = _annotate(boxes, scene, labels, min_box, counts)
        splits[split] = _count(split, scenes, annotations, len(labels)) | dict(counts)
    queries = _read_queries(root / "query_info.txt", {scene.scene_id: scene for scene in scenes})
    report: dict[str, object] = {"dataset": "prw", "min_box": list(min_box), **splits, "queries": len(queries)}
    return SearchIndex(scenes=tuple(scenes), annotations=annotations, queries=queries, galleries=(), report=report)


def _frame_names(path: Path, key: str) -> list[str]:
    cells = load_mat(path, "PRW", "list of frames", [key])[1]
    names = [str(np.ravel(cell)[0]) for cell in np.ravel(cells)]
    if not names:
        raise DatasetError(f"PRW: {path} lists no frames")
    if len(set(names)) < len(names):
        twice = summarise(name for name, n in Counter(names).items() if n > 1)
        raise DatasetError(f"PRW: {path} lists a frame more than once: {twice}")
    return names


def _require_frames(root: Path, names: list[str]) -> None:
    """One listing instead of a look-up per frame: thousands of stat calls are slow on a network disk."""
    for folder, suffix in (("frames", ".jpg"), ("annotations", ".jpg.mat")):
        present = {entry.name for entry in require(root / folder, "PRW", f"folder {folder}").iterdir()}
        missing = [name + suffix for name in names if name + suffix not in present]
        if missing:
            raise DatasetError(
                f"PRW: {len(missing)} of {len(names)} files missing in {root / folder}: {summarise(missing, 3)}; "
                f"{len(present)} files found there: {summarise(sorted(present), 3) or 'none'}"
            )


def _read_boxes(path: Path) -> NDArray[np.float64]:
    """Rows pid, x, y, w, h."""
    boxes = np.asarray(load_mat(path, "PRW", "annotation", ANNOTATION_KEYS)[1], np.float64)
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 5):
        raise DatasetError(f"PRW: {path}: boxes of shape {boxes.shape}, expected (n, 5): pid, x, y, w, h")
    return boxes.reshape(-1, 5)


def _camera(name: str) -> int:
    match = re.match(r"c(\d)s\d+_", name)
    if match is None:
        raise DatasetError(f"PRW: frame {name}: names look like c1s3_000551 (c and the camera's digit first)")
    return int(match[1])


def _annotate(
    rows: NDArray[np.float64], scene: Scene, labels: NDArray[np.int64], min_box: tuple[int, int], counts: Counter[str]
) -> Annotations:
    clean = clean_boxes(rows[:, 1:], scene.size, min_box)
    pids = rows[clean.kept, 0].astype(np.int64)
    known = np.isin(pids, labels)
    counts["dropped"] += int((~clean.kept).sum())
    counts["clipped"] += clean.clipped
    counts["labelled"] += int((pids >= 0).sum())
    counts["foreign"] += int((~known & (pids >= 0)).sum())
    named = np.searchsorted(labels, pids) if scene.split == "train" else pids
    identities = np.where(known, named, UNLABELLED).astype(np.int64)
    labelled = identities[known]
    counts["repeated_identities"] += len(labelled) - len(np.unique(labelled))
    return Annotations(clean.boxes, identities)


def _count(split: Split, scenes: list[Scene], annotations: dict[str, Annotations], listed: int) -> dict[str, int]:
    found = [annotations[scene.scene_id].identities for scene in scenes if scene.split == split]
    identities = np.concatenate(found)
    labelled = identities[identities != UNLABELLED]
    return {
        "images": len(found),
        "boxes": len(identities),
        "identities": listed,
        "identities_seen": len(np.unique(labelled)),
        "images_without_labelled": sum(not (part != UNLABELLED).any() for part in found),
    }


def _read_queries(path: Path, scenes: dict[str, Scene]) -> tuple[Query, ...]:
    queries: list[Query] = []
    for number, line in enumerate(require(path, "PRW", "list of queries").read_text().split("\n"), start=1):
        fields = line.split()  # also takes the carriage return of a CRLF file
        if not fields:
            continue
        try:
            pid, x, y, w, h = map(float, fields[:5])
            (name,) = fields[5:]
        except ValueError:
            raise DatasetError(
                f"PRW: {path} line {number}: expected 'pid x y w h frame', found {line.strip()!r}"
            ) from None
        scene = scenes.get(f"{name.removesuffix('.jpg')}.jpg")
        if scene is None or scene.split != "test":
            raise DatasetError(f"PRW: {path} line {number}: frame {name} is not in frame_test.mat")
        box = clip_boxes(corner_boxes(np.array([x, y, w, h])), scene.size)[0]
        queries.append(Query(query_id=f"{len(queries):04d}", scene_id=scene.scene_id, box=box, identity=int(pid)))
    return tuple(queries)
