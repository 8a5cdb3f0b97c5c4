"""MovieNet-PS: CUHK-SYSU's structs under other file names, several training sets, and a pool for each gallery size."""

import re
from pathlib import Path

from diffps.datasets.cuhk_sysu import read_boxes, read_pool, read_train_labels
from diffps.datasets.files import Measure, measure_images, summarise
from diffps.datasets.findings import Findings
from diffps.datasets.layouts import locate
from diffps.datasets.listed import Parts, index_listed
from diffps.datasets.protocols import read_protocols
from diffps.errors import DatasetError
from diffps.records import SearchIndex

NAME = "MovieNet-PS"
SIZES = ("2000", "4000", "10000")
TRAIN_FILE = re.compile(r"Train_app(\d+)\.mat")
IN_POOL = "are test images as well and were left out of training"
FOLDERS = ("annotation", "anno_mvn-cs")
IMAGE_FOLDERS = ("Image/SSM", "Image", "frames")


def read_movienet(root: Path, *, measure: Measure = measure_images, min_box: tuple[int, int] = (0, 0)) -> SearchIndex:
    """Read MovieNet-PS at ``root`` with every gallery (TestG2000 to TestG10000) that is there and readable, and the
    smallest training set (Train_app10 to Train_app100): for another one leave only its file in the folder.

    Test images are those of the pools of the galleries that are there; training images those that the training set
    names, without those of a pool. Raises DatasetError naming the file that is missing or wrong, ImageError for an
    image that cannot be opened.
    """
    findings = Findings()
    annotation = next((name for name in FOLDERS if (root / name).is_dir()), FOLDERS[0])
    locate(root, annotation, NAME, "folder of annotations")
    images = next((name for name in IMAGE_FOLDERS if (root / name).is_dir()), IMAGE_FOLDERS[1])
    locate(root, images, NAME, "folder of images")
    boxes = read_boxes(locate(root, f"{annotation}/Images.mat", NAME, "boxes of all images"), NAME)
    tests = root / annotation / "test" / "train_test"
    files = {size: (tests / f"TestG{size}.mat", f"TestG{size}") for size in SIZES}
    there = [size for size, (path, _) in files.items() if path.exists()]
    if not there:
        locate(root, f"{annotation}/test/train_test/TestG2000.mat", NAME, "queries and galleries (at least one)")
    pool: dict[str, None] = {}
    for size in there:
        pool |= dict.fromkeys(read_pool(locate(root, f"{annotation}/pool_{size}.mat", NAME, "test images"), NAME))
    train_path = _train_file(root, annotation, findings)
    labels = read_train_labels(train_path, "Train", NAME)
    named = list(dict.fromkeys(image for image, _ in labels))
    both = [image for image in named if image in pool]
    kept = {key: identity for key, identity in labels.items() if key[0] not in pool}
    order = {identity: number for number, identity in enumerate(sorted(set(kept.values())))}
    if both:
        findings.add("refused", IN_POOL, "training images", both[0], count=len(both))
    findings.seen("training images", len(named))
    unknown = [image for image in (*pool, *named) if image not in boxes]
    if unknown:
        raise DatasetError(f"{NAME}: {len(unknown)} images are listed that Images.mat lacks: {summarise(unknown, 3)}")
    protocols = read_protocols(files, SIZES, pool.keys(), NAME, findings)
    parts = Parts(
        names={"train": [image for image in named if image not in pool], "test": list(pool)},
        boxes=boxes,
        train_labels={key: order[identity] for key, identity in kept.items()},
        at="Images.mat",
    )
    return index_listed(
        root,
        images,
        parts,
        protocols,
        dataset=NAME,
        name="movienet",
        measure=measure,
        min_box=min_box,
        findings=findings,
        expected=SIZES,
    )


def _train_file(root: Path, annotation: str, findings: Findings) -> Path:
    """The smallest training set that is there."""
    folder = locate(root, f"{annotation}/test/train_test", NAME, "folder of training identities and galleries")
    found = {int(match[1]): path for path in folder.iterdir() if (match := TRAIN_FILE.fullmatch(path.name))}
    if not found:
        locate(root, f"{annotation}/test/train_test/Train_app10.mat", NAME, "training identities")
    ordered = [found[size] for size in sorted(found)]
    findings.add("fine", "was read", "training set", ordered[0].name)
    if len(ordered) > 1:
        findings.add("fine", "were not read", "training sets", ordered[1].name, count=len(ordered) - 1)
    return ordered[0]
