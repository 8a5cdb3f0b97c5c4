"""The store as the commands use it: maps of several heads, encodings made from another, what explain and gc say."""

import io
import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cache.budget import DiskRates
from cache.errors import DamagedError, NotCachedError, RecipeError
from diffps.datasets.tables import read_scenes
from diffps.features import Ref
from pipeline.cli import app
from stages import encode, extract
from stages.features.opening import open_store
from stages.features.transcode import current_names, transcode_pass
from stages.forecasts.store import plan_store
from stages.job import QuietJob
from stages.places import INDEX
from tests.stages.computers import extract_by, refuse
from tests.stages.test_store_changes import index_of
from tests.world import FLOAT16, KEPT, STORE, TAPS, Listener, Project

MAP = "up-level1-repeat0-vit-block0-cross-map.person"


@pytest.fixture
def project(small: Project) -> Project:
    return small


def transcode(project: Project, encoding: str, source: str = "float16") -> None:
    """The pass of the project's parameters, written again under ``encoding``."""
    params, store = project.params(), open_store(str(STORE))
    scenes = read_scenes(INDEX)
    transcode_pass(params.encode, params.extract, store, scenes, encoding, source, QuietJob(), takeover=False)


def test_maps_of_several_heads_lie_side_by_side(project: Project) -> None:
    """Each head is an array of its own; only its maps are computed, and heads go on asking for the plain name."""
    before = project.files()
    ids: dict[Any, str] = {}
    maps: dict[Any, Any] = {}
    for head in ("mean", 0, 1):
        section = {**FLOAT16, "head": head}
        project.run(extract, extract=section)
        spec = project.plan(extract=section).specs("train", "identity", 0)[MAP]
        ids[head] = spec.id
        reader = open_store(str(STORE)).reader([spec])
        maps[head] = reader.read_float(next(iter(open_store(str(STORE)).rows("train").scenes)), spec.name)
        first = next(iter(open_store(str(STORE)).rows("train").scenes))
        with project.source(extract=section) as source:
            (features,) = source.stream([[Ref(first)]], [MAP])
            assert np.array_equal(features[MAP].coefficients()[0, 0].numpy(), maps[head][..., 0])
    assert len(set(ids.values())) == 3
    assert not np.array_equal(maps[0], maps[1])
    found = project.files()
    assert {name: found[name] for name in before} == before
    added = set(found) - set(before)
    assert added
    assert all(f"/{MAP}@head" in name for name in added)
    for folder in Path("data/manifests/extract").rglob("t0"):
        assert {path.name for path in folder.glob(f"{MAP}*")} == {
            f"{MAP}.json",
            f"{MAP}@head0.json",
            f"{MAP}@head1.json",
        }


def test_the_mean_lies_where_it_always_did(project: Project) -> None:
    spec = project.plan(extract=FLOAT16).specs("train", "identity", 0)[MAP]
    assert spec.name == MAP
    assert spec.full_recipe["recipe"]["head"] == "mean"  # type: ignore[call-overload, index]
    extract_by(project, refuse, extract=FLOAT16)  # nothing is missing


def command(*arguments: str) -> str:
    """Output of a command of the command line, which must end well."""
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("encoding", [pytest.param("int8", marks=pytest.mark.slow), "project:16"])
def test_a_transcoded_store_is_trained_on_like_an_extracted_one(project: Project, encoding: str) -> None:
    project.params()
    ours = ["--set", f"extract.encoding={encoding}"]
    command("cache", "transcode", encoding)
    command("train", *ours)
    command("evaluate", *ours)
    assert json.loads(Path("results/evaluate/metrics.json").read_text())
    # What extraction would write: it finds nothing missing, changes no manifest and adds what DVC follows.
    before = project.files(), project.files("data/manifests")
    assert "nothing is missing" in command("extract", *ours)
    assert "nothing is missing" in command("extract", *ours)
    assert (project.files(), project.files("data/manifests")) == before
    read = json.loads(Path("data/inputs/train.json").read_text())["arrays"]
    assert {entry["encoding"] for entry in read} == {encoding, "float32"}
    command("train", *ours)
    assert "nothing to delete" in command("cache", "gc", "--params", "params.yaml", "--params", keep(encoding))


def keep(encoding: str) -> str:
    """A params file that asks for another encoding than params.yaml."""
    text = Path("params.yaml").read_text()
    assert text.count("encoding: int8") == 1
    other = "float16" if encoding == "int8" else encoding
    Path("other.yaml").write_text(text.replace("encoding: int8", f"encoding: {other}"))
    if other != "float16":
        Path("params.yaml").write_text(text.replace("encoding: int8", "encoding: float16"))
    return "other.yaml"


