"""encode and extract: only what is missing, the same bytes however they came about, one clear error each."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cache import CacheError, FeatureStore, SkippedImage
from cache.errors import NonFiniteError, StoreFullError
from diffps.errors import ConfigError, ImageError, PromptError, UnknownTapError
from stages import encode, extract
from stages.features.backbone import PassRunner
from stages.job import QuietJob, StoppedError
from tests.stages.drawn import KEPT, Project
from tests.tiny import reading

STORE = Path("data/features")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset drawn, indexed, encoded and extracted; copied, never changed."""
    folder = tmp_path_factory.mktemp("template")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = Project(folder, monkeypatch)
        project.index()
        project.encode()
        project.extract()
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    shutil.copytree(template, tmp_path / "project")
    return Project(tmp_path / "project", monkeypatch)


@pytest.fixture
def fresh(project: Project) -> Project:
    """The same with nothing extracted."""
    shutil.rmtree(STORE)
    project.encode()
    return project


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("stages.features.backbone.PassRunner.__init__", refuse)
    monkeypatch.setattr("stages.features.backbone.LatentComputer.__init__", refuse)


def receipts(project: Project) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((STORE / "receipts").rglob("*.json"))]


@pytest.mark.usefixtures("no_model")
def test_run_again_nothing_is_loaded_or_written(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in STORE.rglob("*") if path.is_file()}
    words = Path("data/encode/words.safetensors").stat().st_mtime_ns
    project.encode()
    project.extract()
    after = {path: path.stat().st_mtime_ns for path in STORE.rglob("*") if path.is_file()}
    assert {
        path for path in before | after if before.get(path) != after.get(path) and "locks" not in path.parts
    } == set()
    assert Path("data/encode/words.safetensors").stat().st_mtime_ns == words


def test_one_more_timestep_or_tap_adds_only_that(project: Project) -> None:
    before, inputs = project.files(), project.files("data/features/inputs")
    project.extract(extract={"timesteps": [0, 10]})
    added = set(project.files()) - set(before)
    assert added
    assert all("/t10/" in name for name in added)
    project.extract(extract={"taps": [*KEPT, "mid-vit-out"]})
    found = project.files()
    assert {name: found[name] for name in before} == before
    assert all("/t10/" in name or "mid-vit-out@int8" in name for name in set(found) - set(before))
    assert project.files("data/features/inputs") == inputs


class Stopping(QuietJob):
    """Asked to stop once ``after`` images are done."""

    after = 3

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Any]:
        job = self

        class Tracker:
            done = 0

            def advance(self, done: int = 1, nbytes: int = 0) -> None:
                self.done += done if nbytes else 0  # what an earlier run left done does not count
                job.stopping = self.done >= job.after

        yield Tracker()


@pytest.mark.parametrize("stage", [encode, extract])
def test_interrupted_and_continued_gives_the_same_bytes(fresh: Project, template: Path, stage: Any) -> None:
    if stage is encode:
        shutil.rmtree(STORE)
    params = fresh.params()
    stops = 0
    while True:
        try:
            stage.run(params, Stopping(params.runtime))
            break
        except StoppedError:
            stops += 1
            assert not list((STORE / "tmp").rglob("*-*"))
    assert stops >= 2
    fresh.extract()
    assert fresh.files() == Project.files(_at(template))
    assert fresh.files("data/features/inputs") == Project.files(_at(template), "data/features/inputs")


def _at(folder: Path) -> Any:
    class Place:
        pass

    place: Any = Place()
    place.folder = folder
    return place


