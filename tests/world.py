"""The small world of all tests: fourteen drawn scenes, a backbone of random weights, a head of 16 channels, one epoch.

:class:`Project` runs stages in a folder of its own. Where features need not mean anything, :func:`write_small_index`
and :class:`SmallSource` make up scenes and their features without a picture or a backbone.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields
from functools import cache
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save

from cache.sealed import seal_folder, write_tensors
from diffps.datasets.tables import read_scenes, write_index
from diffps.features import Feature, FeatureShape, FeatureSource, Ref
from diffps.records import Annotations, Query, Scene, SearchIndex, Split
from pipeline.config import load_params
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.features.source import open_source
from stages.features.words import read_words
from stages.head.data import training_set
from stages.head.identity import HeadIdentity
from stages.head.loop import SAVE_SECONDS, train_head
from stages.head.run import HeadRun
from stages.images import ImageFolder
from stages.job import Job, QuietJob, Runtime
from stages.params import Params, override
from stages.places import INDEX, TRAIN
from stages.typed import build

ROOT = Path(__file__).parents[1]
STORE = Path("data/features")
CPU = torch.device("cpu")

# The demo, smaller.
SMALLER: dict[str, Any] = {
    "index": {
        "streets": {
            "train_scenes": 8,
            "test_scenes": 6,
            "train_identities": 4,
            "test_identities": 4,
            "cameras": 2,
            "size": 128,
            "persons": [2, 3],
            "queries_per_identity": 1,
        }
    },
    "encode": {"checkpoint": "builtin:random", "canvas": [128, 128]},
    "extract": {"encoding": "int8", "transcode": []},
    "train": {
        "batch": 2,
        "epochs": 1,
        "milestones": [],
        "model": {
            "channels": 16,
            "head_channels": 32,
            "rpn": {"samples": 16, "train_after_nms": 10, "test_after_nms": 10},
            "box": {"samples": 8, "score_threshold": 0.05, "detections": 5},
            "reid": {"samples": 8},
            "embedding": {"size": 24},
            "oim": {"queue": 8},
        },
    },
    "report": {"queries": 2, "scenes": 1},
    "sweep": {"file": "sweep.yaml"},
    "runtime": {"device": "cpu", "threads": 1, "batch": 2, "vae_batch": 2, "shard": 4},
}
SWEEP = """variants:
  full: {}
  no-dgrpn: {model.dgrpn: null}
"""

# Few and cheap taps on a canvas that is not square; those of level 1 stop the UNet early.
KEPT = [
    "up-level1-repeat0-vit-block0-cross-map",
    "up-level1-repeat0-vit-block0-self-k",
    "up-level0-repeat1-res-out",
    "down-level1-repeat0-vit-out",
]
TAPS = {
    "detection": "up-level1-repeat0-vit-block0-self-k",
    "guidance": "up-level1-repeat0-vit-block0-cross-map.person",
    "level1": ["up-level1-repeat0-vit-block0-self-k"],
    "level2": ["up-level0-repeat1-res-out"],
    "level3": ["down-level1-repeat0-vit-out"],
}
LIGHT: dict[str, dict[str, Any]] = {
    "encode": {"canvas": [64, 128]},
    "extract": {"taps": KEPT},
    "train": {"taps": TAPS},
    "runtime": {"shard": 3},
}
FLOAT16 = {"encoding": "float16"}

# Of what is made up; the canvas is square.
SIZE = 64
DEFAULTS = {"encode.canvas": [SIZE, SIZE], "train.epochs": 2, "train.warmup_epochs": 0.5, "train.lr": 1e-3}


def raw_params(changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """params.yaml as plain data, made smaller, then changed by ``changes`` (nested like the file)."""
    raw = deepcopy(_smaller())
    _merge(raw, changes or {})
    return raw


@cache
def _smaller() -> dict[str, Any]:
    raw = dict(YAML(typ="safe", pure=True).load(ROOT / "params.yaml"))
    _merge(raw, SMALLER)
    return raw


def write_params(folder: Path, changes: Mapping[str, Any] | None = None) -> None:
    """params.yaml and its sweep file in ``folder``."""
    raw = raw_params(changes)
    if repr(raw) not in _written:
        text = StringIO()
        YAML().dump(raw, text)
        _written[repr(raw)] = text.getvalue()
    (folder / "params.yaml").write_text(_written[repr(raw)])
    (folder / "sweep.yaml").write_text(SWEEP)


# Hundreds of projects have the same few parameters, and YAML takes a tenth of a second to be written or read.
_written: dict[str, str] = {}
_read: dict[str, tuple[Params, Runtime]] = {}


def read_params(path: Path) -> tuple[Params, Runtime]:
    """What :func:`load_params` gives, which takes the same text for the same."""
    text = path.read_text()
    if text not in _read:
        _read[text] = load_params(path)
    return _read[text]


def _share_weights(source: str, target: str) -> None:
    """Copy a file, or link it where it is a prior's weights, which nothing writes in place."""
    if f"{os.sep}models{os.sep}" in source and source.endswith(".safetensors"):
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def small_params(changes: Mapping[str, Any] | None = None) -> Params:
    """Those for made-up features, two epochs, with changes at dotted keys."""
    known = {field.name for field in fields(Params)}
    raw = {section: value for section, value in raw_params().items() if section in known}
    return override(build(Params, raw, "tests"), DEFAULTS | dict(changes or {}), "tests")


