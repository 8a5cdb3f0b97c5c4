"""A small finished run, made up: scenes on disk, an index, and every result file the page reads."""

import csv
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw

from cache import FeatureStore
from diffps.datasets.tables import box_columns, write_index
from diffps.features import Feature, FeatureShape, Ref
from diffps.heads.config import EmbeddingConfig, ModelConfig, SFANConfig, TapsConfig
from diffps.model import build_searcher
from diffps.records import Annotations, Query, Scene, SearchIndex
from stages import report
from stages.config_data import EncodeConfig, ExtractConfig, IndexConfig
from stages.config_heads import EvaluateConfig, ReportConfig, SweepConfig, TrainConfig
from stages.features.reading import Reading
from stages.job import QuietJob, Runtime
from stages.page.evidence import Evidence, OpenFeatures
from stages.params import Params

HOSTILE = "<script>alert(1)</script>'\"&$x^2$"
SELF_K = "up-level3-repeat0-vit-block0-self-k"
CROSS = "up-level3-repeat0-vit-block0-cross-map"
SIZE = 160, 240  # height, width
PEOPLE = 4

GRID = 16, 24
SHAPES = {SELF_K: FeatureShape(*GRID, 8), f"{CROSS}.person": FeatureShape(*GRID, 1)}

SMALL: dict[str, Any] = {
    "channels": 32,
    "head_channels": 64,
    "head_blocks": 1,
    "head_weights": "random",
    "embedding": EmbeddingConfig(size=64, reduction=4),
}

# Of metrics.json's detection.
LABELS = {"labelled": 20, "unlabelled": 4, "recall_labelled": 0.8, "recall_unlabelled": 0.25}


class Run:
    """The folder of a run, its parameters, and how to make the parts that a test wants otherwise."""

    def __init__(self, folder: Path, checkpoint: str = "builtin:random") -> None:
        self.folder = folder
        self.store, self.job = FeatureStore(folder / "data/features"), QuietJob()
        self.open_features: OpenFeatures | None = None
        self.runtime = Runtime(store=str(self.store.root), device="cpu")
        taps = TapsConfig(detection=SELF_K, guidance=f"{CROSS}.person", level1=(), level2=(), level3=(SELF_K,))
        self.params = Params(
            index=IndexConfig(root=str(folder / "images")),
            encode=EncodeConfig(checkpoint=checkpoint, canvas=(128, 192)),
            extract=ExtractConfig(taps=(SELF_K, CROSS), words=("person",), encoding="int8"),
            train=TrainConfig(taps=taps, epochs=6),
            evaluate=EvaluateConfig(),
            sweep=SweepConfig(),
            report=ReportConfig(queries=4, results=5, scenes=2),
        )

    @property
    def evidence(self) -> Evidence:
        return Evidence(self.params, self.store, self.job, self.open_features)

    def change(self, section: str, **values: Any) -> None:
        """Other values in a section of the parameters."""
        changed = replace(getattr(self.params, section), **values)
        self.params = replace(self.params, **{section: changed})

    def report(self) -> None:
        """Write the page."""
        report.run(self.params, self.runtime, self.job)

    def write(self, name: str, content: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def table(self, name: str, columns: dict[str, Any]) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)


class Stored:
    """Random features that depend on scene, name and timestep alone; its buffers are used again, as a ring's are."""

    recipe: Mapping[str, Any] = {}
    shapes = SHAPES

    def __init__(self, reading: Reading) -> None:
        self.timestep = reading.timestep

    def skipped(self) -> frozenset[str]:
        return frozenset()

    def __enter__(self) -> "Stored":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        buffers = {name: torch.empty(1, *SHAPES[name]) for name in names}
        for (ref,) in batches:
            for name, buffer in buffers.items():
                seed = sum(f"{ref.scene_id}{name}{self.timestep}".encode())
                buffer.copy_(torch.rand(buffer.shape, generator=torch.Generator().manual_seed(seed)))
            yield {name: Feature(buffer) for name, buffer in buffers.items()}


@contextmanager
def made_up_run(folder: Path) -> Iterator[Run]:
    """The run in a folder, which is the working directory meanwhile: stages read and write below it."""
    made = Run(folder)
    with chdir(folder):
        scenes = draw_scenes(made)
        write_results(made, scenes)
        write_store(made, scenes)
        yield made


def other_run(run: Run, change: Callable[[list[float]], list[float]]) -> Path:
    """Results of another head on the same queries, their average precisions changed."""
    other = run.folder / "other"
    shutil.copytree(run.folder / "results/evaluate", other)
    table = pq.read_table(other / "per_query.parquet").to_pydict()
    queries = [run.evidence.queries[name] for name in table["query_id"]]
    table |= {"scene_id": [query.scene_id for query in queries], "identity": [query.identity for query in queries]}
    table["ap"] = change(table["ap"])
    run.table("other/per_query.parquet", table)
    return other


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with made_up_run(tmp_path) as made:
        yield made


