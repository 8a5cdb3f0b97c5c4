"""Cached equals live: one contract for both sources, the same features and the same losses to the last bit."""

import csv
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from diffps.datasets.tables import read_scenes
from diffps.features import Feature, FeatureSource, Ref
from stages import encode, extract, index, train
from stages.features.cached import CachedSource
from stages.features.live import LiveSource
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.images import ImageFolder
from stages.places import INDEX, TRAIN
from tests.world import STORE, Project

ENCODINGS = ("int8", "float16", "project:4")


@pytest.fixture(scope="module", params=ENCODINGS)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A small project with the demo's taps, extracted under each encoding; the tests run in its folder."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        changes = {"extract": {"encoding": request.param}}
        made = Project(tmp_path_factory.mktemp("project"), monkeypatch, changes)
        made.run(index, encode, extract)
        yield made


def cached(project: Project) -> CachedSource:
    params = project.params()
    return CachedSource(
        Reading.of(params.train, params.extract), "train", open_store(str(STORE)), read_scenes(INDEX, "train")
    )


def live(project: Project) -> LiveSource:
    params, runtime = project.params(), project.runtime
    reading, plan = (
        Reading.of(params.train, params.extract),
        PassPlan(params.encode, params.extract, open_store(str(STORE))),
    )
    return LiveSource(reading, "train", plan, read_scenes(INDEX), ImageFolder.of(params.index), runtime)


def scene_ids() -> list[str]:
    return [scene.scene_id for scene in read_scenes(INDEX, "train")]


@pytest.fixture
def names(project: Project) -> tuple[str, ...]:
    return project.params().train.taps.names


class FeatureSourceContract:
    """What heads rely on, whatever the source."""

    make: Callable[[Project], Any]

    @pytest.fixture
    def source(self, project: Project) -> Iterator[FeatureSource]:
        with type(self).make(project) as source:
            yield source

    def test_shapes_are_those_of_the_expanded_features(self, source: FeatureSource, names: tuple[str, ...]) -> None:
        (features,) = source.stream([[Ref(scene_ids()[0])]], names)
        assert set(source.shapes) == set(features) == set(names)
        for name in names:
            height, width, channels = source.shapes[name]
            assert features[name].dense().shape == (1, channels, height, width)
            assert features[name].values.is_contiguous()

    def test_batches_come_in_the_order_asked_for(self, source: FeatureSource, names: tuple[str, ...]) -> None:
        names, ids = names[:1], scene_ids()
        forward = [_dense(batch, names) for batch in source.stream([[Ref(i)] for i in ids[:3]], names)]
        backward = [_dense(batch, names) for batch in source.stream([[Ref(i)] for i in reversed(ids[:3])], names)]
        assert len(forward) == 3
        for one, other in zip(forward, reversed(backward), strict=True):
            assert torch.equal(one[names[0]], other[names[0]])
        assert not torch.equal(forward[0][names[0]], forward[1][names[0]])

    def test_a_batch_is_its_samples_stacked_and_views_mix(self, source: FeatureSource, names: tuple[str, ...]) -> None:
        names, ids = names[:2], scene_ids()
        refs = [Ref(ids[0]), Ref(ids[1], "hflip"), Ref(ids[0], "hflip")]
        (together,) = (_dense(batch, names) for batch in source.stream([refs], names))
        alone = [_dense(batch, names) for batch in source.stream([[ref] for ref in refs], names)]
        for name in names:
            assert torch.equal(together[name], torch.cat([part[name] for part in alone]))
            assert not torch.equal(together[name][0], together[name][2])


class TestCached(FeatureSourceContract):
    make = staticmethod(cached)


class TestLive(FeatureSourceContract):
    make = staticmethod(live)


def test_both_say_the_same_of_their_features(project: Project) -> None:
    with cached(project) as stored, live(project) as computed:
        assert stored.recipe == json.loads(json.dumps(computed.recipe))
    assert {"unet", "latent", "prompt", "noise", "timestep", "head"} <= set(stored.recipe)
    assert not {"dtype", "seed"} & set(stored.recipe)


def test_both_give_the_same_bits(project: Project, names: tuple[str, ...]) -> None:
    refs = [Ref(scene, view) for scene in scene_ids() for view in ("identity", "hflip")]
    batches = [refs[start : start + 3] for start in range(0, len(refs), 3)]
    with cached(project) as stored, live(project) as computed:
        assert dict(stored.shapes) == dict(computed.shapes)
        ours = [_dense(batch, names) for batch in stored.stream(batches, names)]
        theirs = [_dense(batch, names) for batch in computed.stream(batches, names)]
    assert len(ours) == len(theirs) == len(batches)
    for one, other in zip(ours, theirs, strict=True):
        for name in names:
            assert torch.equal(one[name], other[name]), name


def test_training_from_either_gives_the_same_losses(project: Project) -> None:
    curves = []
    for source in ("cached", "live"):
        project.run(train, train={"source": source})
        with (TRAIN / "losses.csv").open() as file:
            curves.append(list(csv.reader(file)))
        (TRAIN / "checkpoint/state.safetensors").unlink()  # else the second would take the first's head as its own
    assert len(curves[0]) > 2
    assert curves[0] == curves[1]


def _dense(features: dict[str, Feature], names: Any) -> dict[str, torch.Tensor]:
    """Expanded copies: a batch's buffers are reused."""
    return {name: features[name].dense().clone() for name in names}
