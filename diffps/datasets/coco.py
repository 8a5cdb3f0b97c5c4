"""One's own photographs as a COCO file with an identity in each annotation, whoever exported it."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from diffps.datasets.album import IDENTITY_LIMIT, Album, Person, Photo
from diffps.datasets.assembly import assemble
from diffps.datasets.benchmark_json import as_benchmark, recognise
from diffps.datasets.coco_categories import CATEGORY_NAME, categories_of, category_of, person_categories
from diffps.datasets.coco_files import CocoFile, coco_box, coco_key, find_coco, objects, open_coco
from diffps.datasets.cuhk_sysu import read_cuhk_json
from diffps.datasets.discovery import find_images
from diffps.datasets.files import Measure, measure_images, summarise
from diffps.datasets.findings import Findings
from diffps.datasets.image_names import ImageNames, missing_images
from diffps.datasets.prw import read_prw_json
from diffps.datasets.words import CAMERA_LIMIT, NOBODY_NAMED, SIDE_LIMIT, dotted, flag, is_nobody, person_name, whole
from diffps.errors import DatasetError
from diffps.records import SearchIndex, Split

CROWD_MARKS = ("iscrowd", "ignore")
IDENTITIES = ("person_id", "pid")  # read without being asked
# Keys that tell persons apart in some files and frames of one video in others: read only if index.identity says so.
CANDIDATES = (
    "track_id",
    "identity",
    "identity_id",
    "instance_id",
    "person",
    "attributes.track_id",
    "attributes.person_id",
    "attributes.identity",
    "attributes.person",
    "attributes.pid",
    "attributes.id",
    "attributes.name",
    "attributes.track",
)
UNASKED = "hold {}, which may tell persons apart: set index.identity={} if it does"
OTHER_CATEGORY = "are of categories that are no person ({}) and were left out"
CROWD = "are marked iscrowd or ignore and were left out"
UNLISTED = "are named by no annotation file and were not read"
ROTATED = "are turned (attributes.rotation); their upright rectangle was read"


def read_coco(
    root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0), identity: str = ""
) -> SearchIndex:
    """``root``/{train,test}.json in COCO form, images in ``root``/images; or as CVAT, Roboflow and Label Studio export
    it. An annotation's ``person_id`` (or ``pid``) is the identity, a name or a number; nobody's is absent, negative or
    spelled like nan. ``identity`` names another key (``track_id``, ``attributes.name``), or ``category.name``.
    ``query``: true marks queries, else as in :func:`read_folder`.

    Crowds are left out, and annotations of categories that are no person. train.json may be absent. PRW's and
    CUHK-SYSU's annotations in this form are recognised by their images' names, and get the benchmark's own queries.
    Raises DatasetError naming file and annotation.
    """
    files, others = find_coco(root)
    opened = {split: open_coco(path) for split, path in files.items()}
    benchmark = recognise(opened.values(), root)
    if benchmark:
        return _read_benchmark(benchmark, root, opened, measure, min_box)
    return _read_own(root, opened, others, measure=measure, min_box=min_box, identity=identity)


def _read_own(
    root: Path,
    files: Mapping[Split, CocoFile],
    others: list[Path],
    *,
    measure: Measure,
    min_box: tuple[int, int],
    identity: str,
) -> SearchIndex:
    _require_identity(files.values(), identity)
    findings = Findings()
    prefix = "images" if (root / "images").is_dir() else ""
    found = find_images(root / prefix)
    found.note(findings)
    names, album = ImageNames(found.images), Album(findings)
    skipped: dict[str, Counter[str]] = {}
    if others:
        findings.add("fine", "are not read", "annotation files", str(others[0].relative_to(root)), count=len(others))
    missing: dict[str, str] = {}
    for split, file in files.items():
        skipped[split] = Counter(other_categories=0, crowds=0)
        photos = _add_images(album, file, split, names, _folder(root, prefix, file.path), missing, findings)
        _add_annotations(album, file, photos, identity, skipped[split], findings)
    if missing:
        raise missing_images("coco", missing, sum(len(file.images) for file in files.values()), found)
    findings.add("fine", UNLISTED, "image files", str(root / prefix), count=len(found.images) - len(album.photos))
    return assemble(
        "coco",
        album,
        root,
        prefix,
        measure=measure,
        min_box=min_box,
        findings=findings,
        way_out="if so, write bbox as x, y, width, height, as COCO has it",
        skipped=skipped,
    )


def _folder(root: Path, prefix: str, path: Path) -> str:
    """Where the images of the COCO file ``path`` lie below ``root``/``prefix``: beside it, or in a folder with the name
    of its subset, as CVAT has it, since frames of several videos have the same names; empty where there is none."""
    if not prefix:
        return path.parent.relative_to(root).as_posix().removeprefix(".")
    subset = path.stem.rpartition("_")[2]
    return subset if (root / prefix / subset).is_dir() else ""


def _read_benchmark(
    name: str, root: Path, files: Mapping[Split, CocoFile], measure: Measure, min_box: tuple[int, int]
) -> SearchIndex:
    """PRW or CUHK-SYSU in COCO form: the queries are the benchmark's, never all who are seen twice."""
    splits = {split: as_benchmark(file, name) for split, file in files.items()}
    theirs = "frames" if name == "PRW" else "Image/SSM"
    folder = theirs if (root / theirs).is_dir() else "images"
    read = read_prw_json if name == "PRW" else read_cuhk_json
    return read(root, folder, splits, measure=measure, min_box=min_box)