def test_an_error_halfway_keeps_whole_shards_only(
    fresh: Project, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    features = PassRunner.features

    def broken(self: PassRunner, *args: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the driver went away")
        return features(self, *args)

    monkeypatch.setattr(PassRunner, "features", broken)
    with pytest.raises(RuntimeError, match="driver"):
        fresh.extract()
    assert not list((STORE / "manifests/extract").rglob("*.json"))
    monkeypatch.setattr(PassRunner, "features", features)
    fresh.extract()
    assert fresh.files() == Project.files(_at(template))


def test_after_out_of_memory_the_shard_starts_again_in_smaller_batches(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    features = PassRunner.features

    def limited(self: PassRunner, images: Any, timestep: int, batch: int) -> Any:
        if batch > 1:
            raise torch.OutOfMemoryError("full")
        return features(self, images, timestep, batch)

    monkeypatch.setattr(PassRunner, "features", limited)
    fresh.extract()
    batches = [receipt["info"]["batch"] for receipt in receipts(fresh)]
    assert 1 in batches
    monkeypatch.setattr(PassRunner, "features", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("full")))
    with pytest.raises(torch.OutOfMemoryError):
        fresh.extract(extract={"timesteps": [0, 1]})


def test_an_edited_image_is_encoded_and_extracted_again_alone(project: Project) -> None:
    from PIL import Image

    from diffps.datasets.tables import read_scenes

    scene = read_scenes(Path("data/index"), "test")[-1]
    path = project.folder / project.params().index.root / scene.path
    with pytest.raises(ImageError, match="changed since it was indexed"):
        Image.new("RGB", (scene.width, scene.height), "red").save(path)
        shutil.rmtree(STORE)
        project.encode()
    project.index()
    project.encode()
    project.extract()
    before = project.files()
    Image.new("RGB", (scene.width, scene.height), "blue").save(path)
    project.index()
    project.encode()
    project.extract()
    changed = {name for name, data in project.files().items() if before.get(name) != data}
    assert changed
    assert all(name.startswith("test/identity/") and "/c/" in name for name in changed)
    assert len({name.split("/c/")[1].split("/")[0] for name in changed}) == 1


def test_an_unreadable_image_stops_the_run_or_is_skipped(project: Project) -> None:
    from diffps.datasets.tables import read_scenes
    from stages.features.cached import CachedSource
    from stages.features.source import skipped_scenes
    from stages.head.data import training_set

    shutil.rmtree(STORE)
    scenes = read_scenes(Path("data/index"), "train")
    path = project.folder / project.params().index.root / scenes[1].path
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="skip_unreadable"):
        project.encode()
    skipping = {"runtime": {"skip_unreadable": True}}
    project.encode(**skipping)
    project.extract(**skipping)
    params = project.params()
    names = params.train.taps.names
    from diffps.features import Ref

    source = CachedSource(reading(params, names), params, QuietJob(params.runtime), "train")
    assert len(list(source.stream([[Ref(scenes[0].scene_id)]], names))) == 1
    with pytest.raises(SkippedImage, match=scenes[1].scene_id):
        list(source.stream([[Ref(scenes[1].scene_id)]], names))
    assert source.skipped() == {scenes[1].scene_id}
    data = training_set(params, Path("data/index"), skipped_scenes(source, QuietJob(params.runtime)))
    assert scenes[1].scene_id not in data.order.scene_ids
    assert len(data.order.scene_ids) == len(scenes) - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nothing_that_is_not_finite_is_stored(fresh: Project, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    features = PassRunner.features

    def broken(self: PassRunner, *args: Any) -> Any:
        for row in features(self, *args):
            yield {name: np.full_like(array, value) for name, array in row.items()}

    monkeypatch.setattr(PassRunner, "features", broken)
    with pytest.raises(NonFiniteError, match="scene .*t0/up-level1.*(NaN|nan|infinity|overflow|exceed|infinite)"):
        fresh.extract()
    assert not list((STORE / "manifests/extract").rglob("*.json"))


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_computed(
    fresh: Project, monkeypatch: pytest.MonkeyPatch, no_model: None
) -> None:
    monkeypatch.setattr("cache.budget.free_bytes", lambda _: 1000)
    with pytest.raises(StoreFullError, match="what would fit"):
        fresh.extract()


def test_moments_that_are_missing_are_named(fresh: Project) -> None:
    shutil.rmtree(STORE)
    with pytest.raises(CacheError, match="moments"):
        fresh.extract()


def test_stored_taps_are_the_backbone_s(project: Project) -> None:
    """What the store holds against a forward written with diffusers alone."""
    from diffps.backbone.checkpoint import load_checkpoint
    from diffps.backbone.prompts import PromptEncoder
    from diffps.datasets.tables import read_scenes
    from diffps.images import load_image
    from stages.features.recipes import Pass

    params = project.params(extract={"noise": "none", "encoding": "float16"})
    extract.run(params, QuietJob(params.runtime))
    scene = read_scenes(Path("data/index"), "test")[0]
    checkpoint = load_checkpoint(params.encode.checkpoint)
    unet, vae = checkpoint.load_unet(torch.float32), checkpoint.load_vae(torch.float32)
    image = torch.from_numpy(load_image(Path(params.index.root) / scene.path)).permute(2, 0, 1)[None] / 127.5 - 1
    kept = {}
    unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.to_k.register_forward_hook(
        lambda module, args, output: kept.setdefault("k", output)
    )
    with torch.inference_mode():
        pixels = torch.nn.functional.interpolate(image, (128, 192), mode="bilinear")
        latent = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        unet(latent, 0, PromptEncoder(checkpoint).encode("person").embedding)
    spec = Pass(params, STORE).specs("test", "identity", 0)["up-level1-repeat0-vit-block0-self-k"]
    stored = FeatureStore(STORE).reader([spec]).read_float(scene.scene_id, spec.name)
    expected = kept["k"].reshape(spec.shape).numpy()
    assert np.abs(stored - expected).max() / np.abs(expected).max() < 1e-3


@pytest.mark.parametrize(
    ("section", "changes", "error", "message"),
    [
        ("extract", {"taps": ["up-level9"]}, UnknownTapError, "nearest"),
        ("extract", {"taps": [*KEPT, "up-level1-repeat0-vit-block0-self-map"]}, ConfigError, "not stored"),
        ("extract", {"taps": [*KEPT, "up-level1-repeat0-vit-block0-cross-k"]}, ConfigError, "same for every image"),
        ("extract", {"timesteps": [1000]}, ConfigError, "0 to 999"),
        ("extract", {"timesteps": [0, 0]}, ConfigError, "twice"),
        ("extract", {"words": ["shoes", "person"]}, PromptError, "not in the prompt 'person'"),
        ("extract", {"encoding": "int4"}, ValueError, "int4"),
        ("encode", {"canvas": [100, 128]}, ConfigError, "multiple of 64"),
        ("encode", {"views": ["hflip"]}, ConfigError, "identity"),
        ("encode", {"checkpoint": "nowhere"}, ValueError, "no such folder"),
        ("runtime", {"scheduler": "local:no"}, ConfigError, "local:N"),
    ],
)
def test_bad_parameters_are_one_clear_error(
    fresh: Project, section: str, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        fresh.extract(**{section: changes})
    assert isinstance(caught.value, error | ConfigError)
    assert "\n" not in str(caught.value)


def test_dry_run_says_what_would_be_done(project: Project) -> None:
    params = project.params()
    job = QuietJob(params.runtime)
    assert "14 images, 22 with views" in encode.dry_run(params, job)
    assert "4 taps and maps at t = 0 under 'person' as int8" in extract.dry_run(params, job)