def test_transcoded_values_are_at_most_a_step_from_extracted_ones(
    extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for name in ("made", "direct"):
        project = Project.copy_of(extracted, tmp_path / name, monkeypatch)
        if name == "made":
            transcode(project, "int8")
        else:
            project.run(extract)
        specs = project.plan().specs("test", "identity", 0)
        store = open_store(str(STORE))
        assert [store.array(spec.path) for spec in specs.values()] == list(specs.values())  # the same ids
        reader = store.reader(list(specs.values()))
        scene = next(iter(store.rows("test").scenes))
        found.append({name: reader.read(scene, spec.name) for name, spec in specs.items() if "@" in spec.name})
    made, direct = found
    assert len(made) == 3
    for tap in made:
        steps = np.abs(made[tap].values.astype(int) - direct[tap].values)
        assert steps.max() <= 1
        assert steps.mean() < 0.05
        np.testing.assert_allclose(made[tap].scales, direct[tap].scales, rtol=2e-3)


def test_transcoding_needs_the_whole_source(project: Project) -> None:
    with pytest.raises(NotCachedError, match=r"int8: not in the store.*extract\.encoding=int8"):
        transcode(project, "project:16", source="int8")
    receipt = next((STORE / "receipts/train/identity").glob("*/t0/1.*.json"))
    receipt.unlink()
    with pytest.raises(NotCachedError, match=r"float16: lacks image .*extract\.encoding=float16"):
        transcode(project, "int8")


def test_renamed_and_copied_photographs_are_transcoded_like_others(project: Project) -> None:
    scenes = read_scenes(INDEX)
    first, photographs = scenes[0], Path(project.params().index.root)
    renamed, copy = replace(first, scene_id="renamed.jpg", path="renamed.jpg"), replace(first, scene_id="a_copy.jpg")
    (photographs / first.path).rename(photographs / renamed.path)
    shutil.copy(photographs / renamed.path, photographs / "a_copy.jpg")
    now = [renamed, *scenes[1:], replace(copy, path="a_copy.jpg")]
    index_of(now, {"renamed.jpg": first.scene_id, "a_copy.jpg": first.scene_id})
    job = Listener()
    project.run(encode, extract, job=job, extract=FLOAT16)
    transcode(project, "int8")
    project.run(extract, job=job)
    assert [line for line in job.lines if "extract" in line] == ["extract: nothing is missing"] * 2
    store = open_store(str(STORE))
    spec = project.plan().specs(first.split, "identity", 0)[KEPT[1]]
    names = current_names(store, spec, now)
    assert sorted(names) == sorted(scene.scene_id for scene in now if scene.split == first.split)
    reader = store.reader([spec])
    found = [reader.read_float(name, spec.name) for name in ("renamed.jpg", "a_copy.jpg")]
    np.testing.assert_array_equal(*found)
    command("cache", "export", spec.path, "--to", "out")
    assert {path.parent.name for path in Path("out").rglob("*.npy")} == {Path(name).name for name in names}
    shutil.rmtree(INDEX)
    command("cache", "export", spec.path, "--to", "all")
    assert {path.parent.name for path in Path("all").rglob("*.npy")} == set(names)
    assert set(current_names(store, spec, [])) == set(names)


def test_damaged_bases_are_named_and_extracting_again_makes_the_store_whole(project: Project) -> None:
    ours = {"encoding": "project:4", "taps": KEPT[:2]}
    sections: Any = {"extract": ours, "train": {"taps": {**TAPS, "level2": TAPS["level1"], "level3": TAPS["level1"]}}}
    project.run(extract, **sections)
    before, fitted = project.files(), project.files("data/features/bases")
    flipped, missing = (path for path in sorted((STORE / "features.zarr/train").rglob("*.basis")) if path.is_dir())
    data = bytearray((flipped / "c/0/0").read_bytes())
    data[7] ^= 1
    (flipped / "c/0/0").write_bytes(data)
    shutil.rmtree(missing)
    assert "0 missing" in command("cache", "status")
    assert "passes" in command("cache", "plan")
    damaged = CliRunner().invoke(app, ["cache", "verify"])
    assert damaged.exit_code == 1
    assert str(flipped) in damaged.output
    assert str(missing) in damaged.output
    command("cache", "verify", "--repair")
    job = Listener()
    project.run(extract, job=job, **sections)
    assert job.lines == ["extract: nothing is missing"]  # the shards are whole
    assert project.files() == before
    assert "nothing damaged" in command("cache", "verify")

    (torn,) = (STORE / "bases").rglob("*.npz")
    torn.write_bytes(torn.read_bytes()[:-30])
    with pytest.raises(DamagedError, match=rf"{torn}: the basis cannot be read .*delete the file") as raised:
        project.run(extract, **sections)
    assert "\n" not in str(raised.value)
    torn.unlink()
    project.run(extract, **sections)
    assert project.files() == before
    assert project.files("data/features/bases") == fitted


def test_a_copy_of_a_coarse_encoding_is_read_but_not_taken_for_the_real_one(project: Project) -> None:
    transcode(project, "int8")
    transcode(project, "bitround:5", source="int8")
    with project.source(extract={"encoding": "bitround:5"}) as source:
        assert source.shapes
    with pytest.raises(RecipeError, match="transcoded_from"):
        extract_by(project, refuse, extract={"encoding": "bitround:5"})


@pytest.mark.slow
def test_a_basis_stays_whatever_taps_and_images_come(project: Project) -> None:
    few = {"encoding": "project:4", "taps": KEPT[:2]}
    small = {**TAPS, "level2": TAPS["level1"], "level3": TAPS["level1"]}
    project.run(extract, extract=few, train={"taps": small})
    bases = project.files("data/features/bases")
    project.run(extract, extract={**few, "taps": KEPT})
    found = project.files("data/features/bases")
    assert {name: found[name] for name in bases} == bases
    # The same basis as when all taps are asked for at once: neighbours do not count.
    shutil.rmtree(STORE / "bases")
    shutil.rmtree(STORE)
    project.run(encode)
    project.run(extract, extract={**few, "taps": KEPT})
    assert project.files("data/features/bases").keys() == found.keys()
    assert all(
        np.array_equal(np.load(io.BytesIO(data))["vectors"], np.load(io.BytesIO(found[name]))["vectors"])
        for name, data in project.files("data/features/bases").items()
    )


def test_plan_measures_the_backbone_and_then_goes_by_the_receipts(project: Project) -> None:
    project.params()
    told = command("cache", "plan")
    for lines in (told, command("cache", "plan", "--measure")):
        assert "22 passes" in lines
        assert "break-even: " in lines
        assert all(float(seconds) > 0 for seconds in rates(lines))

    def recorded(receipts: str) -> float:
        found = [json.loads(path.read_text()) for path in (STORE / "receipts").glob(receipts)]
        assert sum(len(receipt["rows"]) for receipt in found) == 22
        return sum(float(receipt["info"]["seconds"]) for receipt in found) / 22

    assert rates(told) == (f"{recorded('*/*/*/*.json'):.3g}", f"{recorded('*/*/*/t0/*.json'):.3g}")
    shutil.rmtree(STORE)
    assert "no rate known" in command("cache", "plan")
    assert rates(command("cache", "plan", "--measure"))  # before there is a store


def rates(lines: str) -> tuple[str, ...]:
    """Seconds of the VAE and of the UNet that a plan goes by."""
    found = re.search(r"encode and extract: .* \(VAE (\S+) s an image, UNet (\S+) s a pass\)", lines)
    assert found is not None, lines
    return found.groups()


def test_plan_knows_what_an_epoch_reads(project: Project) -> None:
    sections: dict[str, Any] = {"extract": FLOAT16, "train": {"flip": "feature"}}
    project.run(extract, **sections)
    read = json.loads(Path("data/inputs/train.json").read_text())["arrays"]
    planned = plan_store(project.params(**sections), 3, 10**9, None, DiskRates(1.0, 1.0))
    assert planned.images == 8
    assert planned.images * planned.image_bytes == sum(entry["nbytes"] for entry in read)


def test_explain_and_gc_go_by_the_params_files(project: Project) -> None:
    """The store holds float16 on 64 x 128; params.yaml asks for it, the others for something else."""
    project.params(extract={"encoding": "float16"})
    assert "has every array" in command("cache", "explain")
    text = Path("params.yaml").read_text()
    Path("int8.yaml").write_text(text.replace("encoding: float16", "encoding: int8"))
    Path("wide.yaml").write_text(text.replace("  - 64\n  - 128\n", "  - 128\n  - 128\n"))

    lines = command("cache", "explain", "--params", "int8.yaml").splitlines()
    assert len(lines) == 3 * 3  # taps; maps and moments are the same ones
    assert all('encoding.name: "int8" != "float16"' in line for line in lines)
    assert not any("recipe" in line for line in lines)
    lines = command("cache", "explain", "--params", "wide.yaml").splitlines()
    assert len(lines) == 3 * 5
    assert all("canvas: [128,128] != [64,128]" in line for line in lines)
    line = command("cache", "explain", "--set", "extract.prompt=a person on a street").splitlines()[0]
    assert 'recipe.pass.prompt: "a person on a street" != "person"' in line
    assert len(line) < 500
    assert 'recipe.head: 1 != "mean"' in command("cache", "explain", "--set", "extract.head=1")

    transcode(project, "int8")
    Path("params.yaml").write_text(text)
    assert "nothing to delete" in command("cache", "gc", "--params", "params.yaml", "--params", "int8.yaml")
    everything = {spec.path for spec in open_store(str(STORE)).arrays()}
    refused = CliRunner().invoke(app, ["cache", "gc"], input="n\n")
    assert refused.exit_code == 1
    assert {spec.path for spec in open_store(str(STORE)).arrays()} == everything
    assert {line.split()[-1] for line in refused.output.splitlines() if "B  " in line} == {
        path for path in everything if path.endswith("@int8")
    }
    assert "freed" in command("cache", "gc", "--yes")
    assert {spec.path for spec in open_store(str(STORE)).arrays()} == {
        path for path in everything if not path.endswith("@int8")
    }
    extract_by(project, refuse, extract=FLOAT16)  # what is asked for is whole
    Path("params.yaml").write_text(text)
    command("cache", "gc", "--yes", "--params", "wide.yaml")
    assert open_store(str(STORE)).arrays() == []


def test_looking_after_an_extracted_store(project: Project) -> None:
    project.params(extract=FLOAT16)
    lines = command("cache", "status")
    assert lines.count("8 done, 0 missing, 0 skipped") == 2 * 5
    assert lines.count("6 done, 0 missing, 0 skipped") == 5
    assert "nothing damaged" in command("cache", "verify")
    specs = project.plan(extract=FLOAT16).specs("test", "identity", 0)
    tap, scores = specs[KEPT[1]], specs[MAP]
    assert "12 files" in command("cache", "export", tap.path, scores.path, "--to", "out")
    scene = next(iter(open_store(str(STORE)).rows("test").scenes))
    found = np.load(Path("out") / scene / f"{tap.name}.npy")
    np.testing.assert_array_equal(found, open_store(str(STORE)).reader([tap]).read_float(scene, tap.name))
    stats = command("cache", "stats", tap.path)
    assert "6 images of 2 x 4 x 96" in stats
    assert "median" in stats
    file = next(path for path in (STORE / "features.zarr" / tap.path / "c/1").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1])
    damaged = CliRunner().invoke(app, ["cache", "verify"])
    assert damaged.exit_code == 1
    assert str(file) in damaged.output
    before = project.files()
    command("cache", "verify", "--repair")
    project.run(extract, extract=FLOAT16)
    changed = {name for name, data in project.files().items() if before[name] != data}
    assert changed == {str(file.relative_to(STORE / "features.zarr"))}
    assert "nothing damaged" in command("cache", "verify")


