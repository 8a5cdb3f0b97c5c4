"""encode and extract: only what is missing, the same bytes however they came about, one clear error each."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cache import CacheError, SkippedImage
from cache.errors import NonFiniteError, StoreFullError
from diffps.backbone.checkpoint import load_checkpoint
from diffps.backbone.prompts import PromptEncoder
from diffps.datasets.tables import read_scenes
from diffps.errors import ConfigError, ImageError, PromptError, UnknownTapError
from diffps.features import Ref
from diffps.images import load_image
from stages import encode, extract, index
from stages.features.arrays import latent_work, pass_work
from stages.features.cached import CachedSource
from stages.features.complete import write_missing
from stages.features.opening import open_store
from stages.features.priors import prior_of
from stages.features.reading import Reading
from stages.features.source import skipped_scenes
from stages.head.data import training_set
from stages.job import QuietJob, StoppedError
from stages.places import INDEX, WORDS
from tests.stages.computers import Failing, Filled, Limited, extract_by, refuse
from tests.world import FLOAT16, KEPT, STORE, Listener, Project, files_below


@pytest.fixture(scope="module")
def template(encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dataset extracted as int8; copied, never changed."""
    folder = tmp_path_factory.mktemp("template") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        Project.copy_of(encoded, folder, monkeypatch).run(extract)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project.copy_of(template, tmp_path / "project", monkeypatch)


@pytest.fixture
def fresh(encoded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """The same with nothing extracted."""
    return Project.copy_of(encoded, tmp_path / "project", monkeypatch)


def receipts() -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((STORE / "receipts").rglob("*.json"))]


def test_run_again_nothing_is_loaded_or_written(project: Project) -> None:
    before = {path: path.stat().st_mtime_ns for path in STORE.rglob("*") if path.is_file()}
    words, job = WORDS.stat().st_mtime_ns, Listener()
    project.run(encode, extract, job=job)
    assert job.lines == ["encode: nothing is missing", "extract: nothing is missing"]
    extract_by(project, refuse)
    config, images = project.params().encode, Path(project.params().index.root)
    work = latent_work(config, prior_of(config), read_scenes(INDEX), images)
    write_missing("encode", open_store(str(STORE)), work, refuse, project.runtime, QuietJob())
    after = {path: path.stat().st_mtime_ns for path in STORE.rglob("*") if path.is_file()}
    assert {
        path for path in before | after if before.get(path) != after.get(path) and "locks" not in path.parts
    } == set()
    assert WORDS.stat().st_mtime_ns == words


def test_further_encodings_come_from_the_same_pass(small: Project) -> None:
    both = FLOAT16 | {"transcode": ["int8"]}
    small.run(extract, extract=both)
    made = small.files()
    with small.source("test", extract={"encoding": "int8"}) as source:
        assert set(source.shapes) >= set(small.params().train.taps.names)
    small.run(extract, extract=both)
    assert small.files() == made
    with pytest.raises(ConfigError, match="from float16 only"):
        small.run(extract, extract={"encoding": "int8", "transcode": ["project:4"]})


def test_one_more_timestep_or_tap_adds_only_that(project: Project) -> None:
    before, inputs = project.files(), project.files("data/inputs")
    project.run(extract, extract={"timesteps": [0, 10]})
    added = set(project.files()) - set(before)
    assert added
    assert all("/t10/" in name for name in added)
    project.run(extract, extract={"taps": [*KEPT, "mid-vit-out"]})
    found = project.files()
    assert {name: found[name] for name in before} == before
    assert all("/t10/" in name or "mid-vit-out@int8" in name for name in set(found) - set(before))
    assert project.files("data/inputs") == inputs


class Stopping(QuietJob):
    """Asked to stop once ``after`` images are done."""

    after = 3

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Any]:
        job = self

        class Tracker:
            done = 0

            def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
                self.done += done if nbytes else 0  # what an earlier run left done does not count
                job.stopping = self.done >= job.after

        yield Tracker()


@pytest.mark.parametrize("stage", [encode, extract])
def test_interrupted_and_continued_gives_the_same_bytes(fresh: Project, template: Path, stage: Any) -> None:
    if stage is encode:
        shutil.rmtree(STORE)
    stops = 0
    while True:
        try:
            fresh.run(stage, job=Stopping())
            break
        except StoppedError:
            stops += 1
            assert not list((STORE / "tmp").rglob("*-*"))
    assert stops >= 2
    fresh.run(extract)
    assert fresh.files() == files_below(template / STORE / "features.zarr")
    of_store = "store.json"  # which store they are of: two are never the same
    inputs, expected = fresh.files("data/inputs"), files_below(template / "data/inputs")
    assert {of_store} < inputs.keys() & expected.keys()
    del inputs[of_store], expected[of_store]
    assert inputs == expected


def test_an_error_halfway_keeps_whole_shards_only(fresh: Project, template: Path) -> None:
    with pytest.raises(RuntimeError, match="driver"):
        extract_by(fresh, Failing.make)
    assert len(list((STORE / "receipts").rglob("t0/*.json"))) == 1
    assert not list(Path("data/manifests/extract").rglob("*.json"))
    fresh.run(extract)
    assert fresh.files() == files_below(template / STORE / "features.zarr")


