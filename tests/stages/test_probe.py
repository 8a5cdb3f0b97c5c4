"""`diffps probe` on a few drawn scenes: files, resuming, workers, bad input. What its numbers mean: tests/probe."""

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from cache.errors import DamagedError, FileError
from diffps.datasets.tables import read_annotations, read_scenes
from diffps.errors import ConfigError, DatasetError, DiffPSError, ImageError
from diffps.probe.part import Part
from diffps.probe.plan import memory
from diffps.probe.table import Detection, ReID
from diffps.records import Annotations
from diffps.taps import standard_taps
from pipeline.config import load_params
from stages import encode, extract, index, probe, sweep, train
from stages.config_probe import ProbeFile
from stages.features.backbone import LatentComputer, PassRunner
from stages.features.batches import chunks
from stages.images import ImageFolder
from stages.job import QuietJob, StoppedError, Tracker
from stages.params import Params, override
from stages.places import INDEX, PROBE, SWEEP, TRAIN
from stages.probing.conclusions import dealt_sentence
from stages.probing.export import place_of
from stages.probing.finish import write_results
from stages.probing.gather import check_memory, gather
from stages.probing.parts import ProbeState
from stages.probing.prober import state_at
from stages.probing.setting import ProbePlan, Stretch, plan_probe, read_probe_file
from stages.text import size
from stages.together import content
from tests.probe.plain import plain_probe
from tests.world import ROOT, write_params

TAPS = ("down-level0-repeat0-res-out", "down-level1-repeat0-vit-block0-ffn-inner", "up-level0-repeat1-res-out")
FILE: dict[str, Any] = {
    "scenes": 10,
    "timesteps": [0, 100],
    "taps": list(TAPS),
    "budgets": [0.005, 0.1],
    "control": None,
    "width": 40,
    "boxes": 4,
    "folds": 2,
    "resamples": 100,
}
PROBED = ("builtin:streets", "builtin:random")  # and the control
SIZES = {"train_scenes": 10, "train_identities": 5, "size": 96, "persons": [2, 3], "cameras": 2}
CHANGES = {"index": {"streets": SIZES}, "encode": {"canvas": [64, 64]}, "probe": {"file": "probe.yaml"}}