def _merge(into: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


class Listener(QuietJob):
    """A job that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def say(self, message: str, **fields: object) -> None:
        super().say(message, **fields)
        self.lines.append(message)


class StoppingJob(QuietJob):
    """A job that is asked to stop once ``after`` units of work are done."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self._left = after

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Self]:
        yield self

    def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
        self._left -= done
        self.stopping = self._left <= 0


class Project:
    """A folder with params.yaml, and the working directory of the test: stages run there as the commands run them."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, changes: Mapping[str, dict[str, Any]] = LIGHT
    ) -> None:
        monkeypatch.chdir(folder)
        self.folder, self._changes = folder, changes
        self.params()

    @classmethod
    def copy_of(cls, template: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> "Project":
        """A project in ``folder``, which is made, with all that lies in ``template``."""
        shutil.copytree(template, folder, copy_function=_share_weights)
        return cls(folder, monkeypatch)

    def params(self, **sections: dict[str, Any]) -> Params:
        """What params.yaml says once it is written with some keys of some sections changed."""
        write_params(self.folder, self._changed(sections))
        return read_params(self.folder / "params.yaml")[0]

    def change(self, **sections: dict[str, Any]) -> None:
        """Change some keys of some sections for good."""
        self._changes = self._changed(sections)
        self.params()

    @property
    def runtime(self) -> Runtime:
        """What params.yaml says now of how to run."""
        return read_params(self.folder / "params.yaml")[1]

    def run(self, *stages: Any, job: Job | None = None, **sections: dict[str, Any]) -> list[str]:
        """Run stages one after the other under :meth:`params`; what they say, unless they say it to a ``job``."""
        params, listener = self.params(**sections), Listener()
        for stage in stages:
            stage.run(params, self.runtime, job or listener)
        return listener.lines

    def plan(self, **sections: dict[str, Any]) -> PassPlan:
        """The pass under :meth:`params`."""
        params = self.params(**sections)
        return PassPlan(params.encode, params.extract, open_store(str(STORE)))

    def source(self, split: Split = "train", **sections: dict[str, Any]) -> CachedSource | LiveSource:
        """What a head trained under :meth:`params` reads of a split."""
        params = self.params(**sections)
        return open_source(
            Reading.of(params.train, params.extract),
            split,
            params.train.source,
            encode=params.encode,
            extract=params.extract,
            images=ImageFolder.of(params.index),
            runtime=self.runtime,
        )

    def files(self, below: str = "data/features/features.zarr") -> dict[str, bytes]:
        """:func:`files_below` a folder of the project; receipts and the like carry times and are not asked for."""
        return files_below(self.folder / below)

    def _changed(self, sections: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        names = {*self._changes, *sections}
        return {name: {**self._changes.get(name, {}), **sections.get(name, {})} for name in names}


def files_below(root: Path) -> dict[str, bytes]:
    """Content of every file below a folder, by path."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def write_small_index(root: Path) -> None:
    """Eight training and six test scenes of 100 x 80 pixels with up to three of four persons, and the words."""
    rng = np.random.default_rng(0)
    scenes, annotations, queries = [], {}, []
    for split, count, first in (("train", 8, 0), ("test", 6, 100)):
        for number in range(count):
            scene_id = f"c{number}_{'0' if split == 'train' else '1'}.jpg"
            scenes.append(
                Scene(scene_id=scene_id, split=split, path=scene_id, width=100, height=80, digest=f"{number:064x}")
            )
            left = rng.uniform(0, 60, 3)
            boxes = np.stack([left, np.full(3, 8.0), left + 30, np.full(3, 70.0)], 1).astype(np.float32)
            identities = np.array([first + number % 4, first + (number + 1) % 4, -1])
            # One scene shows nobody, as in the real data sets.
            kept = 0 if (split, number) == ("train", 7) else 3
            annotations[scene_id] = Annotations(boxes[:kept], identities[:kept].astype(np.int64))
            if split == "test" and number < 4:
                query = Query(query_id=f"q{number}", scene_id=scene_id, box=boxes[0], identity=int(identities[0]))
                queries.append(query)
    index = SearchIndex(scenes=tuple(scenes), annotations=annotations, queries=tuple(queries), galleries=(), report={})
    write_index(index, root / "data/index")
    (root / "data/encode").mkdir(parents=True)
    words = {"embeddings": torch.linspace(-1, 1, 4 * 64).reshape(4, 64)}
    write_tensors(root / "data/encode/words.safetensors", save(words))


