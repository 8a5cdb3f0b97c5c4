import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

import stages.index
from cache.errors import CacheError
from diffps.errors import DatasetError
from pipeline.cli import main
from stages.job import Job, StoppedError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`diffps ARGUMENTS` in an empty folder with the demo's parameters; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["diffps", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        return int(done.value.code or 0)

    return call


def index_does(monkeypatch: pytest.MonkeyPatch, action: Callable[[Job], None]) -> None:
    monkeypatch.setattr(stages.index, "run", lambda params, runtime, job: action(job))


def fail(error: BaseException) -> Callable[[Job], None]:
    def action(job: Job) -> None:
        raise error

    return action


def logged(folder: Path) -> list[str]:
    lines = (folder / "results" / "index" / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.parametrize("error", [DatasetError("no frames in data"), CacheError("no frames in data")])
def test_what_the_user_can_mend_is_one_line_and_code_2(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    index_does(monkeypatch, fail(error))
    assert run("index") == 2
    assert capsys.readouterr().err == "diffps: no frames in data\n"


def test_a_defect_of_ours_shows_its_traceback(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    index_does(monkeypatch, fail(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        run("index")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stage_that_stops_on_request_exits_with_the_signals_code(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    number: int,
    code: int,
) -> None:
    def stop(job: Job) -> None:
        assert not job.stopping
        os.kill(os.getpid(), number)
        assert job.stopping
        raise StoppedError

    index_does(monkeypatch, stop)
    assert run("index") == code
    assert "the same command continues" in capsys.readouterr().err
    assert logged(tmp_path) == ["run", "message"]


def test_ctrl_c_before_the_work_begins_is_130(run: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    index_does(monkeypatch, fail(KeyboardInterrupt()))
    assert run("index") == 130


def test_a_finished_stage_says_so_in_its_log(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    index_does(monkeypatch, lambda job: job.say("read"))
    assert run("index") == 0
    assert logged(tmp_path) == ["run", "message", "finished"]


def test_a_dry_run_writes_nothing(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("index", "--dry-run") == 0
    assert "streets" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def everything(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Content and time of change of every file below ``folder``."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_a_check_of_doubtful_data_is_code_2_names_the_key_and_changes_nothing(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own" / "images").mkdir(parents=True)
    Image.new("RGB", (90, 90)).save(tmp_path / "own" / "images" / "a.png")
    (tmp_path / "own" / "persons.csv").write_text("split,image,x,y,w,h,person\ntest,a.png,1,1,30,60,5555\n")
    before = everything(tmp_path)
    own = ("--set", "index.dataset=folder", "--set", "index.root=own")
    assert run("index", "--check", *own) == 2
    error = capsys.readouterr().err
    assert "index: plausibility\n" in error
    assert error.splitlines()[-1].startswith("diffps: doubtful: 1 boxes belong to a person named 5555")
    assert error.endswith("let it pass with index.tolerate=1\n")
    assert run("index", "--check", *own, "--set", "index.tolerate=1") == 0
    assert everything(tmp_path) == before
    assert run("index", *own) == 2
    assert not (tmp_path / "data").exists()
    assert run("index", *own, "--set", "index.tolerate=1") == 0
    assert (tmp_path / "data" / "index" / "report.json").exists()


def test_a_check_draws_no_streets(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(tmp_path)
    assert run("index", "--check") == 2
    assert "no streets are drawn yet; `diffps index` without --check draws them" in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("index", "--params", "absent.yaml"),
        ("index", "--set", "index.rooot=x"),
        ("train", "--set", "train.timestep=7"),
        ("figure", "no-such-figure"),
        ("index", "--no-such-option"),
        ("no-such-command",),
    ],
)
def test_wrong_arguments_are_code_2(
    run: Callable[..., int], arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("module", ["diffps", "pipeline", "pipeline.cli"])
def test_the_command_line_is_a_module_too(module: str) -> None:
    def said(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert said("--version").stdout.startswith(f"diffps {version('diffps')} (commit ")
    assert "extract" in said("--help").stdout
    wrong = said("anything")
    assert wrong.returncode == 2
    assert "anything" in wrong.stderr
