"""A reader over many damaged copies of its files: `python -m tests.datasets.fuzzing NAME COUNT FOLDER`.

Prints one JSON line per kind of outcome. A signal, or a mutation that takes longer than ten seconds, ends the process.
"""

import json
import random
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from diffps.datasets.coco import read_coco
from diffps.datasets.cuhk_sysu import read_cuhk_sysu
from diffps.datasets.files import ImageFacts, measure_image
from diffps.datasets.folder import read_folder
from diffps.datasets.movienet import read_movienet
from diffps.datasets.posetrack import read_posetrack
from diffps.datasets.prw import read_prw
from diffps.datasets.tables import write_index
from diffps.errors import DatasetError, ImageError
from tests.datasets.json_trees import (
    write_cuhk_json,
    write_cvat,
    write_folder_coco,
    write_label_studio,
    write_posetrack,
    write_prw_json,
    write_roboflow,
)
from tests.datasets.movie_trees import write_movienet
from tests.datasets.mutation import mutate_bytes, mutate_json, mutate_text
from tests.datasets.trees import write_cuhk, write_folder, write_prw

SECONDS = 10
MUTATORS = {".mat": mutate_bytes, ".json": mutate_json, ".csv": mutate_text, ".txt": mutate_text}
measured = cache(measure_image)


class Case(NamedTuple):
    """How a tree is written, which of its files are damaged, and how it is read."""

    write: Callable[[Path], object]
    files: str
    read: Callable[..., object]


def _cuhk_in_json(root: Path) -> None:
    write_cuhk(root)
    write_cuhk_json(root)


def _prw_in_json(root: Path) -> None:
    write_prw(root)
    write_prw_json(root, ("train_pid.json", "test_pid.json"))
    for name in ("frame_train.mat", "frame_test.mat"):
        (root / name).unlink()


CASES = {
    "prw": Case(write_prw, "**/*.[mt][ax]t", read_prw),
    "cuhk": Case(write_cuhk, "**/*.mat", read_cuhk_sysu),
    "movienet": Case(write_movienet, "**/*.mat", read_movienet),
    "posetrack": Case(write_posetrack, "**/*.json", read_posetrack),
    "prw-json": Case(_prw_in_json, "*.[jt][sx][ot]*", read_prw),
    "cuhk-json": Case(_cuhk_in_json, "**/*.json", read_cuhk_sysu),
    "folder": Case(write_folder, "*.csv", read_folder),
    "coco": Case(write_folder_coco, "*.json", read_coco),
    "label-studio": Case(write_label_studio, "*.json", partial(read_coco, identity="category.name")),
    "cvat": Case(write_cvat, "**/*.json", partial(read_coco, identity="attributes.track_id")),
    "roboflow": Case(write_roboflow, "**/*.json", read_coco),
}


def measure(paths: Sequence[Path]) -> list[ImageFacts]:
    return [measured(path) for path in paths]


def outcome(case: Case, root: Path) -> str:
    """What reading and writing the index comes to: read, refused, or what went wrong."""
    try:
        index = case.read(root, measure=measure)
        write_index(index, root / "index")  # type: ignore[arg-type]
    except (DatasetError, ImageError) as error:
        text = str(error)
        return "refused" if text and text.isprintable() and len(text) < 2000 else f"no single line: {text[:300]!r}"
    except BaseException as error:
        return f"traceback: {str(error)[:200]!r} {''.join(traceback.format_tb(error.__traceback__)[-3:])}"
    return "read"


def main(name: str, count: int, root: Path) -> None:
    case = CASES[name]
    case.write(root)
    files = sorted(path for path in root.glob(case.files) if path.suffix in MUTATORS)
    outcomes: Counter[str] = Counter()
    assert outcome(case, root) == "read", outcome(case, root)
    for seed in range(count):
        rng = random.Random(f"{name} {seed}")
        path = rng.choice(files)
        whole = path.read_bytes()
        path.write_bytes(MUTATORS[path.suffix](rng, whole))
        signal.alarm(SECONDS)
        print(seed, path.relative_to(root), file=sys.stderr, flush=True)
        found = outcome(case, root)
        signal.alarm(0)
        outcomes[found if found in ("read", "refused") else f"seed {seed}, {path.name}: {found}"] += 1
        path.write_bytes(whole)
        shutil.rmtree(root / "index", ignore_errors=True)
    megabytes = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
    print(json.dumps({"outcomes": outcomes, "megabytes": megabytes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
