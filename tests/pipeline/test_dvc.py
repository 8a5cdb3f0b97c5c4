"""What runs again and what does not, with DVC itself in a small project."""

import re
import shlex
import shutil
import signal
import subprocess
import time

import pytest

from tests.pipeline.project import Project
from tests.world import ROOT

STORE = "data/features"
ONE_HEAD = ["train", "evaluate", "report"]


def arrays(project: Project) -> dict[str, tuple[int, int]]:
    return project.files(f"{STORE}/features.zarr")


def test_the_whole_pipeline_runs_and_a_second_repro_does_nothing(finished: Project) -> None:
    before = finished.files("results")
    assert finished.repro() == []
    assert finished.would_run() == set()
    assert finished.files("results") == before
    assert (finished.root / "results/report/index.html").stat().st_size > 10_000
    assert (finished.root / "results/report/summary.txt").read_text().strip()
    assert "baseline_map" in finished.run("dvc", "metrics", "show").stdout


@pytest.mark.slow
def test_the_commands_of_the_readme_run_one_after_the_other(project: Project) -> None:
    """In small: the presets' data, terabytes, are not here, so they are looked at as before buying a disk."""
    shutil.copytree(ROOT / "presets", project.root / "presets")
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert len(commands) > 8
    for command in commands:
        if command[0] == "make":  # `make test` is this run; `make demo` in small is the pipeline before it
            continue
        missing = command[:2] == ["diffps", "doctor"]  # says that neither checkpoint nor dataset lies here
        done = project.run(*command, check=not missing)
        assert "Traceback" not in done.stderr
        if missing:
            assert "checkpoint models/sd21-base: not on this machine; `diffps encode` fetches" in done.stderr
            assert "no folder data/prw" in done.stderr
        if command[0] == "cp":
            assert (project.root / command[2]).read_text() == (ROOT / command[1]).read_text()
            project.params()


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"train": {"lr": 5e-4}}, {"train", "report"}),
        ({"train": {"model": {"dgrpn": None}}}, {"train", "report"}),
        ({"evaluate": {"score_threshold": 0.3}}, {"evaluate", "sweep", "report"}),
        ({"report": {"title": "Other"}}, {"report"}),
        ({"runtime": {"batch": 3, "readers": 1}}, set()),
        ({"extract": {"timesteps": [0, 50]}}, {"extract", "report"}),
    ],
)
def test_a_change_reaches_the_stages_it_concerns(
    finished: Project, changes: dict[str, object], stages: set[str]
) -> None:
    try:
        finished.params(changes)
        assert finished.would_run() == stages
    finally:
        finished.params()


@pytest.mark.slow
def test_a_changed_head_runs_train_and_later_and_extracts_nothing(project: Project) -> None:
    before = project.files(STORE)
    project.params({"train": {"model": {"sfan": None}}})
    assert project.repro() == ONE_HEAD
    assert project.files(STORE) == before


@pytest.mark.slow
def test_one_more_timestep_extracts_only_that_and_retrains_nothing(project: Project) -> None:
    before = arrays(project)
    head = project.files("results/train/head")
    project.params({"extract": {"timesteps": [0, 50]}})
    ran = project.repro()
    after = arrays(project)
    assert ran[0] == "extract"
    assert not {"index", "encode", "train", "evaluate"} & set(ran)
    assert {name: after[name] for name in before if "/c/" in name} == {
        name: stat for name, stat in before.items() if "/c/" in name
    }
    new = set(after) - set(before)
    assert new
    assert all("/t50/" in name or name.endswith("zarr.json") for name in new)
    assert project.files("results/train/head") == head


@pytest.mark.slow
def test_changed_gallery_rules_extract_and_train_nothing(project: Project) -> None:
    store, head = project.files(STORE), project.files("results/train/head")
    project.params({"evaluate": {"score_threshold": 0.3}})
    ran = project.repro()
    assert ran[0] == "evaluate"
    assert not {"index", "encode", "extract", "train"} & set(ran)
    assert project.files(STORE) == store
    assert project.files("results/train/head") == head


@pytest.mark.slow
def test_a_clone_without_the_store_extracts_again_to_the_same_bytes(project: Project) -> None:
    """Even with the dvc.lock of a finished run at hand."""
    shards = {path: (project.root / path).read_bytes() for path in arrays(project)}
    shutil.rmtree(project.root / "data")
    project.run("git", "checkout", "--", "data")
    shutil.rmtree(project.root / ".dvc" / "cache")
    ran = project.repro()
    assert {"index", "encode", "extract"} <= set(ran)
    assert {path: (project.root / path).read_bytes() for path in arrays(project)} == shards


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_extraction_stopped_anywhere_goes_on_to_the_same_bytes(project: Project, number: int) -> None:
    shards = {path: (project.root / path).read_bytes() for path in arrays(project)}
    shutil.rmtree(project.root / STORE)
    project.run("diffps", "encode")
    process = subprocess.Popen(
        ["diffps", "extract"], cwd=project.root, env=project.environment, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list((project.root / STORE / "receipts").rglob("t0/*.json")):
        time.sleep(0.05)
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode in {128 + number, -number, 0}
    project.run("diffps", "extract")
    assert {path: (project.root / path).read_bytes() for path in arrays(project)} == shards
    project.run("diffps", "cache", "verify")


@pytest.mark.slow
def test_a_temporary_experiment_uses_the_store_of_the_checkout(project: Project) -> None:
    project.commit()
    before = arrays(project)
    project.run("dvc", "exp", "run", "--temp", "--set-param", "train.lr=0.0005")
    assert arrays(project) == before