def test_after_out_of_memory_the_shard_starts_again_in_smaller_batches(fresh: Project) -> None:
    extract_by(fresh, Limited.make)
    batches = {receipt["info"]["batch"] for receipt in receipts() if "t0" in next(iter(receipt["arrays"]))}
    assert batches == {1}

    class Full(Limited):
        largest = 0

    with pytest.raises(torch.OutOfMemoryError):
        extract_by(fresh, Full.make, extract={"timesteps": [0, 1]})


def test_an_edited_image_is_encoded_and_extracted_again_alone(project: Project) -> None:
    scene = read_scenes(INDEX, "test")[-1]
    path = project.folder / project.params().index.root / scene.path
    with pytest.raises(ImageError, match="changed since it was indexed"):
        Image.new("RGB", (scene.width, scene.height), "red").save(path)
        shutil.rmtree(STORE)
        project.run(encode)
    project.run(index)
    project.run(encode)
    project.run(extract)
    before = project.files()
    Image.new("RGB", (scene.width, scene.height), "blue").save(path)
    project.run(index)
    project.run(encode)
    project.run(extract)
    changed = {name for name, data in project.files().items() if before.get(name) != data}
    assert changed
    assert all(name.startswith("test/identity/") and "/c/" in name for name in changed)
    assert len({name.split("/c/")[1].split("/")[0] for name in changed}) == 1


def test_an_unreadable_image_stops_the_run_or_is_skipped(project: Project) -> None:
    shutil.rmtree(STORE)
    scenes = read_scenes(INDEX, "train")
    path = project.folder / project.params().index.root / scenes[1].path
    path.write_bytes(b"")
    with pytest.raises(ImageError, match="skip_unreadable"):
        project.run(encode)
    skipping = {"runtime": {"skip_unreadable": True}}
    project.run(encode, **skipping)
    project.run(extract, **skipping)
    params = project.params()
    reading = Reading.of(params.train, params.extract)
    source = CachedSource(reading, "train", open_store(str(STORE)), scenes)
    assert len(list(source.stream([[Ref(scenes[0].scene_id)]], reading.names))) == 1
    with pytest.raises(SkippedImage, match=scenes[1].scene_id):
        list(source.stream([[Ref(scenes[1].scene_id)]], reading.names))
    assert source.skipped() == {scenes[1].scene_id}
    data = training_set(params.train, params.encode.frame, INDEX, skipped_scenes(source, QuietJob()))
    assert scenes[1].scene_id not in data.order.scene_ids
    assert len(data.order.scene_ids) == len(scenes) - 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_nothing_that_is_not_finite_is_stored(fresh: Project, value: float) -> None:
    class Broken(Filled):
        pass

    Broken.value = value
    with pytest.raises(NonFiniteError, match="scene .*t0/up-level1.*(NaN|nan|infinity|overflow|exceed|infinite)"):
        extract_by(fresh, Broken.make)
    assert not list(Path("data/manifests/extract").rglob("*.json"))


def test_what_does_not_fit_on_the_disk_is_refused_before_anything_is_computed(fresh: Project) -> None:
    work = pass_work(fresh.plan(), read_scenes(INDEX))[0]
    vast = [replace(spec, shape=(1_000_000, 1_000_000, 1)) for spec in work.specs]
    with pytest.raises(StoreFullError, match="what would fit"):
        write_missing("extract", open_store(str(STORE)), [replace(work, specs=vast)], refuse, fresh.runtime, QuietJob())


def test_moments_that_are_missing_are_named(fresh: Project) -> None:
    shutil.rmtree(STORE)
    with pytest.raises(CacheError, match="moments"):
        fresh.run(extract)


def test_stored_taps_are_the_backbone_s(project: Project) -> None:
    """What the store holds against a forward written with diffusers alone."""
    sections: dict[str, Any] = {"extract": {"noise": "none", **FLOAT16}}
    project.run(extract, **sections)
    params = project.params(**sections)
    scene = read_scenes(INDEX, "test")[0]
    checkpoint = load_checkpoint(params.encode.checkpoint)
    unet, vae = checkpoint.load_unet(torch.float32), checkpoint.load_vae(torch.float32)
    image = torch.from_numpy(load_image(Path(params.index.root) / scene.path)).permute(2, 0, 1)[None] / 127.5 - 1
    kept = {}
    unet.up_blocks[1].attentions[0].transformer_blocks[0].attn1.to_k.register_forward_hook(
        lambda module, args, output: kept.setdefault("k", output)
    )
    with torch.inference_mode():
        pixels = torch.nn.functional.interpolate(image, (64, 128), mode="bilinear")
        latent = vae.encode(pixels).latent_dist.mean * vae.config.scaling_factor
        unet(latent, 0, PromptEncoder(checkpoint).encode("person").embedding)
    spec = project.plan(**sections).specs("test", "identity", 0)["up-level1-repeat0-vit-block0-self-k"]
    stored = open_store(str(STORE)).reader([spec]).read_float(scene.scene_id, spec.name)
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
        fresh.run(extract, **{section: changes})
    assert isinstance(caught.value, error | ConfigError)
    assert "\n" not in str(caught.value)


def test_dry_run_says_what_would_be_done(project: Project) -> None:
    params = project.params()
    assert "14 images, 22 with views" in encode.dry_run(params, project.runtime, QuietJob())
    assert "4 taps and maps at t = 0 under 'person' as int8" in extract.dry_run(params, project.runtime, QuietJob())
