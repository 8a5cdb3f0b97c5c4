"""Write the pages that are made from the code: commands.md, taps.md and api.md. `python docs/reference.py`."""

import ast
import sys
import textwrap
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # run as a script, in a checkout that need not be installed

from typer.main import get_command  # noqa: E402

from diffps.taps import TapSpec, standard_taps  # noqa: E402
from pipeline.cli import app  # noqa: E402

WIDTH = 118
MADE = "Made from the code by `python docs/reference.py`."
KINDS = {
    "grid": "a feature for every position (B, H, W, channels)",
    "text": "a row for every token of the prompt, the same for all images",
    "self-map": "attention of positions to positions; channels are the attention's heads",
    "cross-map": "attention of positions to the prompt's tokens; kept by word, as `<tap>.<word>`",
}


def commands_page() -> str:
    """Every command with its arguments and options, as Typer knows them."""
    lines = [
        "# Commands",
        "",
        *_wrapped(
            f"{MADE} Exit codes: 0; 2 for what the user can mend, said in one line; "
            "130 and 143 when stopped by Ctrl-C and SIGTERM."
        ),
        "",
    ]
    for name, command in _commands(get_command(app), "diffps"):
        lines += [f"## `{name}`", "", *_wrapped(command.help or ""), ""]
        shown = [line for parameter in command.params if parameter.name != "help" for line in _parameter(parameter)]
        lines += [*shown, ""] if shown else []
    return "\n".join(lines).rstrip() + "\n"


def taps_page() -> str:
    """Every tap of SD 2.1's UNet, by the module it is read from."""
    taps = standard_taps()
    text = (
        f"{MADE} The {len(taps)} places in the UNet of SD 2.1 whose output can be kept, in the order of the pass. Ids "
        "hold for every UNet of SD 1.x and 2.x; channels are those of SD 2.1. The stride is in pixels of the canvas a "
        "position, so a canvas of 1280 x 1280 has 160 x 160 positions at stride 8. `diffps probe` says which are "
        "worth keeping ([probe.md](probe.md)); the paper's seven stand in `presets/prw.yaml`."
    )
    lines = ["# Taps", "", *_wrapped(text), ""]
    lines += [line for kind, said in KINDS.items() for line in _wrapped(f"`{kind}`: {said}.", "- ", "  ")]
    for module, group in groupby(taps.values(), _block):
        lines += ["", f"## `{module}`", "", "| tap | below it | kind | channels | stride |", "|---|---|---|---|---|"]
        for tap in group:
            below = tap.module.removeprefix(module).lstrip(".")
            place = f"`{below}`" if below else ""
            lines.append(f"| `{tap.id}` | {place} | {tap.kind} | {tap.channels} | {tap.stride or ''} |")
    return "\n".join(lines) + "\n"


def api_page() -> str:
    """The public names of `diffps` and `cache`, for mkdocstrings; the site shows their docstrings in place."""
    text = f"{MADE} The public names of `diffps` and `cache`. The site has their docstrings here."
    lines = ["# From Python", "", *_wrapped(text)]
    for package in ("diffps", "cache"):
        said, homes = _public(package)
        lines += ["", f"## {package}", "", *_wrapped(said)]
        lines += [line for home in homes.values() for line in ("", f"::: {home}")]
    return "\n".join(lines) + "\n"


PAGES = {"commands.md": commands_page, "taps.md": taps_page, "api.md": api_page}


def _commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    yield name, command
    for inner_name, inner in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(inner, f"{name} {inner_name}")


def _parameter(parameter: Any) -> list[str]:
    if parameter.param_type_name == "argument":
        head = f"`{parameter.metavar or parameter.name.upper()}`"
    else:
        names = [name for name in parameter.opts if not name.startswith(("--install", "--show"))]
        if not names:
            return []
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        head = ", ".join(f"`{name}{value}`" for name in names)
    default, plain = parameter.default, (str, int, float, Path)
    said = f" (default `{default}`)" if isinstance(default, plain) and default not in (False, "") else ""
    return _wrapped(f"{head}{said}: {parameter.help}", "- ", "  ")


def _block(tap: TapSpec) -> str:
    """The resnet, transformer or other module that a tap lies in."""
    parts = tap.module.split(".")
    return ".".join(parts[: 3 if parts[0] == "mid_block" else 4])


def _public(package: str) -> tuple[str, dict[str, str]]:
    """The docstring of a package, and where each of its public names is defined; nothing is imported for it."""
    tree = ast.parse((HERE.parent / package / "__init__.py").read_text(encoding="utf-8"))
    homes = {
        alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names = next(ast.literal_eval(node.value) for node in tree.body if _assigns_all(node))
    return ast.get_docstring(tree) or "", {name: homes[name] for name in names}


def _assigns_all(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    plain = " ".join(text.split()).replace("``", "`")
    return textwrap.wrap(
        plain, WIDTH, initial_indent=first, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    for page, make in PAGES.items():
        (HERE / page).write_text(make(), encoding="utf-8")
