import io
import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pipeline.runtime import Shell


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def events(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_outside_a_terminal_long_work_reports_lines_with_everything_in_them(tmp_path: Path) -> None:
    out = io.StringIO()
    shell = Shell(tmp_path / "log.jsonl", out, line_seconds=0.02)
    with shell.track("extract", 4, "images") as work:
        work.advance(2, 3_000_000)
        while out.getvalue().count("\n") < 2:
            time.sleep(0.01)
        work.advance(2, 1_000_000)
    first, last = out.getvalue().splitlines()[0], out.getvalue().splitlines()[-1]
    assert first.startswith("extract: 2/4 images, ")
    assert "/s, " in first
    assert " left, 3 MB" in first
    assert last.startswith("extract: 4/4 images, ")
    assert ", 4 MB, in " in last
    assert " left" not in last
    end = events(tmp_path / "log.jsonl")[-1]
    assert {key: end[key] for key in ("event", "label", "done", "total", "unit", "bytes")} == {
        "event": "end",
        "label": "extract",
        "done": 4,
        "total": 4,
        "unit": "images",
        "bytes": 4_000_000,
    }


def test_short_work_reports_once(tmp_path: Path) -> None:
    out = io.StringIO()
    with Shell(tmp_path / "log.jsonl", out).track("index", 3, "frames") as work:
        work.advance(3)
    assert out.getvalue().count("\n") == 1


def test_in_a_terminal_there_is_a_bar_and_messages_stand_above_it(tmp_path: Path) -> None:
    out = Terminal()
    shell = Shell(tmp_path / "log.jsonl", out)
    with shell.track("train [1]", 2, "epochs") as work, shell.track("epoch", 1, "batches") as inner:
        shell.say("loss 1.0 [not markup]")
        inner.advance()
        work.advance(2)
    text = out.getvalue()
    assert "train [1]" in text
    assert "2/2 epochs" in text
    assert "loss 1.0 [not markup]" in text


def test_work_that_fails_still_says_how_far_it_came(tmp_path: Path) -> None:
    out = io.StringIO()
    shell = Shell(tmp_path / "log.jsonl", out)
    with pytest.raises(RuntimeError), shell.track("encode", 5, "images") as work:
        work.advance()
        raise RuntimeError
    assert out.getvalue().startswith("encode: 1/5 images")
    assert events(tmp_path / "log.jsonl")[-1]["done"] == 1


def test_what_is_said_goes_to_people_and_with_its_fields_to_the_log(tmp_path: Path) -> None:
    out = io.StringIO()
    shell = Shell(tmp_path / "results" / "index" / "log.jsonl", out)
    shell.say("12 scenes", scenes=12, root=Path("data"))
    assert out.getvalue() == "12 scenes\n"
    (event,) = events(tmp_path / "results" / "index" / "log.jsonl")
    assert event["message"] == "12 scenes"
    assert event["scenes"] == 12
    assert event["root"] == "data"


SCRIPT = """
import sys, time
from pathlib import Path
from pipeline.runtime import Shell
shell = Shell(Path(sys.argv[1]))
with shell.signals():
    print("ready", flush=True)
    while not (shell.stopping and sys.argv[2] == "polite"):
        time.sleep(0.01)
    time.sleep(0.1)
    print("finished the shard", flush=True)
sys.exit(128 + shell.signal)
"""


def start(tmp_path: Path, manner: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / "log.jsonl"), manner]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_lets_the_work_at_hand_finish(tmp_path: Path, number: int, code: int) -> None:
    process = start(tmp_path, "polite")
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == "finished the shard\n"
    assert "once more to stop now" in err
    assert process.returncode == code


@pytest.mark.parametrize(("second", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_second_signal_stops_now(tmp_path: Path, second: int, code: int) -> None:
    process = start(tmp_path, "deaf")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "once more" not in process.stderr.readline():
        pass
    process.send_signal(second)
    out, _ = process.communicate(timeout=60)
    assert out == ""
    assert process.returncode == code


def test_signals_are_as_before_afterwards(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Shell(tmp_path / "log.jsonl").signals():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
