"""Small faults planted in the code one at a time, to see which the tests notice: ``make mutants``.

A fault is one comparison, constant, operator or pair of arguments changed, or one call left out. Each runs the tests
that import its module, nearest first, until one fails; whatever survives is printed with its line. mutmut and
cosmic-ray were looked at: the one cannot plant faults in functions that Numba compiles, the other runs every test for
every fault.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).parents[1]
PACKAGES = ("pipeline", "stages", "diffps", "cache")
OTHER: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
}  # fmt: skip
QUIET = ("debug", "info", "warning", "say", "note", "echo", "progress", "advance")  # calls whose loss is only unsaid


Node: TypeAlias = ast.expr | ast.stmt


def faults(tree: ast.Module) -> Iterator[tuple[Node, Node]]:
    """(node, what takes its place) of every fault that could be planted."""
    skipped = {id(part) for node in ast.walk(tree) for part in words_and_types(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
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
            case ast.Call(args=[first, second, *rest]) if ast.dump(first) != ast.dump(second):
                if not any(isinstance(each, ast.Starred) for each in (first, second)):
                    yield node, ast.Call(node.func, [second, first, *rest], node.keywords)


def words_and_types(node: ast.AST) -> Iterator[ast.AST]:
    """Parts of a node that decide nothing: annotations, decorators, texts of errors."""
    parts: Sequence[ast.AST | None] = []
    match node:
        case ast.AnnAssign(annotation=annotation) | ast.arg(annotation=annotation):
            parts = [annotation]
        case ast.FunctionDef(returns=returns, decorator_list=decorators):
            parts = [*decorators, returns]
        case ast.ClassDef(decorator_list=decorators):
            parts = decorators
        case ast.Raise() | ast.JoinedStr():
            parts = [node]
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
            parts = body
    for part in parts:
        yield from ast.walk(part) if part is not None else ()


def planted(source: str, node: Node, other: Node) -> str:
    """``source`` with ``other`` in the place of ``node``; every line stays where it was."""
    lines = source.encode().splitlines(keepends=True)
    first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
    text = ast.unparse(ast.fix_missing_locations(other))
    text = f"({text})" if isinstance(other, ast.expr) else text
    changed = lines[first][: node.col_offset] + text.encode() + lines[last][node.end_col_offset :]
    return b"".join([*lines[:first], changed, *[b"\n"] * (last - first), *lines[last + 1 :]]).decode()


def imports(path: Path) -> set[str]:
    """Modules of this repository that a file names in its imports, hidden ones too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in found if name.split(".")[0] in (*PACKAGES, "tests")}


def tests_of(module: str, graph: dict[str, set[str]]) -> list[str]:
    """Test files that reach ``module`` through imports, nearest first, those that mirror its place before others."""
    place = {module: 0}
    queue = [module]
    for name in queue:
        for user, used in graph.items():
            if name in used and user not in place:
                place[user] = place[name] + 1
                queue.append(user)
    own = module.split(".")[-2:]
    files = [name for name in place if name.startswith("tests.") and name.rpartition(".")[2].startswith("test_")]
    return sorted(files, key=lambda name: (place[name], -sum(part in name for part in own), name))


def noticed(copy: Path, files: list[str], seconds: float) -> bool:
    """A test fails, or nothing ends in time."""
    paths = [f"{name.replace('.', '/')}.py" for name in files]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *paths]
    env = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def listed(*command: str) -> list[Path]:
    done = subprocess.run(("git", *command), cwd=ROOT, capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def copied(folder: Path) -> Path:
    """What git knows or would take, in another place."""
    for path in listed("ls-files", "--cached", "--others", "--exclude-standard"):
        if (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
    return folder


def dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", help="modules or folders; without any, what changed since --base")
    parser.add_argument("--base", default="HEAD~1")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=600, help="of tests for one fault")
    args = parser.parse_args()
    places = args.places or listed("diff", "--name-only", "--diff-filter=d", args.base, "--", *PACKAGES)
    sources = [path for path in listed("ls-files", *PACKAGES, "tests") if path.suffix == ".py"]
    modules = [path for path in sources if any(path.is_relative_to(place) for place in places)]
    choices = [(path, *fault) for path in modules for fault in faults(ast.parse((ROOT / path).read_text()))]
    chosen = random.Random(args.seed).sample(choices, min(args.count, len(choices)))
    graph = {dotted(path): imports(ROOT / path) for path in sources}
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = copied(Path(folder))
        for path, node, other in chosen:
            source = (ROOT / path).read_text(encoding="utf-8")
            (copy / path).write_text(planted(source, node, other), encoding="utf-8")
            found = noticed(copy, tests_of(dotted(path), graph), args.seconds)
            (copy / path).write_text(source, encoding="utf-8")
            survivors += not found
            change = f"{ast.unparse(node)}  ->  {ast.unparse(other)}"
            print(f"{'noticed ' if found else 'SURVIVED'} {path}:{node.lineno}  {change}", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed")


if __name__ == "__main__":
    main()
