"""Small faults planted in the code one at a time, to see which the tests notice: ``make mutants``.

A fault is one comparison, constant, operator or pair of arguments changed, or one call left out. The tests run once
unchanged, to see which lines each executes and how long it takes; then each fault meets the tests of its line, fastest
first, then those of its module, until one fails. mutmut and cosmic-ray were looked at: the one cannot plant faults in
functions that Numba compiles, the other runs every test for every fault.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TypeAlias

from tests.reach import PACKAGES, Only, Reach, ended, meeting

ROOT = Path(__file__).parents[1]
MODELS = ("diffusers.models.unets.unet_2d_condition", "transformers.models.clip.modeling_clip", "timm")
HEAVY = ("torchvision", "numba", "zarr", "hypothesis", *MODELS)  # imported once, before the processes part
PAIRS = ("Lt LtE", "Gt GtE", "Eq NotEq", "Is IsNot", "In NotIn", "And Or", "Add Sub", "Mult Div", "FloorDiv Mult")
OTHER: dict[type, type] = {}
for _a, _b in (pair.split() for pair in PAIRS):
    OTHER = {getattr(ast, _b): getattr(ast, _a), getattr(ast, _a): getattr(ast, _b), **OTHER}
QUIET = ("debug", "info", "warning", "say", "note", "echo", "progress", "advance")  # calls whose loss is only unsaid

Node: TypeAlias = ast.expr | ast.stmt


def faults(tree: ast.Module) -> Iterator[tuple[Node, Node]]:
    """(node, what takes its place) of every fault that could be planted."""
    skipped = {id(part) for node in ast.walk(tree) for part in words_and_types(node)}
    for node in (node for node in ast.walk(tree) if id(node) not in skipped):
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
        case ast.ClassDef(decorator_list=parts) | ast.If(test=ast.Name(id="TYPE_CHECKING"), body=parts):
            pass
        case ast.Raise() | ast.JoinedStr():
            parts = [node]
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


def listed(*command: str) -> list[Path]:
    done = subprocess.run(("git", *command), cwd=ROOT, capture_output=True, text=True, check=command[0] != "grep")
    return [Path(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("places", nargs="*", help="modules or folders; without any, what changed since --base")
    parser.add_argument("--base", default="HEAD~1")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=120, help="of tests for one fault")
    parser.add_argument("--tests", nargs="*", default=["tests"])
    parser.add_argument("--kept", type=Path, help="folder where what the tests execute is kept for the next time")
    args = parser.parse_args()
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    for name in HEAVY:
        import_module(name)
    places = args.places or listed("diff", "--name-only", "--diff-filter=d", args.base, "--", *PACKAGES)
    modules = [path for path in listed("ls-files", *places) if path.suffix == ".py"]
    choices = [(path, *fault) for path in modules for fault in faults(ast.parse((ROOT / path).read_text()))]
    chosen = random.Random(args.seed).sample(choices, min(args.count, len(choices)))
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy, kept = Path(folder, "copy"), args.kept or Path(folder, "kept")
        for path in listed("ls-files", "--cached", "--others", "--exclude-standard"):
            (copy / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, copy / path)
        if not (kept / "tests.json").exists():
            kept.mkdir(parents=True, exist_ok=True)
            ended(copy, 36_000, args.tests, partial(Reach, kept.absolute()))
        for path, node, other in chosen:
            source = (ROOT / path).read_text(encoding="utf-8")
            (copy / path).write_text(planted(source, node, other), encoding="utf-8")
            users = [
                user for user in listed("grep", "-lwE", f"(from|import) .*{path.stem}", "--", *PACKAGES) if user != path
            ]
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            tests, seconds = meeting(kept, [path, *users], span, args.seconds)
            only = Only(tests)
            done = ended(copy, 30 + 4 * seconds, ["-x", *only.files], lambda only=only: only) if tests else 0
            (copy / path).write_text(source, encoding="utf-8")
            survivors += done in (0, 5)
            word = "SURVIVED" if done in (0, 5) else "too long" if done < 0 else "noticed "
            change = f"{ast.unparse(node)}  ->  {ast.unparse(other)}"
            print(f"{word} {path}:{node.lineno}:{node.col_offset}  {change}  ({len(tests)} tests)", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} noticed")


if __name__ == "__main__":
    main()
