"""What is installed from a package works outside of the repository, and says what it was built from."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from diffps.errors import ConfigError
from pipeline.init import init_project, presets
from tests.world import ROOT, write_params

CODE = ("pipeline", "stages", "diffps", "cache", "presets")


def without_code(text: str) -> Any:
    content = YAML(typ="safe", pure=True).load(text)
    for stage in content["stages"].values():
        stage["deps"] = [path for path in stage.get("deps", []) if path.split("/")[0] not in CODE or "." in path]
        stage["deps"] = [path for path in stage["deps"] if not path.endswith(".py")]
    return content


def test_the_pipeline_of_a_project_is_ours_without_the_code() -> None:
    ours, own = ((ROOT / name).read_text() for name in ("dvc.yaml", "presets/project/pipeline.yaml"))
    assert without_code(own) == without_code(ours)
    assert not re.search(r"^      - (diffps|cache|stages)\b", own, re.M)
    assert (ROOT / "presets/project/dvcignore").read_text() == (ROOT / ".dvcignore").read_text()


@pytest.mark.parametrize("preset", presets())
def test_every_preset_begins_a_project(tmp_path: Path, preset: str) -> None:
    written = init_project(preset, tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(written)
    params = YAML(typ="safe", pure=True).load(tmp_path / "params.yaml")
    assert (tmp_path / params["sweep"]["file"]).is_file()
    before = {name: (tmp_path / name).stat().st_mtime_ns for name in written}
    assert init_project(preset, tmp_path) == written  # again: nothing to object to
    assert before.keys() == set(written)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("mine")
    with pytest.raises(ConfigError, match="dvc.yaml is there already"):
        init_project("demo", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dvc.yaml"]
    with pytest.raises(ConfigError, match="no preset 'demmo'; nearest: demo"):
        init_project("demmo", tmp_path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An sdist of what git has here, and the wheel made from that sdist."""
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("packages")
    source = folder / "source"
    # Linked, as a build writes beside the code it finds.
    subprocess.run(["git", "clone", "-q", "--shared", ROOT, source], check=True)
    for path in subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0"):
        if path and (ROOT / path).is_file():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, source / path)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def test_the_wheel_holds_the_program_and_no_tests(packages: tuple[Path, Path]) -> None:
    sdist, wheel = packages
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == set(CODE)
    tracked = subprocess.run(["git", "ls-files", *CODE], cwd=ROOT, check=True, capture_output=True, text=True)
    missing = {path for path in tracked.stdout.split("\n") if path and (ROOT / path).is_file()} - set(names)
    assert missing == set()
    assert not [name for name in names if name.endswith(".pyc")]
    with tarfile.open(sdist) as archive:
        members = archive.getnames()
    assert [name for name in members if name.endswith("/pipeline/commit.txt")]


def test_installed_it_works_in_an_empty_folder(packages: tuple[Path, Path], tmp_path: Path) -> None:
    """Dependencies are this environment's; the program is the package's alone."""
    place, project = tmp_path / "installed", tmp_path / "empty"
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", place, packages[1]]
    subprocess.run(command, check=True)
    project.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(place),
        "PATH": os.pathsep.join([str(place / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
    }

    def run(*arguments: str) -> str:
        done = subprocess.run(
            arguments, cwd=project, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"{arguments}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    where = "import pipeline, stages, diffps, cache; print(pipeline.__file__, stages.__file__, diffps.__file__)"
    assert run(sys.executable, "-c", where).count(str(place)) == 3
    assert re.fullmatch(r"diffps \S+ \(commit [0-9a-f]{7,}\+?\)\n", run("diffps", "--version"))
    assert "dvc.yaml" in run("diffps", "init")
    write_params(project)
    assert "Running stage 'index'" in run("dvc", "repro", "index")
    assert (project / "data/index/images.parquet").is_file()
    assert run("dvc", "repro", "index").count("Running stage") == 0
    assert "index" in run(sys.executable, "-m", "diffps", "--help")


@pytest.mark.slow
def test_a_project_begun_anywhere_runs_whole(tmp_path: Path) -> None:
    """As `diffps init` leaves it, with smaller parameters: no code beside it, no git around it."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "DVC_NO_ANALYTICS": "1",
    }

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run("diffps", "init", "demo")
    write_params(tmp_path)
    assert run("dvc", "repro").count("Running stage") == 7
    assert (tmp_path / "results/report/index.html").is_file()
    assert run("dvc", "repro").count("Running stage") == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_can_complete(shell: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("diffps")],
        env=os.environ | {"_DIFFPS_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_DIFFPS_COMPLETE" in done.stdout or "_diffps_completion" in done.stdout