@pytest.mark.parametrize("kind", ["moments", "tap", "map"])
def test_the_command_that_verify_names_repairs(project: Project, kind: str) -> None:
    """The store holds float16 and maps of the mean; params.yaml asks for int8 and another head's maps."""
    plan = project.plan(extract=FLOAT16)
    specs = plan.specs("test", "identity", 0)
    spec = {"moments": plan.moments("test", "identity"), "tap": specs[KEPT[1]], "map": specs[MAP]}[kind]
    before = project.files()
    file = next(path for path in (STORE / "features.zarr" / spec.path / "c/1").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:-1])

    project.params(extract={"encoding": "int8", "head": 1})
    expected = {
        "moments": "diffps encode",
        "tap": "diffps extract --set extract.encoding=float16",
        "map": "diffps extract --set extract.head=mean",
    }[kind]
    damaged = CliRunner().invoke(app, ["cache", "verify"])
    assert damaged.output.splitlines()[-1] == f"to repair: diffps cache verify --repair && {expected}"
    wide = CliRunner().invoke(app, ["cache", "verify", "--set", "encode.canvas=[128, 128]"])
    assert f"{spec.path}: params.yaml makes this under no encoding or head" in wide.output
    assert wide.output.splitlines()[-1].endswith("'encode.canvas=[128, 128]' --repair")

    for line in damaged.output.splitlines()[-1].removeprefix("to repair: ").split(" && "):
        command(*shlex.split(line)[1:])
    assert "nothing damaged" in command("cache", "verify")
    found = project.files()
    assert {name: found[name] for name in before} == before


def test_verify_repairs_the_own_arrays_last(project: Project) -> None:
    """What training reads is named by the last extraction; one array may be lost under two encodings."""
    transcode(project, "int8")
    for encoding in ("int8", "float16"):
        spec = project.plan(extract={"encoding": encoding}).specs("test", "identity", 0)[KEPT[1]]
        next(path for path in (STORE / "features.zarr" / spec.path / "c/1").rglob("*") if path.is_file()).unlink()
    project.params()
    damaged = CliRunner().invoke(app, ["cache", "verify"])
    commands = "diffps extract --set extract.encoding=float16 && diffps extract"
    assert damaged.output.splitlines()[-1] == f"to repair: diffps cache verify --repair && {commands}"
    assert f"`{commands}` writes exactly those" in command("cache", "verify", "--repair")
