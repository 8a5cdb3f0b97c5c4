"""The house as its guards see it: which module imports which, and what kind of room each module is.

Everything works on any folder with the four packages in it, so that tests can try the guards on houses with a fault.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PACKAGES = ("pipeline", "stages", "diffps", "cache")
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "distributed", "numba", "pydantic", "ruamel", "pyarrow"}
OPTIONAL = {"torch.utils.tensorboard", "dvclive.live"}  # of extras: may not be installed
Kind = Literal["pipeline", "door", "room", "ground", "diffps", "cache"]
# Whom each kind may import.
ALLOWED: Mapping[Kind, set[Kind]] = {
    "pipeline": {"pipeline", "door", "room", "ground", "diffps", "cache"},
    "door": {"room", "ground", "diffps", "cache"},
    "room": {"room", "ground", "diffps", "cache"},
    "ground": {"ground", "diffps", "cache"},
    "diffps": {"diffps"},
    "cache": {"cache"},
}


@dataclass(frozen=True, slots=True)
class Import:
    """One import of a module: what it names, where, and the function it waits in, "" at the top."""

    target: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class House:
    """Every module with its imports. ``kinds``: what kind of room a module of the four packages is."""

    imports: Mapping[str, tuple[Import, ...]]
    kinds: Mapping[str, Kind]

    @classmethod
    def at(cls, root: Path) -> "House":
        """The four packages below ``root``."""
        files = {name: path for package in PACKAGES for name, path in _modules(root, package)}
        trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in files.items()}
        imports = {name: tuple(_imports(tree, set(files))) for name, tree in trees.items()}
        return cls(imports, {name: _kind(name, trees[name]) for name in files})

    def inner(self, name: str) -> set[str]:
        """Modules of the house that ``name`` imports, inside functions too."""
        return {found.target for found in self.imports[name] if found.target in self.kinds}

    def reached(self, name: str) -> set[str]:
        """All that ``name`` imports, and what these import, and so on."""
        found: set[str] = set()
        waiting = {name}
        while waiting:
            found |= waiting
            waiting = {target for each in waiting for target in self.inner(each)} - found
        return found

    def loads(self, name: str) -> set[str]:
        """Heavy libraries that importing ``name`` loads."""
        seen: set[str] = set()
        heavy: set[str] = set()
        waiting = [name]
        while waiting:
            module = waiting.pop()
            if module in seen:
                continue
            seen.add(module)
            for found in self.imports.get(module, ()):
                if not found.function:
                    waiting.append(found.target)
                    heavy |= {found.target.partition(".")[0]} & HEAVY
        return heavy


def cycles(house: House) -> list[set[str]]:
    """Modules that reach one another."""
    reach = {name: {far for near in house.inner(name) for far in house.reached(near)} for name in house.kinds}
    rings: list[set[str]] = []
    for name in house.kinds:
        ring = {other for other in reach[name] if name in reach[other]}
        if ring and ring not in rings:
            rings.append(ring)
    return rings


def wrong_arrows(house: House) -> list[str]:
    """Imports against the rule: pipeline -> doors -> rooms -> ground -> {diffps, cache}."""
    return [
        f"{name} ({kind}) imports {target} ({house.kinds[target]})"
        for name, kind in house.kinds.items()
        for target in sorted(house.inner(name))
        if house.kinds[target] not in ALLOWED[kind]
    ]


def needless_hiding(house: House) -> list[str]:
    """Imports inside functions of rooms and ground that keep no heavy library out."""
    found = []
    for name, kind in house.kinds.items():
        if kind not in ("room", "ground"):
            continue
        here = house.loads(name)
        for each in house.imports[name]:
            top = each.target.partition(".")[0]
            kept_out = (house.loads(each.target) | ({top} & HEAVY)) - here
            if each.function and not kept_out and each.target not in OPTIONAL:
                found.append(f"{name}:{each.line} hides {each.target}")
    return found


def _modules(root: Path, package: str) -> Iterator[tuple[str, Path]]:
    for path in sorted((root / package).rglob("*.py")):
        yield ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), path


def _kind(name: str, tree: ast.Module) -> Kind:
    package, *rest = name.split(".")
    if rest == ["__main__"]:  # `python -m diffps` is the command line
        return "pipeline"
    if package == "stages":
        if len(rest) > 1:
            return "room"
        if not rest:
            return "ground"
        doors = any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body)
        return "door" if doors else "ground"
    assert package in ("pipeline", "diffps", "cache")
    return package  # type: ignore[return-value]


def _imports(tree: ast.Module, modules: set[str]) -> Iterator[Import]:
    """Every import but those under TYPE_CHECKING; a name taken out of a package is its submodule where there is one."""

    def walk(node: ast.AST, function: str) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, function) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.module is not None
                assert child.level == 0, f"line {child.lineno}: relative import"
                for alias in child.names:
                    whole = f"{child.module}.{alias.name}"
                    yield Import(whole if whole in modules else child.module, child.lineno, function)
            else:
                own = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else ""
                yield from walk(child, function or own)

    yield from walk(tree, "")
