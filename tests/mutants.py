"""Small faults planted in the code one at a time, to see which the tests notice: ``make mutants``.

A fault is one comparison, constant, operator or pair of arguments changed, or one call left out. The tests run once
unchanged, to see which lines each executes and how long it takes; then each fault meets the tests of its line, those of
its module and those that lie beside them, the fastest of each first, until one fails.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from xml.etree import ElementTree

from coverage import CoverageData

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "diffps", "cache")
PAIRS = "Lt LtE, Gt GtE, Eq NotEq, Is IsNot, In NotIn, And Or, Add Sub, FloorDiv Mult, Mult Div"
OTHER = {getattr(ast, a): getattr(ast, b) for pair in PAIRS.split(", ") for a, b in permutations(pair.split())}
QUIET = ("debug", "info", "warning", "say", "note", "echo", "progress", "advance")  # calls whose loss is only unsaid


def deciding(node: ast.AST) -> Iterator[ast.AST]:
    """This node and those below it, but for what decides nothing: annotations, decorators, texts of errors."""
    yield node
    for name, value in ast.iter_fields(node) if not isinstance(node, ast.Raise | ast.JoinedStr) else ():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, ast.AST) and name not in ("annotation", "returns", "decorator_list"):
                yield from deciding(part)


def faults(tree: ast.Module) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """(node, what takes its place) of every fault that could be planted."""
    for node in deciding(tree):
        match node:
            case ast.Compare(ops=[op]) if type(op) in OTHER:
                yield node, ast.Compare(node.left, [OTHER[type(op)]()], node.comparators)
            case ast.BoolOp(op=op):
                yield node, ast.BoolOp(OTHER[type(op)](), node.values)
            case ast.BinOp(op=op) if type(op) in OTHER and not isinstance(node.left, ast.Constant | ast.JoinedStr):
                yield node, ast.BinOp(node.left, OTHER[type(op)](), node.right)
            case ast.Constant(value=bool(value)):
                yield node, ast.Constant(not value)
            case ast.Constant(value=int(value) | float(value)):
                yield node, ast.Constant(value + 1)
            case ast.UnaryOp(op=ast.Not()):
                yield node, node.operand
            case ast.Expr(value=ast.Call(func=func)) if ast.unparse(func).rpartition(".")[2] not in QUIET:
                yield node, ast.Pass()
            case ast.Call(args=[a, b, *rest]) if ast.dump(a) != ast.dump(b) and ast.Starred not in (type(a), type(b)):
                yield node, ast.Call(node.func, [b, a, *rest], node.keywords)


def planted(source: str, node: ast.expr | ast.stmt, other: ast.AST) -> str:
    """``source`` with ``other`` in the place of ``node``; every line stays where it was."""
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    text = f"({ast.unparse(other)})" if isinstance(other, ast.expr) else ast.unparse(other)
    changed = lines[first][: node.col_offset] + text.encode() + lines[last][node.end_col_offset :]
    return b"".join([*lines[:first], changed, *[b"\n"] * (last - first), *lines[last + 1 :]]).decode()


def meeting(kept: Path, path: Path, span: range, limit: float) -> list[str]:
    """The tests that a fault in these lines meets, as many as take ``limit`` seconds, those of one file together.

    What a shared fixture executes counts as its first user's, so tests beside those of the module are among them.
    """
    runs = (ElementTree.parse(kept / name).iter("testcase") for name in ("tests.xml", "again.xml"))
    passed = [case for run in runs for case in run if not len(case)]
    seconds = {f"{case.get('file')}::{case.get('name')}": float(case.get("time", 0)) for case in passed}
    file = {test: Path(test.partition("::")[0]) for test in seconds}
    data = CoverageData(str(kept / "lines"))
    data.read()
    executed = {
        line: {context.rpartition("|")[0] for context in contexts} & seconds.keys()
        for measured in data.measured_files()
        if measured.endswith(f"/{path}")
        for line, contexts in data.contexts_by_lineno(measured).items()
    }
    near = {test for line in span for test in executed.get(line, ())}
    module = set().union(*executed.values())
    files = {file[test] for test in module}
    chosen: dict[Path, list[str]] = {}
    for test in sorted(seconds, key=lambda t: (t not in near, t not in module, file[t] not in files, seconds[t])):
        if seconds[test] <= limit and file[test].parent in {each.parent for each in files}:
            limit -= seconds[test]
            chosen.setdefault(file[test], []).append(test)
    return [test for tests in chosen.values() for test in tests]


def listed(*command: str) -> list[Path]:
    return [Path(line) for line in subprocess.check_output(("git", *command), cwd=ROOT, text=True).splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", default=PACKAGES, help="modules or folders")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120, help="of tests for one fault")
    parser.add_argument("--tests", nargs="*", default=["tests"])
    parser.add_argument("--kept", type=Path, help="folder where what the tests execute is kept for the next time")
    args = parser.parse_args()
    modules = [path for path in listed("ls-files", *args.places) if path.suffix == ".py"]
    choices = [(path, *fault) for path in modules for fault in faults(ast.parse((ROOT / path).read_text("utf-8")))]
    chosen, noticed = random.Random(args.seed).sample(choices, min(args.count, len(choices))), 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy, kept = Path(folder, "copy"), (args.kept or Path(folder, "kept")).absolute()
        subprocess.run(("git", "clone", "-q", "--shared", ROOT, copy), check=True)
        for path in listed("ls-files", "--cached", "--others", "--exclude-standard"):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)  # with what is not committed
            shutil.copy(ROOT / path, copy / path)

        def ended(limit: float, *arguments: str, **variables: str) -> int:
            changed = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
            changed |= {"COVERAGE_FILE": f"{kept}/lines", **variables}
            command = ("timeout", "-k9", str(limit), sys.executable, "-m", "pytest", *arguments)
            return subprocess.run(command, cwd=copy, env=os.environ | changed, capture_output=True).returncode

        if not (kept / "again.xml").exists():
            print("first all tests, traced: some four times as long as they take otherwise", flush=True)
            kept.mkdir(parents=True, exist_ok=True)
            common = ("-nauto", "--maxprocesses=8", "--dist=loadfile", "-ojunit_family=xunit1", *args.tests)
            traced = ("--cov-context=test", "--cov-report=", *(f"--cov={package}" for package in PACKAGES))
            # Interpreted, for what Numba compiles leaves no trace; then compiled, what only passes so.
            ended(1e5, f"--junitxml={kept}/tests.xml", *traced, *common, NUMBA_DISABLE_JIT="1")
            ended(1e5, f"--junitxml={kept}/again.xml", "--last-failed", "--last-failed-no-failures=none", *common)
        for path, node, other in chosen:
            source = (ROOT / path).read_text(encoding="utf-8")
            (copy / path).write_text(planted(source, node, other), encoding="utf-8")
            tests = meeting(kept, path, range(node.lineno, (node.end_lineno or node.lineno) + 1), args.seconds)
            done = ended(60 + 8 * args.seconds, "-x", *tests) if tests else 0
            (copy / path).write_text(source, encoding="utf-8")
            noticed += done != 0
            word = {0: "SURVIVED", 4: "unloaded"}.get(done, "noticed ")  # 4: a module of the tests cannot be imported
            fault = f"{path}:{node.lineno}:{node.col_offset}  {ast.unparse(node)}  ->  {ast.unparse(other)}"
            print(f"{word} {fault}  ({len(tests)} tests)", flush=True)
    print(f"{noticed} of {len(chosen)} noticed")


if __name__ == "__main__":
    main()