@pytest.fixture
def filled(run: Run) -> Run:
    """The run with a store and a small head of its own."""
    run.open_features = Stored
    save_head(run, ModelConfig(**SMALL, sfan=SFANConfig(temperature=0.2)))
    return run


def save_head(run: Run, config: ModelConfig, training: dict[str, Any] | None = None) -> None:
    """A small untrained head in results/train/head, which says ``training`` of its training."""
    taps = TapsConfig(detection=SELF_K, guidance=f"{CROSS}.person", level3=(SELF_K,))
    torch.manual_seed(0)
    words = torch.rand(4, 12) if config.sfan else None
    head = build_searcher(config, taps, SHAPES, run.params.encode.frame, words, identities=4)
    if config.sfan:  # equal weights, as they start, make the summed map the same everywhere
        torch.nn.init.uniform_(head.reid_head.sfan.part_weights)
    head.save_pretrained(run.folder / "results/train/head", training)


def draw_scenes(run: Run) -> dict[str, Annotations]:
    """Twelve scenes of four persons each, every other one in the test split; two have hostile names."""
    rng = np.random.default_rng(3)
    scenes, persons = [], {}
    colours = [tuple(int(v) for v in rng.integers(40, 220, 3)) for _ in range(PEOPLE)]
    for number in range(12):
        name = (
            f"c{number % 3 + 1}_{number:03}.png" if number not in (1, 3) else f"{number}{HOSTILE.replace('/', '')}.png"
        )
        image = Image.new("RGB", SIZE[::-1], (150 + 8 * (number % 3), 150, 140))
        boxes = []
        for who in range(PEOPLE):
            left, top = 12 + 56 * who + int(rng.integers(0, 8)), 30 + int(rng.integers(0, 30))
            boxes.append([left, top, left + 34, top + 86])
            draw = ImageDraw.Draw(image)
            draw.ellipse([left + 9, top, left + 25, top + 20], fill=(224, 180, 150))
            draw.rectangle([left + 3, top + 20, left + 31, top + 54], fill=colours[who])
            draw.rectangle([left + 7, top + 54, left + 27, top + 86], fill=colours[(who + 1) % PEOPLE])
        path = run.folder / "images" / name
        path.parent.mkdir(exist_ok=True)
        image.save(path)
        split = "test" if number % 2 else "train"
        scenes.append(
            Scene(
                scene_id=name,
                split=split,
                path=name,
                width=SIZE[1],
                height=SIZE[0],
                digest=f"{number:064x}",
                camera=number % 3,
            )
        )
        persons[name] = Annotations(np.array(boxes, np.float32), np.arange(PEOPLE))
    tests = [scene for scene in scenes if scene.split == "test"]
    queries = tuple(
        Query(
            query_id=f"q{n}{HOSTILE}" if n == 0 else f"q{n}",
            scene_id=s.scene_id,
            box=persons[s.scene_id].boxes[n % PEOPLE],
            identity=n % PEOPLE,
        )
        for n, s in enumerate(tests)
    )
    write_index(
        SearchIndex(
            scenes=tuple(scenes), annotations=persons, queries=queries, galleries=(), report={"test": {"foreign": 3}}
        ),
        run.folder / "data/index",
    )
    return {scene.scene_id: persons[scene.scene_id] for scene in tests}


