"""A small tree in MovieNet-PS' layout."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.datasets.told import write_images
from tests.datasets.trees import (
    Box,
    cells,
    matlab_box,
    write_identities,
    write_image_boxes,
    write_protocol,
)

MOVIE_BOXES: dict[str, list[Box]] = {
    "tt01/shot_1.jpg": [(10, 10, 20, 40), (50, 10, 20, 40)],
    "tt01/shot_2.jpg": [(10, 10, 20, 40)],
    "tt02/shot_1.jpg": [(30, 10, 20, 40)],
    "tt02/shot_2.jpg": [(30, 10, 20, 40)],
    "tt02/shot_3.jpg": [(5, 5, 30, 60)],
}
MOVIE_TRAIN = {
    "nm07": [("tt01/shot_1.jpg", (10, 10, 20, 40)), ("tt01/shot_2.jpg", (10, 10, 20, 40))],
    "nm03": [("tt01/shot_1.jpg", (50, 10, 20, 40))],
}
MOVIE_POOLS = {
    "2000": ["tt02/shot_1.jpg", "tt02/shot_2.jpg"],
    "4000": ["tt02/shot_1.jpg", "tt02/shot_2.jpg", "tt02/shot_3.jpg"],
}
MOVIE_LINE = (("tt02/shot_1.jpg", (30, 10, 20, 40), "nm0011"), [("tt02/shot_2.jpg", (30, 10, 20, 40))])
MOVIE_MORE = (MOVIE_LINE[0], [*MOVIE_LINE[1], ("tt02/shot_3.jpg", None)])

Places = Sequence[tuple[str, Box]]


def as_cells(rows: Sequence[Sequence[object]]) -> np.ndarray:
    """An n x m MATLAB cell array."""
    array = np.empty((len(rows), len(rows[0])), object)
    for row, values in enumerate(rows):
        for column, value in enumerate(values):
            array[row, column] = value
    return array


def write_train(path: Path, people: dict[str, Places], in_cells: bool) -> None:
    if in_cells:
        rows = [
            [name, np.uint8(len(places)), as_cells([[image, matlab_box(box), np.uint8(0)] for image, box in places])]
            for name, places in people.items()
        ]
        savemat(path, {"Train": as_cells(rows)})
        return
    write_identities(path, people)


def write_movienet(root: Path, folder: str = "Image", annotation: str = "annotation", in_cells: bool = False) -> Path:
    write_images(root / folder, MOVIE_BOXES)
    tests = root / annotation / "test" / "train_test"
    tests.mkdir(parents=True)
    write_image_boxes(root / annotation / "Images.mat", MOVIE_BOXES)
    for size, names in MOVIE_POOLS.items():
        savemat(root / annotation / f"pool_{size}.mat", {"pool": cells(names)})
    write_train(tests / "Train_app10.mat", MOVIE_TRAIN, in_cells)
    write_train(tests / "Train_app100.mat", {**MOVIE_TRAIN, "nm09": MOVIE_TRAIN["nm07"]}, in_cells)
    write_protocol(tests / "TestG2000.mat", "TestG2000", [MOVIE_LINE])  # type: ignore[list-item]
    write_protocol(tests / "TestG4000.mat", "TestG4000", [MOVIE_MORE])  # type: ignore[list-item]
    return root