def rewrite_index(index: SearchIndex) -> None:
    """Write the index of the working directory anew, as `diffps index` would."""
    write_index(index, INDEX)
    seal_folder(INDEX)


def rename_persons(identities: Sequence[int]) -> None:
    """Let each training scene of the index here show one person, of these identities in order."""
    scenes = read_scenes(INDEX, "train")
    box = np.array([[5, 8, 40, 70]], np.float32)
    found = {scene.scene_id: Annotations(box, np.array([who])) for scene, who in zip(scenes, identities, strict=True)}
    write_index(SearchIndex(scenes=tuple(scenes), annotations=found, queries=(), galleries=(), report={}), INDEX)


def head_run(params: Params, source: FeatureSource, kind: type[HeadRun] = HeadRun, **options: Any) -> HeadRun:
    """The head of section ``train`` on the index here, to be trained from ``source`` into results/train."""
    train, encode, extract = params.train, params.encode, params.extract
    identity = HeadIdentity.of(params.index.dataset, train, encode, extract)
    data = training_set(train, encode.frame, INDEX, source.skipped())
    words = None if train.model.sfan is None else read_words(encode.words)
    return kind(train, data, source, words, identity, TRAIN, CPU, **options)


def train_small(
    params: Params, source: FeatureSource, job: Job | None = None, save_seconds: float = SAVE_SECONDS
) -> None:
    """Train it to its end."""
    train_head(head_run(params, source), source, job or QuietJob(), save_seconds)


class SmallSource:
    """int8 features drawn from the scene's name; those of scene ``broken`` are NaN. Counts what it gives."""

    def __init__(self, broken: str | None = None) -> None:
        self.given, self.broken = 0, broken
        self.recipe: dict[str, Any] = {"unet": "12ab", "latent": {"vae": "34cd"}, "text_encoder": "56ef"}
        names = small_params().train.taps.names
        grid = {"level1": 2, "level2": 4, "level3": 8}
        self.grids = {
            name: (8, 8, 1) if name.endswith(".person") else (grid[name.split("-")[1]],) * 2 + (12,) for name in names
        }

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*grid) for name, grid in self.grids.items()}

    def skipped(self) -> frozenset[str]:
        return frozenset()

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        for refs in batches:
            self.given += 1
            yield {name: self._feature(refs, name) for name in names}

    def _feature(self, refs: Sequence[Ref], name: str) -> Feature:
        seed = sorted(self.grids).index(name)
        drawn = []
        for ref in refs:
            rng = np.random.default_rng([*ref.scene_id.encode(), ref.view == "hflip", seed])
            drawn.append(rng.integers(-127, 128, self.grids[name], np.int8))
        values = torch.from_numpy(np.stack(drawn))
        if name.endswith(".person"):
            return Feature(values.float().abs() / 127)
        scales = torch.full((len(refs), 1, values.shape[-1]), 0.01, dtype=torch.float16)
        for row, ref in enumerate(refs):
            if ref.scene_id == self.broken:
                scales[row] = float("nan")
        return Feature(values, scales)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


def weights(folder: Path = TRAIN) -> dict[str, torch.Tensor]:
    """Those of the finished head that was trained into a folder."""
    return load_file(folder / "head" / "model.safetensors")


def equal(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """True for the same names with the same bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
