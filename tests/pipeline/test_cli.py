import json
import os
import signal
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import stages.calibrate
import stages.doctor
import stages.figure
import stages.find
import stages.forget
import stages.index
import stages.pretrain
import stages.report
import stages.train
import stages.verify
from cache.errors import CacheError
from diffps.errors import DatasetError
from diffps.pretraining.config import PretrainConfig
from pipeline.cli import main
from pipeline.config import load_params
from pipeline.runtime import Shell
from stages.config_data import IndexConfig
from stages.find import SearchRequest
from stages.job import Job, Runtime, StoppedError
from stages.params import Params

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


class Asked:
    """Stands for a stage's function, and keeps what it was called with, but for runtime and job."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[object], dict[str, object]]] = []

    def __call__(self, *values: object, **options: object) -> None:
        kept = [value for value in values if not isinstance(value, Runtime | Shell | Params | PretrainConfig)]
        self.calls.append((kept, options))


@pytest.mark.parametrize(
    ("command", "stage", "values", "options"),
    [
        (["forget", "a.png"], stages.forget, [Path("other/head"), ("a.png",)], {"heads": False, "dry": False}),
        (
            ["forget", "--heads", "a.png"],
            stages.forget,
            [Path("other/head"), ("a.png",)],
            {"heads": True, "dry": False},
        ),
        (
            ["forget", "--dry-run", "--person", "anna", "--folder", "x"],
            stages.forget,
            [Path("other/head"), ()],
            {"heads": False, "dry": True, "person": "anna", "folder": "x"},
        ),
        (["head", "calibrate"], stages.calibrate, ["held-out"], {}),
        (["head", "calibrate", "--people", "test"], stages.calibrate, ["test"], {}),
        (["figure", "pca"], stages.figure, ["pca"], {}),
        (["verify"], stages.verify, [Path("other/head")], {}),
        (["report", "--with", "a", "--with", "b"], stages.report, [[Path("a"), Path("b")]], {}),
        (["report"], stages.report, [], {}),
        (["pretrain"], stages.pretrain, [], {}),
        (["doctor"], stages.doctor, [], {}),
    ],
)
def test_a_command_hands_on_what_it_was_given(
    run: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    stage: Any,
    values: list[object],
    options: dict[str, object],
) -> None:
    asked = Asked()
    monkeypatch.setattr(stage, "run", asked)
    given = [] if command == ["pretrain"] else ["--set", "evaluate.head=other/head"]
    assert run(*command, *given) == 0
    ((found, named),) = asked.calls
    assert [value for value in found if not isinstance(value, IndexConfig)] == values
    assert named == ({"person": "", "folder": ""} | options if command[0] == "forget" else options)


def test_the_log_of_a_command_says_how_it_was_called_and_never_whom_it_was_about(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("forget", "find", "report", "train"):
        monkeypatch.setattr(getattr(stages, name), "run", Asked())
    setting = ("--set", "train.lr=0.1")
    said = {"params": "params.yaml", "overrides": ["train.lr=0.1"]}
    for command, expected in (
        (("forget", "anna.png"), {"params": "params.yaml"}),
        (("search", "anna.png"), {}),
        (("report", "--with", "a"), said),
        (("train",), said),
    ):
        assert run(*command, *setting) == 0
        lines = Path(f"results/{command[0]}/log.jsonl").read_text().splitlines()
        first, last = (json.loads(line) for line in lines)
        assert {k: v for k, v in first.items() if k != "time"} == {"event": "run", "command": command[0], **expected}
        assert (last["event"], 0 <= last["seconds"] < 3600) == ("finished", True)


def test_a_search_asks_for_what_was_typed_and_for_the_defaults_else(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    answered, served = Asked(), Asked()
    monkeypatch.setattr(stages.find, "run", answered)
    monkeypatch.setattr(stages.find, "serve", served)
    assert run("search", "q.jpg", "--set", "evaluate.head=mine") == 0
    plain = answered.calls.pop()[0][0]
    index = load_params(Path("params.yaml"))[0].index
    assert plain == SearchRequest(query=Path("q.jpg"), folder=None, index=index, head="mine", top=20, promise=0.01)
    (tmp_path / "params.yaml").unlink()  # outside of a project none is missed
    typed = "--in photos --box 1,2,30,40 --person 2 --also b.jpg --head x/y --revision r --checkpoint c --top 3"
    more = "--promise 0.2 --format csv --keep-features --anyway"
    assert run("search", "q.jpg", *typed.split(), *more.split()) == 0
    assert answered.calls.pop()[0][0] == SearchRequest(
        query=Path("q.jpg"),
        folder=Path("photos"),
        box=(1, 2, 30, 40),
        person=2,
        also=(Path("b.jpg"),),
        head="x/y",
        revision="r",
        checkpoint="c",
        top=3,
        promise=0.2,
        keep_features=True,
        anyway=True,
        format="csv",
    )
    assert run("search", "--serve") == 0
    assert served.calls.pop()[0][0] == SearchRequest(query=None, folder=None)
    for top, code in (("0", 2), ("1", 0), ("10000", 0), ("10001", 2)):
        assert run("search", "q.jpg", "--top", top) == code
    assert run("search", "q.jpg", "--format", "xml") == 2
    assert run("search", "q.jpg", "--params", "absent.yaml") == 2
    assert run("search", "q.jpg", "--set", "train.lr=1") == 2  # of which file?
    assert len(answered.calls) == 2
    assert not served.calls


def test_the_page_is_shown_where_that_is_asked_for_and_it_was_written(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(stages.report, "run", Asked())
    monkeypatch.setattr(webbrowser, "open", shown.append)
    for options in ((), ("--dry-run", "--open"), ("--with", "a", "--dry-run")):
        assert run("report", *options) == 0
    assert shown == []
    assert run("report", "--open") == 0
    assert shown == [(tmp_path / "results/report/index.html").as_uri()]


def test_reference_and_schemas_are_printed_as_they_lie_in_the_repository(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for option, name in (
        ((), "docs/parameters.md"),
        (("--schema",), "presets/params.schema.json"),
        (("--sweep-schema",), "presets/sweeps/sweep.schema.json"),
        (("--probe-schema",), "presets/probe/probe.schema.json"),
    ):
        assert run("params", *option) == 0
        assert capsys.readouterr().out == (ROOT / name).read_text(), name


@pytest.mark.parametrize("command", [(), ("cache",), ("head",)])
def test_without_a_command_there_is_help(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    run(*command)
    told = capsys.readouterr()
    assert "Usage: " in told.out + told.err
    assert "Missing command" not in told.out + told.err


def test_a_new_project_names_what_lies_at_its_top_and_counts_the_rest(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "params.yaml").unlink()
    assert run("init") == 0
    first = capsys.readouterr().out.splitlines()[0]
    count = sum(path.is_file() for path in tmp_path.rglob("*"))
    assert first == f"wrote .dvcignore, .gitignore, dvc.yaml, params.yaml and {count} files in all"
    assert "no_scm = true" in (tmp_path / ".dvc/config").read_text()
    assert run("init") == 0  # the same again changes nothing
    (tmp_path / "dvc.yaml").write_text("other")
    assert run("init") == 2
    assert "dvc.yaml is there already, of another content" in capsys.readouterr().err
    assert run("init", "demmo") == 2
    assert "no preset 'demmo'; nearest: demo; there are: " in capsys.readouterr().err


def test_a_size_of_a_disk_is_read_in_its_unit(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ("0GB", "-1GB", "5", "GB", "5XB", "1e999GB"):
        assert run("cache", "plan", "--disk", wrong) == 2, wrong
        assert f"{wrong}: expected a size such as 500GB or 2TB" in " ".join(capsys.readouterr().err.split()), wrong
    for rate in ("-1", "inf", "nan"):
        assert run("cache", "plan", "--rate", rate) == 2
        assert "expected images per second" in " ".join(capsys.readouterr().err.split())
