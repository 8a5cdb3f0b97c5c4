"""PRW as it lies on disk, which is also the layout of the drawn streets: frames, a .mat for each, lists, queries; or
the JSON that AlignPS and those after it distribute in place of the .mat files."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.benchmark_json import JsonSplit, find_benchmark_json
from diffps.datasets.boxes import keep_boxes
from diffps.datasets.files import Measure, measure_images, note_images, summarise
from diffps.datasets.findings import Findings, to_json
from diffps.datasets.layouts import locate, require_files
from diffps.datasets.matlab import read_mat, reading
from diffps.datasets.plausible import SPLIT_IDENTITIES, compare_images, compare_queries
from diffps.datasets.prw_queries import parse_queries, place_queries
from diffps.errors import DatasetError
from diffps.records import UNLABELLED, Annotations, Scene, SearchIndex, Split

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
QUERIES = "list of queries (2057 lines in PRW's archive)"
FOREIGN = "are of persons who are not listed for their split, and read as unlabelled"
REPEATED = "are a second one of the same person in one frame"
SAME_ROW = "repeat another row of their frame"
UNSEEN = "are listed for their split and have no box"


class Frames(NamedTuple):
    """What a split's files say: ``rows`` (n, 5) pid, x, y, w, h of each frame, in order; ``labels`` (l,) sorted, the
    identities that count as known; ``at``: where rows of a frame are written; ``numbered_alike``: a number is the same
    person in the other split."""

    rows: dict[str, NDArray[np.float64]]
    labels: NDArray[np.int64]
    at: str
    numbered_alike: bool = True


def read_prw(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """Read PRW at ``root``. ``measure`` opens the images; boxes below ``min_box`` = (width, height) pixels are dropped.

    Train identities become 0..L-1 in the order of their numbers; persons that ID_*.mat does not list for their split
    are unlabelled, and counted as ``foreign`` among the ``labelled`` of the report. Where there are no lists of frames
    but {train,test}_pid.json, those are read. Raises DatasetError naming the file that is missing or wrong, ImageError
    for an image that cannot be opened.
    """
    locate(root, "frames", "PRW", "folder of images")
    lists = [root / f"frame_{split}.mat" for split, _, _ in SPLITS]
    found = {} if any(path.exists() for path in lists) else find_benchmark_json(root, "PRW")
    if found:
        return read_prw_json(root, "frames", found, measure=measure, min_box=min_box)
    frames = {split: _read_frames(root, split, list_key, id_key) for split, list_key, id_key in SPLITS}
    queries = locate(root, "query_info.txt", "PRW", QUERIES)
    return _index(root, "frames", frames, queries, measure, min_box)


def read_prw_json(
    root: Path, folder: str, files: Mapping[Split, JsonSplit], *, measure: Measure, min_box: tuple[int, int]
) -> SearchIndex:
    """PRW of AlignPS' JSON, images in ``root``/``folder``, with the queries of query_info.txt: the JSON holds none.

    Known test identities are those of ID_test.mat, or without it those that a query asks for. Raises DatasetError.
    """
    queries = locate(root, "query_info.txt", "PRW", QUERIES)
    frames = {}
    for split, file in files.items():
        rows = {name: np.column_stack([pids, boxes]) for name, (pids, boxes) in file.persons.items()}
        listed = root / "ID_test.mat"
        if split == "test" and not listed.exists():
            labels = np.unique([query.identity for query in parse_queries(queries)])
        elif split == "test":
            labels = _read_labels(root, split, "ID_test2")
        else:
            pids = np.concatenate([part[:, 0] for part in rows.values()])
            labels = np.unique(pids[pids >= 0]).astype(np.int64)
        frames[split] = Frames(rows, labels, file.path.name, numbered_alike=False)
    if "train" not in frames:
        frames = {"train": Frames({}, np.empty(0, np.int64), ""), **frames}
    require_files(root / folder, [name for part in frames.values() for name in part.rows], "PRW")
    return _index(root, folder, frames, queries, measure, min_box)


def _read_frames(root: Path, split: Split, list_key: str, id_key: str) -> Frames:
    path = root / f"frame_{split}.mat"
    names = _frame_names(root, path, list_key)
    labels = _read_labels(root, split, id_key)
    for folder, suffix in (("frames", ""), ("annotations", ".mat")):
        require_files(locate(root, folder, "PRW", f"folder {folder}"), [name + suffix for name in names], "PRW")
    rows = {name: _read_boxes(root / "annotations" / f"{name}.mat") for name in names}
    return Frames(rows, labels, "annotations")


def _frame_names(root: Path, path: Path, key: str) -> list[str]:
    """Names of the frames with their suffix, in the list's order."""
    locate(root, path.name, "PRW", "list of frames")
    _, matrix = read_mat(path, "PRW", "list of frames", [key])
    with reading(path, "PRW"):
        names = [f"{name.removesuffix('.jpg')}.jpg" for name in next(matrix.cells()).texts()]
    if not names:
        raise DatasetError(f"PRW: {path} lists no frames")
    if len(set(names)) < len(names):
        twice = summarise(name for name, n in Counter(names).items() if n > 1)
        raise DatasetError(f"PRW: {path} lists a frame more than once: {twice}")
    return names


