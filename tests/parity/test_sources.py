"""Cached equals live: one contract for both sources, the same features and the same losses to the last bit."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from diffps.datasets.tables import read_scenes
from diffps.features import Feature, Ref
from pipeline.config import load_params
from stages import encode, extract, index, train
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.job import QuietJob
from stages.params import Params
from stages.places import INDEX_FOLDER
from tests.tiny import reading, write_params

ENCODINGS = ("int8", "float16", "project:4")


@pytest.fixture(scope="module", params=ENCODINGS)
def params(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Params]:
    """A small project, extracted under each encoding; the tests run in its folder."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        write_params(folder, {"extract": {"encoding": request.param}})
        params = load_params(folder / "params.yaml")
        for stage in (index, encode, extract):
            stage.run(params, QuietJob(params.runtime))
        yield params


def scene_ids() -> list[str]:
    return [scene.scene_id for scene in read_scenes(INDEX_FOLDER, "train")]


class FeatureSourceContract:
    """What heads rely on, whatever the source."""

    make: Any

    @pytest.fixture
    def source(self, params: Params) -> Iterator[Any]:
        with self.make(reading(params, params.train.taps.names), params, QuietJob(params.runtime), "train") as source:
            yield source

    def test_shapes_are_those_of_the_expanded_features(self, source: Any, params: Params) -> None:
        names = params.train.taps.names
        (features,) = source.stream([[Ref(scene_ids()[0])]], names)
        assert set(source.shapes) == set(features) == set(names)
        for name in names:
            height, width, channels = source.shapes[name]
            assert features[name].dense().shape == (1, channels, height, width)
            assert features[name].values.is_contiguous()

    def test_batches_come_in_the_order_asked_for(self, source: Any, params: Params) -> None:
        names, ids = params.train.taps.names[:1], scene_ids()
        forward = [_dense(batch, names) for batch in source.stream([[Ref(i)] for i in ids[:3]], names)]
        backward = [_dense(batch, names) for batch in source.stream([[Ref(i)] for i in reversed(ids[:3])], names)]
        assert len(forward) == 3
        for one, other in zip(forward, reversed(backward), strict=True):
            assert torch.equal(one[names[0]], other[names[0]])
        assert not torch.equal(forward[0][names[0]], forward[1][names[0]])

    def test_a_batch_is_its_samples_stacked_and_views_mix(self, source: Any, params: Params) -> None:
        names, ids = params.train.taps.names[:2], scene_ids()
        refs = [Ref(ids[0]), Ref(ids[1], "hflip"), Ref(ids[0], "hflip")]
        (together,) = (_dense(batch, names) for batch in source.stream([refs], names))
        alone = [_dense(batch, names) for batch in source.stream([[ref] for ref in refs], names)]
        for name in names:
            assert torch.equal(together[name], torch.cat([part[name] for part in alone]))
            assert not torch.equal(together[name][0], together[name][2])


class TestCached(FeatureSourceContract):
    make = CachedSource


class TestLive(FeatureSourceContract):
    make = LiveSource


def test_both_say_the_same_of_their_features(params: Params) -> None:
    names, job = params.train.taps.names, QuietJob(params.runtime)
    with (
        CachedSource(reading(params, names), params, job, "train") as cached,
        LiveSource(reading(params, names), params, job, "train") as live,
    ):
        assert cached.recipe == json.loads(json.dumps(live.recipe))
    assert {"unet", "latent", "prompt", "noise", "timestep", "head"} <= set(cached.recipe)
    assert not {"dtype", "seed"} & set(cached.recipe)


def test_both_give_the_same_bits(params: Params) -> None:
    names, job = params.train.taps.names, QuietJob(params.runtime)
    refs = [Ref(scene, view) for scene in scene_ids() for view in ("identity", "hflip")]
    batches = [refs[start : start + 3] for start in range(0, len(refs), 3)]
    with (
        CachedSource(reading(params, names), params, job, "train") as cached,
        LiveSource(reading(params, names), params, job, "train") as live,
    ):
        assert dict(cached.shapes) == dict(live.shapes)
        stored = [_dense(batch, names) for batch in cached.stream(batches, names)]
        computed = [_dense(batch, names) for batch in live.stream(batches, names)]
    assert len(stored) == len(computed) == len(batches)
    for one, other in zip(stored, computed, strict=True):
        for name in names:
            assert torch.equal(one[name], other[name]), name


def test_training_from_either_gives_the_same_losses(params: Params) -> None:
    curves = []
    for source in ("cached", "live"):
        changed = load_params(Path("params.yaml"), [f"train.source={source}"])
        train.run(changed, QuietJob(changed.runtime))
        with (train.FOLDER / "losses.csv").open() as file:
            curves.append(list(csv.reader(file)))
    assert len(curves[0]) > 2
    assert curves[0] == curves[1]


def _dense(features: dict[str, Feature], names: Any) -> dict[str, torch.Tensor]:
    """Expanded copies: a batch's buffers are reused."""
    return {name: features[name].dense().clone() for name in names}
