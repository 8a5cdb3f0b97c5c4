"""A small index, small parameters and random features for the stages that train."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from diffps.datasets.tables import write_index
from diffps.features import Feature, FeatureShape, Ref
from diffps.records import Annotations, Query, Scene, SearchIndex
from stages.params import Params, override
from stages.typed import build
from tests.tiny import tiny_raw

ROOT = Path(__file__).parents[2]
SIZE = 64
DEFAULTS = {"encode.canvas": [SIZE, SIZE], "train.epochs": 2, "train.warmup_epochs": 0.5, "train.lr": 1e-3}


def small_params(changes: Mapping[str, Any] | None = None) -> Params:
    """tests/tiny on a canvas of 64, two epochs, with changes at dotted keys."""
    known = {field.name for field in fields(Params)}
    raw = {section: value for section, value in tiny_raw().items() if section in known}
    return override(build(Params, raw, "tests"), DEFAULTS | dict(changes or {}), "tests")


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
    save_file({"embeddings": torch.linspace(-1, 1, 4 * 64).reshape(4, 64)}, root / "data/encode/words.safetensors")


class SmallSource:
    """int8 features drawn from the scene's name; those of scene ``broken`` are NaN. Counts what it gives."""

    def __init__(self) -> None:
        self.given = 0
        self.broken: str | None = None
        self.recipe: dict[str, Any] = {"unet": "12ab", "latent": {"vae": "34cd"}, "text_encoder": "56ef"}
        names = small_params().train.taps.names
        grid = {"level1": 2, "level2": 4, "level3": 8}
        self.grids = {
            name: (8, 8, 1) if name.endswith(".person") else (grid[name.split("-")[1]],) * 2 + (12,) for name in names
        }

    @property
    def shapes(self) -> Mapping[str, FeatureShape]:
        return {name: FeatureShape(*grid) for name, grid in self.grids.items()}

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

    def __enter__(self) -> "SmallSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
