import subprocess
import sys

import pytest
from typer.main import get_command

from tests.architecture.repository import ROOT, STAGES

COMMANDS = {*STAGES, "init", "doctor", "figure", "search", "cache", "head", "params", "forget", "verify"}
CACHE_COMMANDS = {"plan", "status", "verify", "explain", "gc", "export", "stats", "transcode"}
SLOW = {"torch", "zarr", "numpy", "pydantic", "rich", "dask", "pyarrow", "matplotlib"}


@pytest.fixture(scope="module")
def command():  # type: ignore[no-untyped-def]
    from pipeline.cli import app

    return get_command(app)


def test_the_commands_are_these(command) -> None:  # type: ignore[no-untyped-def]
    assert set(command.commands) == COMMANDS
    assert set(command.commands["cache"].commands) == CACHE_COMMANDS


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_takes_three_options_and_nothing_else(command, stage: str) -> None:  # type: ignore[no-untyped-def]
    names = {option for parameter in command.commands[stage].params for option in parameter.opts}
    allowed = {"--params", "--set", "--dry-run"}
    allowed |= {"report": {"--open", "--with"}, "index": {"--check"}}.get(stage, set())
    assert names == allowed


def test_what_becomes_of_heads(command) -> None:  # type: ignore[no-untyped-def]
    assert set(command.commands["head"].commands) == {"push", "pull", "calibrate", "export"}


def test_help_loads_nothing_slow() -> None:
    script = "import sys, pipeline.cli\nsys.argv = ['diffps', '--help']\ntry:\n    pipeline.cli.main()\n"
    script += "except SystemExit as done:\n    assert not done.code\n"
    script += (
        "slow = {'torch', 'zarr', 'numpy', 'pydantic', 'rich', 'dask', 'pyarrow', 'matplotlib'} & set(sys.modules)\n"
    )
    script += "assert not slow, slow"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert name in done.stdout
