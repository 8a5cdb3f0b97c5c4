"""Drawn streets on disk, in the layout in which PRW comes: its real reader reads them."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from diffps.errors import ConfigError, DatasetError
from diffps.records import Split

if TYPE_CHECKING:
    import numpy as np

    from diffps.datasets.streets.people import Identity
    from diffps.datasets.streets.scene import DrawnScene

_MARKER = "streets.json"  # written last: its presence says that everything else is there
_STARTED = "streets.unfinished"
_VERSION = 1  # of the drawing; another number redraws
_OWN = ("frames", "annotations")
_PLACEHOLDER = "README.md"  # keeps the folder in a fresh clone
_FILES = ("frame_train.mat", "frame_test.mat", "ID_train.mat", "ID_test.mat", "query_info.txt")
_UNLABELLED = -2  # PRW's mark of a person without a name


@dataclass(frozen=True, kw_only=True, slots=True)
class StreetsConfig:
    """Drawn street scenes. Persons of the two splits are different ones; the cameras are the same, as in PRW."""

    seed: int = 0
    """Names the drawn world: its persons and cameras."""

    train_scenes: int = 200
    """Scenes of the train split."""

    test_scenes: int = 100
    """Scenes of the test split."""

    train_identities: int = 48
    """Persons of the train split."""

    test_identities: int = 32
    """Persons of the test split; others than those of the train split."""

    cameras: int = 6
    """Cameras, 2 to 9; the same for both splits, as in PRW."""

    size: int = 256
    """The frame's side in pixels."""

    persons: tuple[int, int] = (2, 6)
    """Least and greatest number of persons in a scene."""

    unlabelled: float = 0.15
    """Share of the persons that is nobody of the split's identities; in [0, 1)."""

    queries_per_identity: int = 2
    """Queries drawn of every test identity."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "persons", tuple(self.persons))  # a list when it comes from a file
        for name in ("train_scenes", "test_scenes", "train_identities", "test_identities", "queries_per_identity"):
            if getattr(self, name) < 1:
                raise ConfigError(f"streets.{name} is {getattr(self, name)}; it must be at least 1")
        if self.seed < 0:
            raise ConfigError(f"streets.seed is {self.seed}; it must not be negative")
        if not 2 <= self.cameras <= 9:
            raise ConfigError(f"streets.cameras is {self.cameras}; PRW's names have one digit for it, so 2 to 9")
        if self.size < 64:
            raise ConfigError(f"streets.size is {self.size}; a person is not recognisable below 64 pixels")
        low, high = self.persons
        if not 0 <= low <= high <= 40:
            raise ConfigError(f"streets.persons is {list(self.persons)}; give least and greatest, 0 to 40")
        if not 0.0 <= self.unlabelled < 1.0:
            raise ConfigError(f"streets.unlabelled is {self.unlabelled}; it must be in [0, 1)")
        for split in ("train", "test"):
            if getattr(self, f"{split}_identities") < high:
                raise ConfigError(f"streets.{split}_identities is below the {high} persons a scene may hold")


def draw(config: StreetsConfig, root: Path) -> None:
    """Write the dataset under ``root``; does nothing where it already lies complete and of the same ``config``.

    Raises DatasetError where ``root`` holds something that was not drawn here (it is never deleted), and where too
    few scenes leave no identity that two cameras saw.
    """
    wanted = {"version": _VERSION, **asdict(config), "persons": list(config.persons)}
    marker, started = root / _MARKER, root / _STARTED
    if marker.exists() and _read(marker) == wanted:
        return
    others = [path for path in root.iterdir() if path.name != _PLACEHOLDER] if root.exists() else []
    if others and not (marker.exists() or started.exists()):
        raise DatasetError(f"{root} holds files that are not drawn streets; give index.root another folder")
    root.mkdir(parents=True, exist_ok=True)
    started.touch()
    marker.unlink(missing_ok=True)
    for name in _OWN:
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir()
    _write(config, root)
    os.sync()  # after a power cut the marker must not stand for frames that were never written
    temporary = root / f"{_MARKER}.tmp"
    temporary.write_text(json.dumps(wanted, indent=2) + "\n")
    temporary.replace(marker)
    started.unlink()


def _read(marker: Path) -> object:
    try:
        return json.loads(marker.read_text())
    except (ValueError, RecursionError):
        return None


def _write(config: StreetsConfig, root: Path) -> None:
    import numpy as np

    first = {"train": 1, "test": 1 + config.train_identities}
    for split in ("train", "test"):
        names: list[str] = []
        seen: list[tuple[int, str, tuple[int, int, int, int]]] = []
        for name, scene in _scenes(config, split, first[split]):
            (root / "frames" / f"{name}.jpg").write_bytes(scene.jpeg())
            rows = [(_pid(config, p.who.number), p.box) for p in scene.persons]
            table = [[pid, x1, y1, x2 - x1, y2 - y1] for pid, (x1, y1, x2, y2) in rows]
            boxes = np.array(table, np.float64).reshape(-1, 5)
            _savemat(root / "annotations" / f"{name}.jpg.mat", {"box_new": boxes})
            names.append(name)
            seen += [(pid, name, box) for pid, box in rows if pid != _UNLABELLED]
        numbers = np.unique([pid for pid, _, _ in seen]).astype(np.float64)[:, None]
        cells = np.empty((len(names), 1), dtype=object)
        cells[:, 0] = names
        _savemat(root / f"frame_{split}.mat", {f"img_index_{split}": cells})
        _savemat(root / f"ID_{split}.mat", {"ID_train" if split == "train" else "ID_test2": numbers})
        if split == "test":
            lines = [
                f"{pid} {x1:.2f} {y1:.2f} {x2 - x1:.2f} {y2 - y1:.2f} {name}"
                for pid, name, (x1, y1, x2, y2) in _queries(config, seen)
            ]
            if not lines:
                raise DatasetError(
                    f"{config.test_scenes} test scenes show no identity before two cameras; "
                    "draw more scenes or fewer identities"
                )
            (root / "query_info.txt").write_text("\n".join(lines) + "\n")


def _savemat(path: Path, content: dict[str, object]) -> None:
    """A .mat file without the date that scipy writes into its head: equal bytes whenever they are drawn."""
    from scipy.io import savemat

    savemat(path, content)
    with path.open("r+b") as file:
        file.write(b"MATLAB 5.0 MAT-file".ljust(116))


def _pid(config: StreetsConfig, number: int) -> int:
    """Identities are numbered from 1 over both splits; whoever comes after them has no name."""
    return number if number <= config.train_identities + config.test_identities else _UNLABELLED


def _scenes(config: StreetsConfig, split: Split, first: int) -> "Iterator[tuple[str, DrawnScene]]":
    import numpy as np

    from diffps.datasets.streets.people import make_identity
    from diffps.datasets.streets.scene import draw_scene
    from diffps.datasets.streets.scenery import make_camera

    count = config.train_scenes if split == "train" else config.test_scenes
    identities = config.train_identities if split == "train" else config.test_identities
    plan = np.random.default_rng([config.seed, 31, split == "test"])
    deck = _Deck(first, identities, plan)
    strangers = 1_000_000 * (1 + (split == "test"))
    for index in range(count):
        camera = make_camera(config.seed, 1 + index % config.cameras)
        numbers: list[int] = []
        for _ in range(int(plan.integers(config.persons[0], config.persons[1] + 1))):
            if plan.random() < config.unlabelled:
                strangers += 1
                numbers.append(strangers)
            else:
                numbers.append(deck.next(numbers))
        people: list[Identity] = [make_identity(config.seed, number) for number in numbers]
        rng = np.random.default_rng([config.seed, 37, split == "test", index])
        sequence = 1 if split == "train" else 2
        name = f"c{camera.number}s{sequence}_{index + 1:06d}"
        yield name, draw_scene(camera, people, rng, size=config.size)


class _Deck:
    """Deals identities so that each appears about equally often, and never twice in a scene."""

    def __init__(self, first: int, count: int, rng: "np.random.Generator") -> None:
        self._all = list(range(first, first + count))
        self._rng = rng
        self._left: list[int] = []

    def next(self, scene: Sequence[int]) -> int:
        free = [number for number in self._left if number not in scene]
        if not free:
            self._left += [int(number) for number in self._rng.permutation(self._all)]
            free = [number for number in self._left if number not in scene]
        self._left.remove(free[0])
        return free[0]


def _queries(
    config: StreetsConfig, seen: Sequence[tuple[int, str, tuple[int, int, int, int]]]
) -> list[tuple[int, str, tuple[int, int, int, int]]]:
    """The tallest appearances of each identity that has one before another camera, at most one per camera."""
    chosen = []
    cameras = {pid: {name[:2] for p, name, _ in seen if p == pid} for pid, _, _ in seen}
    taken: Counter[int] = Counter()
    used: set[tuple[int, str]] = set()
    for pid, name, box in sorted(seen, key=lambda row: (row[0], row[2][1] - row[2][3], row[1])):
        if len(cameras[pid]) < 2 or taken[pid] == config.queries_per_identity or (pid, name[:2]) in used:
            continue
        chosen.append((pid, name, box))
        taken[pid] += 1
        used.add((pid, name[:2]))
    return chosen