class ProbeProject:
    """A folder with drawn scenes, params.yaml on a canvas of 64, and a probe file."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(folder)
        self.folder = folder
        write_params(folder, CHANGES)
        self.loaded, self.runtime = load_params(folder / "params.yaml")

    def params(self) -> Params:
        return self.loaded

    def file(self, **changes: Any) -> ProbeFile:
        with Path("probe.yaml").open("w") as file:
            YAML().dump(FILE | changes, file)
        return read_probe_file(Path("probe.yaml"))

    def plans(self, stretch: int = 2, **changes: Any) -> list[ProbePlan]:
        params = self.params()
        scenes, annotations = read_scenes(INDEX), read_annotations(INDEX)
        return plan_probe(self.file(**changes), params.encode, params.extract, scenes, annotations, stretch)

    def gather(self, plan: ProbePlan, job: QuietJob | None = None) -> None:
        params = self.params()
        gather(plan, ImageFolder.of(params.index), self.runtime, job or QuietJob(), None)

    def results(self, plans: list[ProbePlan]) -> list[str]:
        params = self.params()
        return write_results(plans, self.file(), params.train.taps, ImageFolder.of(params.index))


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexed")
    with pytest.MonkeyPatch.context() as monkeypatch:
        project = ProbeProject(folder, monkeypatch)
        index.run(project.params(), project.runtime, QuietJob())
    return folder


@pytest.fixture
def project(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProbeProject:
    shutil.copytree(indexed, tmp_path / "project")
    return ProbeProject(tmp_path / "project", monkeypatch)


class Interrupted(QuietJob):
    """Dies without a word, or is asked to stop, after so many stretches."""

    def __init__(self, stretches: int, dies: bool) -> None:
        super().__init__()
        self.left, self.dies = stretches, dies

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        yield self

    def advance(self, done: int = 1, nbytes: int = 0) -> None:
        self.left -= 1
        if not self.left and self.dies:
            raise KeyboardInterrupt
        self.stopping = not self.left


def test_what_a_probe_writes(project: ProbeProject) -> None:
    project.file(control="builtin:random")
    params = project.params()
    own = {"detection": TAPS[2], "level1": [TAPS[1]], "level2": [], "level3": [TAPS[0]]}
    changes = {f"train.taps.{level}": tap for level, tap in own.items()}
    params = override(
        params,
        {"encode.checkpoint": "builtin:streets", "extract.taps": [*params.extract.taps, *TAPS], **changes},
        "test",
    )
    probe.run(params, project.runtime, QuietJob())
    table = pq.read_table(PROBE / "table.parquet").to_pylist()
    taps = [row for row in table if row["kind"] == "tap"]
    every = [(checkpoint, t, name) for checkpoint in PROBED for t in (0, 100) for name in TAPS]
    assert [(row["checkpoint"], row["timestep"], row["name"]) for row in taps] == every
    for row in taps:
        assert 0 <= row["reid_map_low"] <= row["reid_map"] <= row["reid_map_high"] <= 1
        assert 0 <= row["detection_precision_low"] <= row["detection_precision"] <= 1
    assert {row["name"]: row["megabytes"] for row in taps}[TAPS[0]] == (32 * 8 * 8 + 2 * 32 + 2 * 4) / 1e6
    words = pq.read_table(PROBE / "words.parquet").to_pylist()
    assert {row["word"] for row in words} == {"person"}
    assert len(words) == 2 * 16
    redundancy = pq.read_table(PROBE / "redundancy.parquet").to_pylist()
    np.testing.assert_allclose([row[row["name"]] for row in redundancy], 1)
    assert "10 scenes" in (PROBE / "summary.txt").read_text()
    assert not (project.folder / "data/features").exists(), "nothing may be stored"
    check_controls(table, params)


def check_controls(table: list[dict[str, Any]], params: Params) -> None:
    """What the taps of a table are to be held against: random weights, dealt labels, colours and the taps of the
    parameters side by side."""
    blank = [row for row in table if row["checkpoint"] == "builtin:random"]
    known = [row for row in table if row["checkpoint"] == "builtin:streets" and row["kind"] == "tap"]
    for one, other in zip(known, blank, strict=True):
        assert (one["name"], one["timestep"]) == (other["name"], other["timestep"])
        assert one["reid_cosine"] != other["reid_cosine"], "two backbones"
    assert [row["detection_precision"] for row in known] != [row["detection_precision"] for row in blank]
    for row in (*known, *blank):
        for of in ("reid", "detection"):
            assert abs(row[f"{of}_dealt"]) <= row[f"{of}_bound"] < 1, (row["name"], of)
    (colours,) = [row for row in table if row["kind"] == "reference"]
    assert colours["name"] == "colours of true boxes"
    assert not colours["reid_near_best"]
    assert 0 < colours["reid_map_low"] <= colours["reid_map"] <= colours["reid_map_high"] <= 1
    (own,) = [row for row in table if row["name"] == "train.taps"]
    assert own["kind"] == "set"
    assert own["taps"] == ", ".join(params.train.taps.names)
    assert 0 < own["reid_map"] <= 1
    assert own["reid_ahead"] == 0
    (alone,) = [row for row in known if row["name"] == TAPS[2] and row["timestep"] == own["timestep"]]
    assert own["detection_precision"] == alone["detection_precision"]
    assert {row["name"] for row in known if row["own"]} == set(TAPS)


def test_the_chosen_sets_can_be_pasted(project: ProbeProject) -> None:
    (plan,) = project.plans()
    project.gather(plan)
    project.results([plan])
    block = YAML(typ="safe").load(PROBE / "taps-0.1MB.yaml")
    params = project.params()
    changes = {f"{section}.{key}": value for section, keys in block.items() for key, value in keys.items()}
    pasted = override(params, changes, "pasted")
    assert set(pasted.train.taps.names) - set(plan.reads.maps) <= set(TAPS)


@pytest.mark.slow
def test_what_is_written_is_extracted_trained_and_swept_as_it_is(project: ProbeProject) -> None:
    project.file(timesteps=[0])
    probe.run(project.params(), project.runtime, QuietJob())
    block, params = YAML(typ="safe").load(PROBE / "taps-0.1MB.yaml"), project.params()
    pasted = override(params, {f"{of}.{key}": value for of, keys in block.items() for key, value in keys.items()}, "")
    for stage in (encode, extract, train):
        stage.run(pasted, project.runtime, QuietJob())
    kept = json.loads((TRAIN / "head/config.json").read_text())
    assert pasted.train.taps.detection in json.dumps(kept)
    # And the sweep by the command that its first lines give.
    file = PROBE / "sweep.yaml"
    header = " ".join(line.strip("# ") for line in file.read_text().splitlines() if line.startswith("#"))
    told = shlex.split(header.partition("diffps extract ")[2].partition(" then ")[0].strip("# "))
    changes = [value for value in told if value != "--set" and not value.startswith("#")]
    ready, runtime = load_params(project.folder / "params.yaml", [*changes, f"sweep.file={file}"])
    extract.run(ready, runtime, QuietJob())
    sweep.run(ready, runtime, QuietJob())
    rows = pq.read_table(SWEEP / "table.parquet").to_pylist()
    assert {row["status"] for row in rows} == {"done"}
    assert {row["seed"] for row in rows} == {1, 2, 3}
    assert any(row["group"].startswith("under-") for row in rows)


def test_equal_to_tap_by_tap_from_the_features_that_would_be_stored(project: ProbeProject) -> None:
    (plan,) = project.plans()
    project.gather(plan)
    params, sample = project.params(), plan.sample
    latents = LatentComputer(
        plan.unet.prior, params.encode, ImageFolder.of(params.index), sample.scenes, project.runtime
    )
    runner = PassRunner(plan.unet, torch.device("cpu"))
    keyed = list(latents.keyed([(scene.scene_id, "identity") for scene in sample.scenes]))
    found = [each for chunk in chunks(keyed, 2) for each in runner.features(chunk, 100, 2)]
    runner.close()
    features = {name: torch.from_numpy(np.stack([each[name] for each in found])) for name in plan.reads.taps}
    rows = state_at(plan, 100).rows()
    for tap, expected in plain_probe(features, list(plan.reads.taps), sample, plan.frame, plan.rules).items():
        for kind, values in expected.items():
            np.testing.assert_allclose(rows[f"{tap}/{kind}"], values, rtol=1e-6, atol=1e-6, err_msg=f"{tap} {kind}")


@pytest.mark.parametrize("dies", [True, False])
def test_interrupted_and_resumed_equals_uninterrupted(project: ProbeProject, dies: bool) -> None:
    (plan,) = project.plans()
    project.gather(plan)
    project.results([plan])
    whole = contents(plan)
    shutil.rmtree(PROBE)
    for stretches in (2, 1, 1):  # in the middle of the fit, before the scores, among the scores
        with pytest.raises(KeyboardInterrupt if dies else StoppedError):
            project.gather(plan, Interrupted(stretches, dies))
    project.gather(plan)
    project.results([plan])
    assert contents(plan) == whole


def contents(plan: ProbePlan) -> dict[str, Any]:
    """Every array of the parts, and the results, byte for byte."""
    found: dict[str, Any] = {}
    for timestep in plan.timesteps:
        state = state_at(plan, timestep)
        found |= {f"{timestep}/{name}": array.tobytes() for name, array in state.sums().items()}
        rows = state.rows()
        found |= {f"{timestep}/{name}": rows[name].tobytes() for name in rows}
    return found | {path.name: path.read_bytes() for path in PROBE.iterdir() if path.is_file() and path.name[0] != "."}


def test_results_that_could_not_be_written_whole_are_read_by_nobody(project: ProbeProject) -> None:
    (plan,) = project.plans()
    project.gather(plan)
    project.results([plan])
    (PROBE / "redundancy.parquet").unlink()
    (PROBE / "redundancy.parquet").mkdir()  # the second of three tables cannot take its name
    with pytest.raises(FileError, match="redundancy"):
        project.results([plan])
    with pytest.raises(DamagedError, match="diffps probe"):
        content(PROBE / "table.parquet", "probe")


def test_a_finished_probe_runs_no_model_and_another_timestep_only_its_own(project: ProbeProject) -> None:
    (plan,) = project.plans(timesteps=[0])
    project.gather(plan)
    before = {path: path.stat().st_mtime_ns for path in plan.folder.rglob("*.npz")}
    (more,) = project.plans(timesteps=[0, 100], folds=3, budgets=[1.0])
    assert more.folder == plan.folder
    project.gather(more)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    shutil.rmtree(project.folder / "data/streets/frames")
    project.gather(more)  # needs no image any more
    (other,) = project.plans(width=20)
    assert other.folder != plan.folder


def test_a_part_that_is_half_written_is_made_again(tmp_path: Path) -> None:
    state = ProbeState(tmp_path)
    stretches = [Stretch("fit", number, range(number, number + 1)) for number in range(3)]
    parts = [Part({"a/all": np.full(2, 10.0**number)}, {"a/vectors": np.full((1, 2), number)}) for number in range(3)]
    state.keep(stretches[0], parts[0])
    state.fold()
    state.keep(stretches[2], parts[2])  # another worker was faster
    state.fold()
    assert state.sums()["a/all"].tolist() == [1, 1]
    state.keep(stretches[1], parts[1])
    (tmp_path / "fit-00001.npz").unlink()  # killed between its sums and its rows
    state.fold()
    assert state.sums()["a/all"].tolist() == [1, 1]
    assert not state.has(stretches[1])
    state.keep(stretches[1], parts[1])
    state.fold()
    state.fold()
    assert state.sums()["a/all"].tolist() == [111, 111]
    assert state.rows()["a/vectors"][:, 0].tolist() == [0, 1, 2]
    assert {path.name for path in tmp_path.iterdir()} == {"sums.npz", *(f"fit-0000{n}.npz" for n in range(3))}
    for name, torn in (("fit-00002.npz", b"PK torn"), ("sums.npz", (tmp_path / "sums.npz").read_bytes()[:-1] + b"x")):
        (tmp_path / name).write_bytes(torn)
        with pytest.raises(DamagedError, match=rf"{name}: .* digest.*; delete .*, `diffps probe` makes it anew"):
            state.rows() if name[0] == "f" else state.sums()


def test_without_identities_only_detection_is_probed(project: ProbeProject) -> None:
    params = project.params()
    known = read_annotations(INDEX)
    nameless = {name: Annotations(each.boxes, np.full_like(each.identities, -1)) for name, each in known.items()}
    plans = plan_probe(project.file(), params.encode, params.extract, read_scenes(INDEX), nameless, 5)
    project.gather(plans[0])
    said = " ".join(project.results(plans))
    assert "Only detection is probed: the sample has no identities" in said
    assert "Re-ID" not in said
    rows = pq.read_table(PROBE / "table.parquet").to_pylist()
    assert all(np.isnan(row["reid_map"]) for row in rows if row["kind"] == "tap")
    assert not list(PROBE.glob("taps-*.yaml"))
    assert not (PROBE / "sweep.yaml").exists()


def test_an_unreadable_image_is_left_out_when_that_is_asked_for(project: ProbeProject) -> None:
    (plan,) = project.plans()
    broken = plan.sample.scenes[4]
    path = ImageFolder.of(project.params().index).file(broken)
    Image.new("RGB", (96, 96)).save(path)
    with pytest.raises(ImageError, match=broken.scene_id):
        project.gather(plan)
    params = project.params()
    runtime = replace(project.runtime, skip_unreadable=True)
    gather(plan, ImageFolder.of(params.index), runtime, QuietJob(), None)
    said = project.results([plan])
    assert "1 of 10 images could not be read and were left out." in said
    assert "9 scenes" in said[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": ["mid-vit-block0-self-map"]}, "mid-vit-block0-self-map is a self-map, not a grid of features"),
        ({"taps": ["up-level3-repeat0-res-in"]}, "nearest is 'up-level3-repeat0-res-"),
        ({"timesteps": [1000]}, r"probe.yaml: timesteps \[1000\]"),
        ({"timesteps": [0, 0]}, "names something twice"),
        ({"budgets": [0]}, "must be above 0"),
        ({"strips": 5}, "strips 5: must divide 24"),
        ({"scene": 5}, "scene is not a parameter; nearest: scenes"),
        ({"control": "builtin:nothing"}, "builtin:nothing"),
    ],
)
def test_what_a_probe_file_may_not_say(project: ProbeProject, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DiffPSError, match=message):
        project.plans(**change)


@pytest.mark.parametrize("path", sorted((ROOT / "presets/probe").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_files_that_come_with_it_plan_every_tap(project: ProbeProject, path: Path) -> None:
    params = project.params()
    config = replace(read_probe_file(path), scenes=4)
    plans = plan_probe(config, params.encode, params.extract, read_scenes(INDEX), read_annotations(INDEX))
    plan = plans[0]
    assert len(plan.reads.taps) == 165
    assert [len(each.reads.taps) for each in plans[1:]] == ([] if config.control is None else [165])
    assert plan.unet.extract.timesteps == config.timesteps
    assert config.budgets


def test_a_file_that_is_not_there(project: ProbeProject) -> None:
    with pytest.raises(
        ConfigError, match=r"probe.file nothing.yaml: cannot be read .*there are: params.yaml, probe.yaml"
    ):
        project.file()
        read_probe_file(Path("nothing.yaml"))


def test_too_little_memory_is_said_before_anything_is_computed(project: ProbeProject) -> None:
    (plan,) = project.plans()
    assert "beside the models" in check_memory(plan, project.runtime)
    with pytest.raises(ConfigError, match=r"probe: needs .* beside the models .* 1 [kM]?B are free: take a smaller"):
        check_memory(plan, project.runtime, free=1000)
    persons = 2 * max(map(len, plan.sample.boxes))
    batch = project.runtime.batch
    needed = memory(plan.reads, plan.rules, batch, persons)  # over a stretch of two scenes
    total = needed.features + 2 * (needed.sums + needed.vectors) + 2 * needed.sums  # two timesteps, and sums once more
    free = next(free for free in range(int(1.25 * total), 2 * total) if 0.8 * free >= total)
    assert check_memory(plan, project.runtime, free) == f"{size(total)} beside the models"
    with pytest.raises(
        ConfigError, match=f"needs {size(total)} .*{size(needed.features)} for {batch} images, {size(needed.sums)} of"
    ):
        check_memory(plan, project.runtime, free - 1)


def test_a_sample_of_one_scene(project: ProbeProject) -> None:
    params = project.params()
    scenes, annotations = read_scenes(INDEX), read_annotations(INDEX)
    with pytest.raises(DatasetError, match="needs two or more"):
        plan_probe(project.file(), params.encode, params.extract, scenes[:1], annotations)


def test_a_dry_run_writes_nothing(project: ProbeProject) -> None:
    project.file(control="builtin:random")
    text = probe.dry_run(project.params(), project.runtime, QuietJob())
    assert "10 scenes" in text
    first, *lines = text.splitlines()
    persons = sum(map(len, project.plans()[0].sample.boxes))
    assert first == f"probe: 10 scenes, {persons} persons, t = 0, 100 -> {PROBE}; no feature is stored"
    known, blank = lines[-2:]
    assert known.startswith(f"  {project.params().encode.checkpoint}: 3 taps and 16 word maps, ")
    assert blank.startswith("  builtin:random: 3 taps and 0 word maps, ")
    assert ", parts in results/probe/parts/" in known
    assert not PROBE.exists()


@pytest.mark.slow
def test_workers_give_the_same_table(project: ProbeProject) -> None:
    (plan,) = project.plans()
    project.gather(plan)
    project.results([plan])
    expected = pq.read_table(PROBE / "table.parquet").to_pylist()
    shutil.rmtree(PROBE)
    project.file()
    probe.run(project.params(), replace(project.runtime, scheduler="local:2"), QuietJob())
    found = pq.read_table(PROBE / "table.parquet").to_pylist()
    for one, other in zip(expected, found, strict=True):
        for key, value in one.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, abs=1e-6, nan_ok=True), (one["name"], key)
            else:
                assert other[key] == value


def test_a_score_outside_of_chance_is_named() -> None:
    within, outside = Detection(dealt=-0.01, bound=0.02), ReID(dealt=-0.03, bound=0.02)
    said = dealt_sentence({"a": outside, "b": ReID()}, {"a": within, "b": within})
    assert said.startswith("CHECK: with labels dealt anew 1 of 3 scores lie outside")
    assert "furthest re-ID from a, below" in said
    assert dealt_sentence({}, {"a": within}) == "With labels dealt anew all 1 scores lie within chance, as they must."


@pytest.mark.parametrize(
    ("tap", "place"),
    [
        ("up-level3-repeat0-vit-block0-self-k", ("up-level3-repeat0", "vit-block0-self-k")),
        ("down-level1-downsampler-out", ("down-level1", "downsampler-out")),
        ("mid-repeat1-res-out", ("mid-repeat1", "res-out")),
        ("mid-vit-out", ("mid", "vit-out")),
        ("unet-after-conv-in", ("unet", "after-conv-in")),
        ("vit-block07-self-q", ("vit-block07", "self-q")),
        ("joint-block07-img-out", ("joint-block07", "img-out")),
        ("cnn-stage3-block05-out", ("cnn-stage3-block05", "out")),
    ],
)
def test_a_tap_has_a_block_and_a_module(tap: str, place: tuple[str, str]) -> None:
    assert place_of(tap) == place


def test_no_two_taps_share_a_place() -> None:
    grids = [tap for tap, spec in standard_taps().items() if spec.kind == "grid"]
    assert len({place_of(tap) for tap in grids}) == len(grids)
