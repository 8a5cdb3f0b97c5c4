"""CUHK-SYSU as it lies on disk: Image/SSM, and MATLAB structs of boxes, training identities, queries and galleries."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.files import (
    ImageFacts,
    Measure,
    clean_boxes,
    corner_boxes,
    load_mat,
    measure_images,
    require,
    summarise,
)
from diffps.datasets.matlab import read_structs
from diffps.errors import DatasetError
from diffps.records import UNLABELLED, Annotations, Gallery, Query, Scene, SearchIndex, Split

DEFAULT_MIN_BOX = (10, 20)
SIZES = ("50", "100", "500", "1000", "2000", "4000")
SUBSETS = {"occlusion": ("Occlusion", "Occlusion1"), "resolution": ("Resolution", "Test_Size")}  # file, key
PUBLISHED = {
    "train": {"images": 11206, "boxes": 55272, "labelled": 15085, "identities": 5532},
    "test": {"images": 6978, "boxes": 40871, "labelled": 8345, "identities": 2900},
    "queries": 2900,
}
NAME = "CUHK-SYSU"

BoxKey = tuple[str, tuple[float, ...]]  # image and its box x, y, w, h, as the files spell them


class Row(NamedTuple):
    """A person in an image: ``box`` (4,) x, y, w, h."""

    image: str
    box: NDArray[np.float64]


class Protocol(NamedTuple):
    """One line of a TestG, Occlusion or Resolution file: ``images`` of the gallery in order, and its ``positives``."""

    identity: int
    query: Row
    images: list[str]
    positives: list[Row]


def read_cuhk_sysu(
    root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = DEFAULT_MIN_BOX
) -> SearchIndex:
    """Read CUHK-SYSU at ``root`` with every gallery file that is there. Boxes below ``min_box`` = (width, height)
    pixels are dropped from the annotations, never from queries and galleries.

    Train identities are 0..L-1 in the order of Train.mat; a test identity is the number in its name (p10581: 10581).
    Raises DatasetError naming the file that is missing or wrong, ImageError for an image that cannot be opened.
    """
    images = require(root / "Image" / "SSM", NAME, "folder of images")
    boxes = _read_boxes(root / "annotation" / "Images.mat")
    pool = _read_pool(root / "annotation" / "pool.mat")
    unknown = [name for name in pool if name not in boxes]
    if unknown:
        raise DatasetError(f"{NAME}: pool.mat names {len(unknown)} images that Images.mat lacks: {summarise(unknown)}")
    test = set(pool)
    names: dict[Split, list[str]] = {"train": [name for name in boxes if name not in test], "test": pool}
    _require_images(images, list(boxes))
    protocols = dict(_read_protocols(root / "annotation" / "test"))
    labels = {
        "train": _train_labels(root / "annotation" / "test" / "train_test" / "Train.mat"),
        "test": _test_labels(protocols),
    }
    scenes: list[Scene] = []
    annotations: dict[str, Annotations] = {}
    report: dict[str, object] = {"dataset": "cuhk-sysu", "min_box": list(min_box)}
    for split, members in names.items():
        facts = measure([images / name for name in members])
        counts = Counter(boxes=0, labelled=0, dropped=0, dropped_labelled=0, clipped=0, repeated_identities=0)
        used: set[BoxKey] = set()
        for name, fact in zip(members, facts, strict=True):
            scenes.append(_scene(name, split, fact))
            annotations[name] = _annotate(name, boxes[name], labels[split], scenes[-1], min_box, counts, used)
        identities = len(set(labels[split].values()))
        unmatched = len(labels[split].keys() - used)
        report[split] = {"images": len(members), "identities": identities, **counts, "labels_without_box": unmatched}
    rows = {scene.scene_id: row for row, scene in enumerate(scenes)}
    queries, galleries = _search_tasks(protocols, rows, len(names["train"]))
    report |= {
        "queries": len(queries),
        "galleries": {gallery.name: len(gallery.query_ids) for gallery in galleries},
        "galleries_missing": [name for name in (*SIZES, *SUBSETS) if name not in protocols],
        "oddities": {name: _oddities(protocol) for name, protocol in protocols.items()},
    }
    return SearchIndex(
        scenes=tuple(scenes), annotations=annotations, queries=queries, galleries=galleries, report=report
    )


def _read_boxes(path: Path) -> dict[str, NDArray[np.float64]]:
    """Image name -> boxes (n, 4) x, y, w, h."""
    rows = np.ravel(load_mat(path, NAME, "boxes of all images", ["Img"])[1])
    _require_fields(rows, ("imname", "box"), path)
    return {
        _text(row["imname"]): np.array([_box(box) for box in np.ravel(row["box"]["idlocate"])]).reshape(-1, 4)
        for row in rows
    }


def _read_pool(path: Path) -> list[str]:
    return [_text(cell) for cell in np.ravel(load_mat(path, NAME, "list of test images", ["pool"])[1])]


def _read_protocols(folder: Path) -> Iterator[tuple[str, list[Protocol]]]:
    """(gallery name, its lines) of every file that is there. Raises DatasetError when none is."""
    files = {size: (folder / "train_test" / f"TestG{size}.mat", f"TestG{size}") for size in SIZES}
    files |= {name: (folder / "subset" / f"{file}.mat", key) for name, (file, key) in SUBSETS.items()}
    present = {name: file for name, file in files.items() if file[0].exists()}
    if not present.keys() & set(SIZES):
        require(files["100"][0], NAME, "queries and galleries (TestG50 to TestG4000, at least one)")
    for name, (path, key) in present.items():
        yield name, read_protocol(path, key)


def read_protocol(path: Path, key: str) -> list[Protocol]:
    """The lines of one protocol file. Raises DatasetError for another structure."""
    lines = []
    shared: dict[str, str] = {}  # each name once: TestG4000 repeats 6978 of them 11.6 million times
    for element in read_structs(require(path, NAME, "queries and galleries"), key):
        missing = {"Query", "Gallery"} - element.keys()
        if missing:
            raise DatasetError(f"{NAME}: {path}: its lines lack {', '.join(sorted(missing))}")
        query, gallery = element["Query"], element["Gallery"]
        images = [shared.setdefault(name, name) for name in gallery.texts("imname")]
        boxes = gallery.numbers("idlocate")
        lines.append(
            Protocol(
                identity=_number(query.texts("idname")[0]),
                query=Row(query.texts("imname")[0], query.numbers("idlocate")[0]),
                images=images,
                positives=[Row(name, box) for name, box in zip(images, boxes, strict=True) if len(box)],
            )
        )
    return lines


def _train_labels(path: Path) -> dict[BoxKey, int]:
    labels: dict[BoxKey, int] = {}
    cells = np.ravel(load_mat(path, NAME, "training identities", ["Train"])[1])
    for identity, cell in enumerate(cells):
        person = np.ravel(cell)[0]
        for scene in np.ravel(person["scene"]):
            labels[_key(_text(scene["imname"]), _box(scene["idlocate"]))] = identity
    return labels


def _test_labels(protocols: Mapping[str, Sequence[Protocol]]) -> dict[BoxKey, int]:
    labels: dict[BoxKey, int] = {}
    for lines in protocols.values():
        for line in lines:
            for row in (line.query, *line.positives):
                labels.setdefault(_key(*row), line.identity)
    return labels


def _annotate(
    name: str,
    boxes: NDArray[np.float64],
    labels: Mapping[BoxKey, int],
    scene: Scene,
    min_box: tuple[int, int],
    counts: Counter[str],
    used: set[BoxKey],
) -> Annotations:
    keys = [_key(name, box) for box in boxes]
    identities = np.array([labels.get(key, UNLABELLED) for key in keys], np.int64)
    used.update(key for key in keys if key in labels)
    clean = clean_boxes(boxes, scene.size, min_box)
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
    protocols: Mapping[str, Sequence[Protocol]], rows: Mapping[str, int], first_test: int
) -> tuple[tuple[Query, ...], tuple[Gallery, ...]]:
    """Queries of all files, each person and box once, and the galleries by rows of the index."""
    queries: dict[BoxKey, Query] = {}
    galleries = []
    for name, lines in protocols.items():
        ids, scenes, positive_scenes, positive_boxes = [], [], [], []
        for line in lines:
            outside = [image for image in (line.query.image, *line.images) if rows.get(image, -1) < first_test]
            if outside:
                raise DatasetError(f"{NAME}: gallery {name} names images outside pool.mat: {summarise(outside)}")
            key = _key(*line.query)
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


def _oddities(lines: Sequence[Protocol]) -> dict[str, list[int]]:
    """Rows (counted from 1, as MATLAB does) that list the query's image, or a scene more than once."""
    own = [n for n, line in enumerate(lines, 1) if line.query.image in line.images]
    twice = [n for n, line in enumerate(lines, 1) if len(set(line.images)) < len(line.images)]
    return {"query_image_in_gallery": own, "scene_listed_twice": twice}


