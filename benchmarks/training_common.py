"""A small project for the training benchmarks: drawn scenes, the demo's checkpoint, features in a store."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from diffps.features import FeatureSource
from stages.devices import choose_device
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.features.reading import Reading
from stages.features.source import open_source
from stages.features.words import read_words
from stages.head.data import TrainingSet, training_set
from stages.head.identity import HeadIdentity
from stages.head.run import HeadRun
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime
from stages.params import Params, override
from stages.places import INDEX
from stages.typed import build

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SMALLER = {
    "index.streets.train_scenes": 24,
    "index.streets.test_scenes": 8,
    "index.streets.train_identities": 8,
    "index.streets.test_identities": 6,
    "encode.views": ["identity"],
    "train.flip": "none",
    "train.batch": 4,
    "train.epochs": 2,
    "evaluate.baseline": False,
    "sweep.file": "sweep.yaml",
}


def make_project(folder: Path, changes: dict[str, Any], runtime: Runtime | None = None) -> Params:
    """Work in ``folder`` from now on; index, latents and features are made where they are missing."""
    from stages import encode, extract, index

    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    raw = YAML(typ="safe", pure=True).load(ROOT / "presets" / "demo.yaml")
    known = {field.name for field in fields(Params)}
    params = build(Params, {section: value for section, value in raw.items() if section in known}, "benchmark")
    params = override(params, SMALLER | changes, "benchmark")
    for stage in (index, encode, extract):
        stage.run(params, runtime or Runtime(), QuietJob())
    return params


def open_train(params: Params, runtime: Runtime) -> CachedSource | LiveSource:
    """The features that section ``train`` reads of the train split."""
    images = ImageFolder.of(params.index)
    reading = Reading.of(params.train, params.extract)
    sections = {"encode": params.encode, "extract": params.extract, "images": images, "runtime": runtime}
    return open_source(reading, "train", params.train.source, **sections)  # type: ignore[arg-type]


def training_data(params: Params) -> TrainingSet:
    """What section ``train`` learns from."""
    return training_set(params.train, params.encode.frame, INDEX)


def new_head(params: Params, data: TrainingSet, source: FeatureSource, folder: Path, runtime: Runtime) -> HeadRun:
    """The head of section ``train``, to be trained into ``folder``."""
    train, encode, extract = params.train, params.encode, params.extract
    identity = HeadIdentity.of(params.index.dataset, train, encode, extract)
    words = None if train.model.sfan is None else read_words(encode.words)
    return HeadRun(train, data, source, words, identity, folder, choose_device(runtime))


def summary(seconds: Sequence[float]) -> dict[str, float]:
    """Median and range of repeated measurements."""
    return {"median": statistics.median(seconds), "least": min(seconds), "most": max(seconds)}


def write(name: str, content: dict[str, Any]) -> None:
    """``content`` with the machine it was measured on into benchmarks/results/``name``.json, and to the screen."""
    import torch

    machine = {"cpus": os.cpu_count(), "threads": torch.get_num_threads(), "machine": platform.machine()}
    if torch.cuda.is_available():
        machine["gpu"] = torch.cuda.get_device_name()
    load = os.getloadavg()[0]
    text = json.dumps({"machine": machine, "load_at_end": load, **content}, indent=2) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text)
    print(text)