def _read_labels(root: Path, split: Split, key: str) -> NDArray[np.int64]:
    """The identities that ID_*.mat lists, sorted."""
    path = locate(root, f"ID_{split}.mat", "PRW", f"{split} identities")
    _, matrix = read_mat(path, "PRW", f"{split} identities", [key])
    with reading(path, "PRW"):
        return np.unique(_whole_numbers(matrix.table(), "identities"))


def _read_boxes(path: Path) -> NDArray[np.float64]:
    """Rows pid, x, y, w, h."""
    key, matrix = read_mat(path, "PRW", "annotation", ANNOTATION_KEYS)
    with reading(path, "PRW"):
        boxes = matrix.table()
        if boxes.size and boxes.shape[1] != 5:
            raise ValueError(f"{key} has the shape {boxes.shape}, expected (n, 5): pid, x, y, w, h")
        boxes = boxes.reshape(-1, 5)
        _whole_numbers(boxes[:, 0], "pids")
    return boxes


def _whole_numbers(values: NDArray[np.float64], what: str) -> NDArray[np.int64]:
    whole_ones = np.abs(values) < 2**53
    if not whole_ones.all() or (values != np.round(values)).any():
        raise ValueError(f"{what} are not all whole numbers")
    return values.astype(np.int64)


def _index(
    root: Path,
    folder: str,
    frames: Mapping[Split, Frames],
    queries_path: Path,
    measure: Measure,
    min_box: tuple[int, int],
) -> SearchIndex:
    findings = Findings()
    both = frames["train"].rows.keys() & frames["test"].rows.keys()
    if both:
        raise DatasetError(f"PRW: {len(both)} frames are in both splits: {summarise(sorted(both), 3)}")
    if frames["train"].numbered_alike:
        shared = np.intersect1d(frames["train"].labels, frames["test"].labels)
        example = f"identity {shared[0]}" if len(shared) else ""
        findings.add("doubtful", SPLIT_IDENTITIES, "persons", example, count=len(shared))
    scenes: list[Scene] = []
    annotations: dict[str, Annotations] = {}
    report: dict[str, object] = {"dataset": "prw", "min_box": list(min_box)}
    for split, part in frames.items():
        names = list(part.rows)
        counts = Counter(labelled=0, foreign=0, dropped=0, clipped=0, repeated_identities=0)
        facts = measure([root / folder / name for name in names])
        note_images(findings, names, facts)
        for name, fact in zip(names, facts, strict=True):
            scene = Scene(
                scene_id=name,
                split=split,
                path=f"{folder}/{name}",
                width=fact.width,
                height=fact.height,
                digest=fact.digest,
                camera=_camera(name),
            )
            scenes.append(scene)
            annotations[name] = _annotate(part, scene, min_box, counts, findings)
        report[split] = _count([annotations[name] for name in names], part, findings) | dict(counts)
    queries = place_queries(queries_path, {scene.scene_id: scene for scene in scenes})
    compare_images(scenes, findings)
    compare_queries(scenes, annotations, queries, findings)
    report |= {"queries": len(queries), "findings": to_json(findings.records())}
    return SearchIndex(scenes=tuple(scenes), annotations=annotations, queries=queries, galleries=(), report=report)


def _camera(name: str) -> int:
    match = re.match(r"c(\d)s\d+_", name)
    if match is None:
        raise DatasetError(f"PRW: frame {name}: names look like c1s3_000551 (c and the camera's digit first)")
    return int(match[1])


def _annotate(
    part: Frames, scene: Scene, min_box: tuple[int, int], counts: Counter[str], findings: Findings
) -> Annotations:
    rows = part.rows[scene.scene_id]

    def at(row: int) -> str:
        return f"{part.at}: {scene.scene_id} row {row + 1}"

    kept = keep_boxes(rows[:, 1:], scene.size, min_box, findings, at)
    pids = rows[kept.kept, 0].astype(np.int64)
    known = np.isin(pids, part.labels)
    foreign = ~known & (pids >= 0)
    named = np.searchsorted(part.labels, pids) if scene.split == "train" else pids
    identities = np.where(known, named, UNLABELLED).astype(np.int64)
    repeated = int(known.sum()) - len(set(identities[known].tolist()))
    findings.add("fine", FOREIGN, "boxes", f"{part.at}: {scene.scene_id}", count=int(foreign.sum()))
    findings.add("doubtful", REPEATED, "boxes", f"{part.at}: {scene.scene_id}", count=repeated)
    same = len(rows) - len(set(map(tuple, rows.tolist())))
    findings.add("doubtful", SAME_ROW, "boxes", f"{part.at}: {scene.scene_id}", count=same)
    counts["dropped"] += int((~kept.kept).sum())
    counts["clipped"] += kept.clipped
    counts["labelled"] += int((pids >= 0).sum())
    counts["foreign"] += int(foreign.sum())
    counts["repeated_identities"] += repeated
    return Annotations(kept.boxes, identities)


def _count(annotations: Sequence[Annotations], part: Frames, findings: Findings) -> dict[str, int]:
    found = [persons.identities for persons in annotations]
    identities = np.concatenate([np.empty(0, np.int64), *found])
    seen = len(np.unique(identities[identities != UNLABELLED]))
    findings.seen("persons", len(part.labels))
    findings.add("doubtful", UNSEEN, "persons", part.at, count=len(part.labels) - seen)
    return {
        "images": len(found),
        "boxes": len(identities),
        "identities": len(part.labels),
        "identities_seen": seen,
        "images_without_labelled": sum(not (persons != UNLABELLED).any() for persons in found),
    }