def _scene(name: str, split: Split, fact: ImageFacts) -> Scene:
    path = f"Image/SSM/{name}"
    return Scene(scene_id=name, split=split, path=path, width=fact.width, height=fact.height, digest=fact.digest)


def _require_images(folder: Path, names: Sequence[str]) -> None:
    present = {entry.name for entry in folder.iterdir()}
    missing = [name for name in names if name not in present]
    if missing:
        raise DatasetError(
            f"{NAME}: {len(missing)} of {len(names)} images missing in {folder}: {summarise(missing, 3)}; "
            f"{len(present)} files found there: {summarise(sorted(present), 3) or 'none'}"
        )


def _require_fields(rows: NDArray[Any], fields: Sequence[str], path: Path) -> None:
    names = rows.dtype.names or ()
    if not set(fields) <= set(names):
        found = ", ".join(names) or "none"
        raise DatasetError(f"{NAME}: {path} must hold a struct with {', '.join(fields)}; found {found}")


def _text(value: Any) -> str:
    return str(np.ravel(value)[0])


def _box(value: Any) -> NDArray[np.float64]:
    """x, y, w, h; cast at once, since the files' uint8 would overflow in a sum."""
    return np.ravel(value).astype(np.float64)


def _key(image: str, box: NDArray[np.float64]) -> BoxKey:
    return image, tuple(box.tolist())


def _number(name: str) -> int:
    match = re.fullmatch(r"p(\d+)", name)
    if match is None:
        raise DatasetError(f"{NAME}: identity {name!r}: expected p and a number, like p10581")
    return int(match[1])
