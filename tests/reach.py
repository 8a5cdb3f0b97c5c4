"""Which tests execute which lines, and runs of chosen tests in processes of their own."""

import json
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
from coverage import Coverage, CoverageData

QUIETLY = "ignore::pytest.PytestAssertRewriteWarning"
PACKAGES = ("pipeline", "stages", "diffps", "cache")


class Reach:
    """Plugin: which test, or fixture that several share, executes which lines, and how long each test takes."""

    def __init__(self, kept: Path) -> None:
        self.kept, self.now = kept, ""
        self.tests: dict[str, tuple[float, list[str]]] = {}
        self.cover = Coverage(kept / "lines", branch=True, source=PACKAGES, config_file=False)
        self.cover.start()

    def switch(self, context: str) -> None:
        self.now = context
        self.cover.switch_context(context)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Function) -> Generator[None, Any, Any]:
        self.tests[item.nodeid] = 0.0, [item.nodeid, *(f"#{name}" for name in item.fixturenames)]
        self.switch(item.nodeid)
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
        before = self.now
        self.switch(before if fixturedef.scope == "function" else f"#{fixturedef.argname}")
        try:
            return (yield)
        finally:
            self.switch(before)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        seconds, contexts = self.tests.pop(report.nodeid, (0.0, []))
        if report.passed and contexts:
            self.tests[report.nodeid] = seconds + report.duration, contexts

    def pytest_sessionfinish(self) -> None:
        self.cover.stop()
        self.cover.save()
        (self.kept / "tests.json").write_text(json.dumps(self.tests))


class Only:
    """Plugin: these tests alone, in this order; those of one file together."""

    def __init__(self, tests: Sequence[str]) -> None:
        self.files = list(dict.fromkeys(test.partition("::")[0] for test in tests))
        self.rank = {test: (self.files.index(test.partition("::")[0]), place) for place, test in enumerate(tests)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self.rank), key=lambda item: self.rank[item.nodeid])


def meeting(kept: Path, paths: Sequence[Path], span: range, limit: float) -> tuple[list[str], float]:
    """Tests of these lines of the first of ``paths``, then the others of its module, fastest first.

    Where no test is seen in it, for it is compiled or holds constants, those of the other ``paths``. They come with
    the seconds they take, ``limit`` at most.
    """
    tests: dict[str, tuple[float, list[str]]] = json.loads((kept / "tests.json").read_text())
    data = CoverageData(str(kept / "lines"))
    data.read()
    lines = [data.contexts_by_lineno(f) for path in paths for f in data.measured_files() if f.endswith(f"/{path}")]
    reached = [{context for contexts in of.values() for context in contexts if context} for of in lines]
    near = {context for line in span for context in lines[0].get(line, ())}
    module = reached[0] or set().union(*reached)
    ranked = sorted((near.isdisjoint(of), seconds, test) for test, (seconds, of) in tests.items() if module & {*of})
    total, chosen = 0.0, []
    for _, seconds, test in ranked:
        if total + seconds <= limit:
            total, chosen = total + seconds, [*chosen, test]
    return chosen, total


def run(copy: Path, seconds: int, paths: Sequence[str], plugin: Callable[[], object]) -> None:
    """The tests in ``copy``; what a process of its own does."""
    os.setsid()
    os.chdir(copy)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.path[0] = os.environ["PYTHONPATH"] = str(copy)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    sys.exit(
        int(pytest.main(["-p", "no:cacheprovider", "-p", "no:randomly", "-W", QUIETLY, *paths], plugins=[plugin()]))
    )


def ended(copy: Path, seconds: float, paths: Sequence[str], plugin: Callable[[], object]) -> int:
    """Exit status of these tests in a process of its own, below zero after ``seconds`` of the processor's time.

    What only waits is ended ten times as late by the clock, for others may want the processor too.
    """
    process = multiprocessing.get_context("fork").Process(target=run, args=(copy, int(seconds) + 1, paths, plugin))
    process.start()
    process.join(10 * seconds)
    if process.exitcode is None:
        os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
    return process.exitcode or 0
