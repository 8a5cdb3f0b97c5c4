"""Small trees in the official layouts, written the way the real files are."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

PersonRow = tuple[float, float, float, float, float]  # pid, x, y, w, h

PRW_TRAIN: dict[str, list[PersonRow]] = {
    "c1s1_000001": [(7, 10, 20, 30, 60), (-2, 50, 20, 20, 40)],
    "c6s1_000002": [(3, -5, 10, 30, 60), (7, 40, 10, 20, 200)],
}
PRW_TEST: dict[str, list[PersonRow]] = {
    "c1s2_000003": [(21, 10, 20, 30, 60), (7, 60, 20, 20, 40)],
    "c2s2_000004": [(21, 30, 20, 30, 60), (21, 70, 20, 20, 50), (22, 5, 5, 0, 40)],
    "c3s2_000005": [],
    "c1s2_000006": [(22, 12.5, 20, 30, 60)],
}
PRW_QUERIES = "21 10 20 30 60 c1s2_000003\r\n22 12.5 20 30 60 c1s2_000006\r\n"
ANNOTATION_KEYS = ("box_new", "anno_file", "anno_previous")


def cells(names: Sequence[str]) -> np.ndarray:
    """An n x 1 MATLAB cell array of strings."""
    column = np.empty((len(names), 1), object)
    for row, name in enumerate(names):
        column[row, 0] = name
    return column


def write_prw(
    root: Path, train: Mapping[str, Sequence[PersonRow]], test: Mapping[str, Sequence[PersonRow]], queries: str
) -> Path:
    for folder in ("frames", "annotations"):
        (root / folder).mkdir(parents=True)
    for number, (name, rows) in enumerate([*train.items(), *test.items()]):
        Image.new("RGB", (100, 120), (number, 0, 0)).save(root / "frames" / f"{name}.jpg")
        boxes = np.array(rows, np.float64).reshape(-1, 5)
        savemat(root / "annotations" / f"{name}.jpg.mat", {ANNOTATION_KEYS[number % 3]: boxes})
    savemat(root / "frame_train.mat", {"img_index_train": cells(list(train))})
    savemat(root / "frame_test.mat", {"img_index_test": cells(list(test))})
    savemat(root / "ID_train.mat", {"ID_train": np.array([[3, 7]], np.uint16)})
    savemat(root / "ID_test.mat", {"ID_test2": np.array([[21, 22]], np.uint16)})
    (root / "query_info.txt").write_bytes(queries.encode())
    return root


@pytest.fixture
def prw_tree(tmp_path: Path) -> Path:
    return write_prw(tmp_path / "prw", PRW_TRAIN, PRW_TEST, PRW_QUERIES)


@pytest.fixture
def write_prw_tree() -> Callable[..., Path]:
    return write_prw
