"""The tutorials, as somebody follows them: every command in its order, every piece of Python, on the small world."""

import csv
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from typer.testing import CliRunner

from diffps.backbone.prior import Conditions, Prior, check_pass
from diffps.taps import FeatureName, standard_taps
from pipeline.cli import app
from pipeline.config import load_params
from tests.world import FLOAT16, LIGHT, ROOT, SMALLER, write_params

FOLDER = ROOT / "docs" / "tutorials"
KEPT = {**LIGHT, "extract": {**LIGHT["extract"], **FLOAT16}}


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (FOLDER / name).read_text(encoding="utf-8"), re.S)


def follow(name: str, without: str = "nothing") -> None:
    """Type the commands of a tutorial into the working directory; each has to succeed."""
    lines = [line for block in blocks(name, "bash") for line in block.splitlines() if line.startswith("diffps ")]
    assert lines
    for line in lines:
        if without not in line:
            result = CliRunner().invoke(app, shlex.split(line)[1:])
            assert result.exit_code == 0, f"{line}: {result.exception!r}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_a_tutorial_is_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 60


@pytest.mark.parametrize("name", ["extending-features.md", "extending-heads.md"])
def test_python_in_the_tutorials_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(blocks(name, "python")) > 0
    for code in blocks(name, "python"):
        exec(compile(code, name, "exec"), {})


def test_what_prw_costs_is_what_the_code_counts(tmp_path: Path) -> None:
    from diffps.features import FeatureShape
    from diffps.heads.costs import costs
    from diffps.model import build_searcher

    text = (FOLDER / "prw.md").read_text(encoding="utf-8")
    said = CliRunner().invoke(app, ["cache", "plan", "--params", str(ROOT / "presets/prw.yaml"), "--rate", "8"]).output
    assert " 776 GB  19776 files" in said
    assert "776 GB, 19,776 files" in text
    for preset, images in (("prw", 5704), ("fast", 1500)):
        params, _ = load_params(ROOT / f"presets/{preset}.yaml")
        train, canvas = params.train, params.encode.frame
        shapes = {}
        for name in train.taps.names:
            feature = FeatureName.parse(name)
            tap = standard_taps()[feature.tap]
            grid = canvas.height // tap.stride, canvas.width // tap.stride
            shapes[name] = FeatureShape(*grid, 1 if feature.word else tap.channels)
        with torch.device("meta"):
            searcher = build_searcher(train.model, train.taps, shapes, canvas, torch.zeros(4, 1024), 482)
        step = 3 * sum(part.forward_flops for part in costs(searcher, train.batch)) / train.batch
        assert f"{step / 1e12:.2f} TFLOP" in text
        whole = step * train.epochs * images / 1e15
        assert f"{whole:.{1 if whole < 10 else 0}f} PFLOP ({train.epochs} epochs of {images:,} images)" in text


def test_a_prior_is_added(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(indexed, project)
    monkeypatch.chdir(project)
    (weights,) = blocks("extending-priors.md", "python")
    exec(compile(weights, "weights", "exec"), {})
    (said,) = blocks("extending-priors.md", "yaml")
    write_params(project, YAML(typ="safe", pure=True).load(said))
    follow("extending-priors.md")
    assert Path("results/train/head").is_dir()


def test_a_family_is_added() -> None:
    names: dict[str, Any] = {}
    (family,) = blocks("extending-families.md", "python")
    exec(compile(family, "family", "exec"), names)
    prior: Prior = names["Brightness"]()
    check_pass(prior, (64, 128), ["mean"], [0], Conditions())
    pixels = torch.rand(2, 3, 64, 128) * 2 - 1
    starts = prior.open_encoder("cpu", "float32").moments(pixels)
    with prior.open_pass(["mean"], Conditions(), "cpu", "float32") as opened:
        found = opened.features(starts, 0, [])["mean"]
    assert found.shape == (2, 8, 16, 3)
    torch.testing.assert_close(found[1, 3, 5], (pixels[1, :, 24:32, 40:48].mean((1, 2)) + 1) / 2)
    wanted = {name for name in dir(Prior) if not name.startswith("_")}
    assert wanted <= set(dir(prior))


@pytest.mark.slow
def test_first_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    begin, *_ = blocks("first-steps.md", "bash")
    assert CliRunner().invoke(app, shlex.split(begin)[1:]).exit_code == 0
    write_params(tmp_path, LIGHT)
    follow("first-steps.md", without="diffps init")
    assert Path("results/report/index.html").is_file()


@pytest.mark.slow
def test_photographs(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_photographs(indexed, tmp_path / "data/mine")
    (said,) = blocks("photographs.md", "yaml")
    write_params(tmp_path, LIGHT | YAML(typ="safe", pure=True).load(said))
    follow("photographs.md")
    assert Path("results/report/index.html").is_file()


@pytest.mark.slow
def test_prw(indexed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn streets have PRW's layout, so they stand in for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(indexed / "data/streets", "data/prw")
    (tmp_path / "presets").symlink_to(ROOT / "presets")
    streets: dict[str, Any] = {**LIGHT, "index": {**SMALLER["index"], "dataset": "prw", "root": "data/prw"}}
    write_params(tmp_path, streets)
    follow("prw.md")
    assert Path("results/evaluate/metrics.json").is_file()


@pytest.mark.slow
def test_twenty_heads(extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(extracted, project)
    monkeypatch.chdir(project)
    write_params(project, KEPT)
    (project / "twenty.yaml").write_text(blocks("ablations.md", "yaml")[0])
    follow("ablations.md")
    assert len(pq.read_table("results/sweep/table.parquet")) == 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["extending-features.md", "extending-heads.md"])
def test_extending(name: str, extracted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(extracted, project)
    monkeypatch.chdir(project)
    write_params(project, {**KEPT, "extract": {**KEPT["extract"], "taps": [*KEPT["extract"]["taps"], "mid-vit-out"]}})
    follow(name, without="extract.unet")  # what it names is not there


def write_photographs(indexed: Path, folder: Path) -> None:
    """Drawn scenes as somebody's photographs, with their table."""
    index = indexed / "data/index"
    images = {row["scene_id"]: row for row in pq.read_table(index / "images.parquet").to_pylist()}
    (folder / "images").mkdir(parents=True)
    with (folder / "persons.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "image", "x", "y", "w", "h", "person", "camera"])
        for row in pq.read_table(index / "annotations.parquet").to_pylist():
            scene, (x1, y1, x2, y2) = images[row["scene_id"]], (row[key] for key in ("x1", "y1", "x2", "y2"))
            person = "" if row["identity"] < 0 else f"person {row['identity']}"
            name = Path(scene["path"]).name
            table.writerow([scene["split"], name, x1, y1, x2 - x1, y2 - y1, person, 1 if "c1" in name else 2])
            shutil.copy(indexed / "data/streets/frames" / name, folder / "images" / name)
