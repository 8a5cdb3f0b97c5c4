"""How a command runs a stage: the options all share, the shell around it, and what is told of errors."""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipeline.runtime import Shell

ParamsOption = Annotated[Path, typer.Option("--params", metavar="FILE", help="The parameters, one section a stage.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a parameter, e.g. train.lr=1e-3. Repeatable."),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be read and written, and stop.")]

PARAMS = Path("params.yaml")


def run_stage(name: str, params_file: Path, overrides: list[str], dry_run: bool) -> None:
    """One stage, or what it would do."""
    from pipeline.config import load_params

    stage = import_module(f"stages.{name}")
    params, runtime = load_params(params_file, overrides)
    said = {"params": str(params_file), "overrides": overrides}
    if dry_run:
        print(stage.dry_run(params, runtime, shell(name)))
    else:
        run_command(name, said, lambda job: stage.run(params, runtime, job))


def run_command(name: str, said: Mapping[str, object], run: "Callable[[Shell], None]") -> None:
    """``run`` with the shell around it, and ``said`` in its log; exits with 128 + the signal's number when it was
    stopped."""
    job = shell(name)
    job.record("run", command=name, **said)
    run_in(job, run)


def run_in(job: "Shell", run: "Callable[[Shell], None]") -> None:
    """``run`` with ``job`` around it; exits with 128 + the signal's number when it was stopped."""
    from stages.job import StoppedError

    began = time.monotonic()  # which nobody sets back
    with job.signals():
        try:
            run(job)
        except StoppedError:
            job.signal = job.signal or signal.SIGINT
        except Exception as error:
            job.record("failed", error=f"{type(error).__name__}: {error}")
            raise
    if job.signal is not None:
        job.say("stopped; the same command continues")
        sys.exit(128 + job.signal)
    job.record("finished", seconds=round(time.monotonic() - began, 3))


def shell(name: str) -> "Shell":
    """The shell of the command ``name``, whose log lies beside its results."""
    from pipeline.runtime import Shell

    return Shell(Path("results") / name / "log.jsonl")


def told_to_user(error: Exception) -> str | None:
    """One line about what the user can mend: errors of this program, and whatever the system refused; None for a
    mistake of ours, which shows its traceback."""
    from cache.errors import CacheError
    from cache.system import refusal
    from diffps.errors import DiffPSError

    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, DiffPSError | CacheError):
        error = refusal(error, Path(str(error.filename or Path.cwd())), "used")
    return " ".join(str(error).split()) if isinstance(error, DiffPSError | CacheError) else None