def _add_images(
    album: Album,
    file: CocoFile,
    split: Split,
    names: ImageNames,
    folder: str,
    missing: dict[str, str],
    findings: Findings,
) -> dict[str, Photo | None]:
    """Photos by the image ids of the file, None for those that are not there; its images lie in ``folder``."""
    photos: dict[str, Photo | None] = {}
    written: dict[str, str] = {}
    for row, image in enumerate(objects(file.images, "image", file.path, "coco")):
        at = f"{file.path.name} image {row}"
        try:
            key, name = coco_key(image.get("id"), "id"), image.get("file_name")
            if not isinstance(name, str) or not name:
                raise ValueError(f"file_name {name!r}: expected a path")
            if key in photos:
                raise ValueError(f"{written[key]} and {name} both have the id {key}; give each its own")
            camera = None if image.get("camera") is None else whole(image["camera"], "camera", CAMERA_LIMIT)
            found = names.find(name, findings, at, folder)
            if found is None:
                missing[name] = at
                photos[key] = None
            else:
                photos[key] = album.add_photo(found, split, at, camera=camera, size=_size(image))
            written[key] = name
        except ValueError as error:
            raise DatasetError(f"coco: {file.path}: image {row}: {error}") from None
    return photos


def _add_annotations(
    album: Album,
    file: CocoFile,
    photos: Mapping[str, Photo | None],
    identity: str,
    skipped: Counter[str],
    findings: Findings,
) -> None:
    categories = categories_of(file)
    persons = person_categories(file, categories, identity)
    others: set[str] = set()
    findings.seen("annotations", len(file.annotations))
    for row, annotation in enumerate(objects(file.annotations, "annotation", file.path, "coco")):
        name = annotation.get("id", row)
        at = f"{file.path.name} annotation {name}"
        try:
            category = category_of(annotation, categories, persons)
            if persons is not None and category not in (None, *persons):
                skipped["other_categories"] += 1
                others.add(categories[category or ""])
            elif any(annotation.get(mark) is not None and flag(annotation[mark], mark) for mark in CROWD_MARKS):
                skipped["crowds"] += 1
            else:
                person = _person(annotation, identity, categories.get(category or "", ""), at, findings)
                key = coco_key(annotation.get("image_id"), "image_id")
                if key not in photos:
                    raise ValueError(f"image_id {key} is not among the images")
                photo = photos[key]
                if photo is not None:
                    album.add_person(photo, person)
        except ValueError as error:
            raise DatasetError(f"coco: {file.path}: annotation {name}: {error}") from None
    reason = OTHER_CATEGORY.format(summarise(sorted(others)))
    findings.add("fine", reason, "annotations", file.path.name, count=skipped["other_categories"])
    findings.add("fine", CROWD, "annotations", file.path.name, count=skipped["crowds"])
    if not identity:
        _doubt_unasked(file, photos, findings)


def _person(annotation: Mapping[str, Any], identity: str, category: str, at: str, findings: Findings) -> Person:
    if dotted(annotation, "attributes.rotation") not in (None, 0, 0.0):
        findings.add("doubtful", ROTATED, "boxes", at)
    name = _identity(annotation, identity, category, at, findings)
    query = None if annotation.get("query") is None else flag(annotation["query"], "query")
    return Person(coco_box(annotation), name, query, at)


def _doubt_unasked(file: CocoFile, photos: Mapping[str, Photo | None], findings: Findings) -> None:
    """Count annotations with a key that may tell persons apart, where nothing else does."""
    if any(person.name for photo in photos.values() if photo for person in photo.persons):
        return
    unasked = Counter(key for annotation in file.annotations for key in CANDIDATES if _has(annotation, key))
    if unasked:
        key, count = unasked.most_common(1)[0]
        findings.add("doubtful", UNASKED.format(key, key), "annotations", file.path.name, count=count)


def _require_identity(files: Iterable[CocoFile], identity: str) -> None:
    """Raise DatasetError where no annotation has the key that was asked for."""
    if identity in ("", CATEGORY_NAME):
        return
    annotations = [
        (file.path, part) for file in files for part in objects(file.annotations, "annotation", file.path, "coco")
    ]
    if not annotations or any(_has(part, identity) for _, part in annotations):
        return
    path, first = annotations[0]
    found = summarise(map(str, first), 20)
    raise DatasetError(
        f"coco: {path}: no annotation has the key {identity}, which index.identity names; the first one has {found}"
    )


def _has(annotation: Any, key: str) -> bool:
    return dotted(annotation, key) is not None


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """(height, width) of the image that was annotated, where both are told."""
    if not image.get("height") or not image.get("width"):
        return None
    height, width = (whole(image[side], side, SIDE_LIMIT) for side in ("height", "width"))
    if min(height, width) < 1:
        raise ValueError(f"the image is {width} x {height} pixels large")
    return height, width


def _identity(annotation: Mapping[str, Any], asked: str, category: str, at: str, findings: Findings) -> str:
    """The name of an annotation's person; empty for nobody."""
    if asked == CATEGORY_NAME:
        value: Any = category
    elif asked:
        value = dotted(annotation, asked)
    else:
        given = [annotation[key] for key in IDENTITIES if annotation.get(key) is not None]
        if len({str(value) for value in given}) > 1:
            raise ValueError(f"person_id {given[0]!r} and pid {given[1]!r} differ; keep one")
        value = given[0] if given else None
    name = "" if value is None else person_name(value, IDENTITY_LIMIT)
    if is_nobody(name):
        if not isinstance(value, int):  # -1 and other negative numbers are the documented way to say so
            findings.add("repaired", NOBODY_NAMED.format(name), "boxes", at)
        return ""
    return name
