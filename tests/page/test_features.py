"""Figures of features and of a head's insides, from a stand-in for the store."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from cache.errors import NotCachedError
from diffps.errors import ConfigError
from diffps.features import Feature, FeatureShape, Ref
from diffps.heads.config import EmbeddingConfig, ModelConfig, TapsConfig
from diffps.model import build_searcher
from stages import figure
from stages.features import cached as sources
from stages.page import features, searches
from stages.page.evidence import NotThereError
from stages.page.figures import TITLES, make
from tests.page.conftest import CROSS, SELF_K, Run

GRID = 16, 24
SHAPES = {SELF_K: FeatureShape(*GRID, 8), f"{CROSS}.person": FeatureShape(*GRID, 1)}

SMALL: dict[str, Any] = {
    "channels": 32,
    "head_channels": 64,
    "head_blocks": 1,
    "head_weights": "random",
    "embedding": EmbeddingConfig(size=64, reduction=4),
}


class Stored:
    """Random features that depend on scene, name and timestep alone; its buffers are used again, as a ring's are."""

    def __init__(self, params: Any, job: Any, split: str, names: Sequence[str], timestep: int) -> None:
        assert split == "test"
        self.timestep = timestep

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


@pytest.fixture
def filled(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The run with a store and a small head of its own."""
    monkeypatch.setattr(sources, "CachedSource", Stored)
    save_head(run, ModelConfig(**SMALL))
    return run


def save_head(run: Run, config: ModelConfig) -> None:
    taps = TapsConfig(detection=SELF_K, guidance=f"{CROSS}.person", level3=(SELF_K,))
    torch.manual_seed(0)
    words = torch.rand(4, 12) if config.sfan else None
    head = build_searcher(config, taps, SHAPES, run.params.encode.frame, words, identities=4)
    if config.sfan:  # equal weights, as they start, make the summed map the same everywhere
        torch.nn.init.uniform_(head.reid_head.sfan.part_weights)
    head.save_pretrained(run.folder / "results/train/head")


def test_attention_shows_one_map_per_word_and_scene(filled: Run) -> None:
    sheet = features.attention(filled.evidence)
    assert [[tile.caption for tile in row.tiles] for row in sheet.rows] == [["scene", "person"]] * 2


def test_scenes_shown_come_from_several_cameras(filled: Run) -> None:
    evidence = filled.evidence
    shown = [evidence.scenes[scene.scene_id] for scene in features.shown_scenes(evidence)]
    assert len({scene.camera for scene in shown}) == 2
    assert {scene.split for scene in shown} == {"test"}


def test_a_scene_whose_image_cannot_be_read_is_not_shown(run: Run) -> None:
    first = features.shown_scenes(run.evidence)[0].scene_id
    # Nobody was found in it, so all of its persons were missed.
    path = run.folder / "results/evaluate/detections.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("scene_id") != first), path)
    (run.folder / "images" / run.evidence.scenes[first].path).write_bytes(b"")
    assert first not in [scene.scene_id for scene in features.shown_scenes(run.evidence)]
    assert searches.failures(run.evidence).rows


def test_components_come_per_tap_and_across_timesteps(filled: Run) -> None:
    (sheet,) = features.components(filled.evidence)
    assert [tile.caption for tile in sheet.rows[0].tiles] == ["scene", "level 3.0 self-k"]
    filled.params.extract = replace(filled.params.extract, timesteps=(100, 0))
    taps, steps = features.components(filled.evidence)
    assert [tile.caption for tile in steps.rows[0].tiles] == ["scene", "t = 0", "t = 100"]
    assert not np.array_equal(steps.rows[0].tiles[1].image, steps.rows[0].tiles[2].image)
    assert not np.array_equal(taps.rows[0].tiles[1].image, taps.rows[1].tiles[1].image)


def test_the_head_is_looked_into(filled: Run) -> None:
    evidence = filled.evidence
    assert [len(row.tiles) for row in features.frequency(evidence).rows] == [5, 5]
    semantics = features.semantics(evidence)
    assert [len(row.tiles) for row in semantics.rows] == [8, 8]
    assert len(np.unique(semantics.rows[0].tiles[2].image.reshape(-1, 3), axis=0)) > 20


def test_parts_that_are_off_have_no_figure(filled: Run) -> None:
    save_head(filled, ModelConfig(**SMALL, msfrn=None, sfan=None))
    for name, part in (("frequency", "msfrn"), ("semantics", "sfan")):
        with pytest.raises(NotThereError, match=part):
            make(name, filled.evidence)
    filled.params.extract = replace(filled.params.extract, taps=(SELF_K,))
    with pytest.raises(NotThereError, match="no cross-map"):
        make("attention", filled.evidence)


def test_an_empty_store_is_said(filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise NotCachedError("no such manifest; run `diffps extract` first")

    monkeypatch.setattr(sources, "CachedSource", missing)
    with pytest.raises(NotThereError, match="diffps extract"):
        make("pca", filled.evidence)


def test_every_figure_is_drawn_and_unknown_names_list_them(filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def save(picture: object, folder: Path, name: str) -> tuple[Path, Path]:
        drawn.append(name)
        return folder / f"{name}.png", folder / f"{name}.svg"

    monkeypatch.setattr("diffps.figures.render.save", save)
    for name in TITLES:
        figure.run(filled.params, filled.job, name)
    assert drawn == list(TITLES)
    assert (filled.folder / "results/train/head-similarity.json").exists()
    with pytest.raises(ConfigError, match="attention, pca"):
        figure.run(filled.params, filled.job, "atention")