def write_results(run: Run, scenes: dict[str, Annotations]) -> None:
    """Training curves, detections with embeddings, rankings, scores and a sweep."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(PEOPLE, 16))
    ids, boxes, people = [], [], []
    for name, found in scenes.items():
        for who, box in enumerate(found.boxes):
            if (len(ids) + who) % 7 != 3:  # somebody is missed now and then
                ids.append(name), boxes.append(box + rng.normal(size=4)), people.append(who)
        ids.append(name), boxes.append(np.array([2, 2, 30, 40.0])), people.append(-1)
    vectors = np.array([centres[who] if who >= 0 else rng.normal(size=16) for who in people]) + 0.7 * rng.normal(
        size=(len(ids), 16)
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = rng.uniform(0.5, 1, len(ids)).astype(np.float32)
    embeddings = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), 16)
    run.table(
        "results/evaluate/detections.parquet",
        {"scene_id": ids, **box_columns(np.array(boxes)), "score": scores, "embedding": embeddings},
    )

    queries = list(run.evidence.queries.values())
    ranking: dict[str, list[Any]] = {
        name: [] for name in ("query_id", "rank", "scene_id", "box", "similarity", "correct")
    }
    for query in queries:
        mean = centres[query.identity] / np.linalg.norm(centres[query.identity])
        order = [k for k in np.argsort(-(vectors @ mean)) if ids[k] != query.scene_id][:8]
        for rank, k in enumerate(order, start=1):
            values = (query.query_id, rank, ids[k], boxes[k], float(vectors[k] @ mean), people[k] == query.identity)
            for column, value in zip(ranking.values(), values, strict=True):
                column.append(value)
    ranking.update(box_columns(np.array(ranking.pop("box"))))
    run.table("results/evaluate/ranking.parquet", ranking)
    names = [query.query_id for query in queries]
    run.table("results/evaluate/per_query.parquet", {"query_id": names, "ap": np.linspace(0.7, 0.124, len(names))})
    run.write(
        "results/evaluate/metrics.json",
        {
            "detection": {"ap": 0.712, "recall": 0.8} | LABELS,
            "search": {"map": 0.412, "top1": 0.5, "top5": 0.8, "top10": 0.9, "queries": len(names)},
            "chance": {"map": 0.07, "top1": 0.05},
            "causes": {
                "detections": 27,
                "scenes": 6,
                "empty_scenes": 0,
                "queries": 6,
                "without_person": 1,
                "undetected": 1,
            },
            "knock_outs": {
                "msfrn": {"map": 0.38, "top1": 0.5, "detection_ap": 0.7, "map_diff": -0.03, "map_diff_se": 0.01},
            },
            "learned": {
                "dgrpn": {"beta": 1.0, "gamma": 0.2, "gate_min": 1.0, "gate_max": 1.2},
                "sfan": {"alpha": 0.1, "temperature": 1.0, "weights": {"head": 0.3, "shoes": 0.7}},
            },
            "baseline": {"map": 0.31, "top1": 0.4},
        },
    )
    run.write(
        "results/train/metrics.json",
        {"images": 6, "epochs": 6, "steps": 60, "seconds": 31.0, "seconds_waiting": 1.2, "parameters": 123456},
    )
    with (run.folder / "results/train/losses.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["step", "epoch", "lr", "total", "rpn_cls", "rpn_reg", "prop_cls", "prop_reg", "reid", "grad_norm"]
        )
        for step in range(60):
            parts = np.exp(-step / 25) * np.array([0.6, 0.2, 0.5, 0.1, 3.0]) * rng.uniform(0.8, 1.2, 5)
            writer.writerow([step, step // 10, 1e-4, parts.sum(), *parts, 1.0])
    run.table(
        "results/sweep/table.parquet",
        {
            "variant": ["full", HOSTILE, "no-dgrpn", "timestep=100", "unfinished"],
            "group": ["full", HOSTILE, "no-dgrpn", "timestep=100", "unfinished"],
            "changes": ["as in params", "taps.level2=[]", "model.dgrpn=null", "timestep=100", ""],
            "timestep": [0, 0, 0, 100, 0],
            "taps": ["all", "level 3", "all", "all", "all"],
            "image_bytes": [240_000, 190_000, 240_000, 240_000, 240_000],
            "epochs": [3, 3, 3, 3, 3],
            "detection_ap": [0.71, 0.69, 0.7, 0.55, None],
            "map": [0.412, 0.33, 0.38, 0.21, None],
            "top1": [0.5, 0.4, 0.45, 0.2, None],
            "map_diff": [None, -0.082, -0.032, -0.2, None],
            "map_diff_se": [None, 0.01, 0.01, 0.01, None],
            "seconds": [31.0, 22.0, 29.5, 100.0, None],
        },
    )


def write_store(run: Run, scenes: dict[str, Annotations]) -> None:
    """Manifests and receipts without the arrays: what the page reads of a store."""
    for split in ("train", "test"):
        for group, name, shape in (
            (f"{split}/identity/aaaa", "moments", [16, 24, 8]),
            (f"{split}/identity/bbbb/t0", f"{SELF_K}@int8", [16, 24, 320]),
        ):
            entry = {
                "path": f"{group}/{name}",
                "id": "0123456789",
                "name": name,
                "encoding": "int8",
                "shape": shape,
                "images": 6,
                "nbytes": 500_000,
                "rows": [[0, 5]],
                "skipped": [],
                "digest": "0" * 64,
            }
            place = "encode" if name == "moments" else "extract"
            inner = "identity.json" if name == "moments" else f"identity/base/t0/{name}.json"
            run.write(f"data/manifests/{place}/{split}/{inner}", {"version": 1, "arrays": [entry]})
            run.write(f"data/features/receipts/{group}/0.0.json", {"info": {"seconds": 4.5}})
