"""The rule of arrows, the size of rooms, and that each guard sees the fault it is there for."""

import ast
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pytest

from tests.architecture.house import House, cycles, needless_hiding, wrong_arrows
from tests.architecture.repository import ROOT

LINES, MEDIAN_LINES, TAKING_PARAMS = 300, 110, 24
# One file of the name in each room is what a reader expects.
EVERYWHERE = {"__init__.py"}


def test_no_module_reaches_itself(house: House) -> None:
    assert cycles(house) == []


def test_arrows_point_down(house: House) -> None:
    assert wrong_arrows(house) == []


def test_a_family_of_priors_is_a_short_module_beside_its_table() -> None:
    families = (ROOT / "diffps/backbone/families.py").read_text()
    names = re.findall(
        r"from diffps\.backbone\.(\w+) import (?:find_clip|PixArt|SD3|StableDiffusion|TimmModel)\b", families
    )
    assert len(names) == 5
    for name in names:
        assert len((ROOT / f"diffps/backbone/{name}.py").read_text().splitlines()) <= 250, name


def test_imports_are_hidden_only_to_keep_a_heavy_library_out(house: House) -> None:
    assert needless_hiding(house) == []


def test_rooms_are_small() -> None:
    lines = {path: len(path.read_text().splitlines()) for path in (ROOT / "stages").rglob("*.py")}
    assert {str(path): count for path, count in lines.items() if count > LINES} == {}
    assert statistics.median(count for path, count in lines.items() if path.name != "__init__.py") < MEDIAN_LINES


def test_few_functions_take_all_parameters() -> None:
    assert len(taking_params(ROOT / "stages")) <= TAKING_PARAMS


def test_rooms_do_not_share_names_of_files() -> None:
    places = defaultdict(list)
    for path in (ROOT / "stages").rglob("*.py"):
        places[path.name].append(str(path.parent.relative_to(ROOT)))
    shared = {name: sorted(where) for name, where in places.items() if len(where) > 1 and name not in EVERYWHERE}
    assert shared == ALIKE


# What a sweep will cost beside the sweep; what came out of one head beside what came out of many.
ALIKE = {
    "identity.py": ["stages/dataset", "stages/head"],
    "results.py": ["stages/head", "stages/sweeps"],
    "sweep.py": ["stages", "stages/forecasts"],
}


def taking_params(folder: Path) -> list[str]:
    found = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                arguments = [*node.args.args, *node.args.kwonlyargs]
                if any(a.annotation is not None and ast.unparse(a.annotation) == "Params" for a in arguments):
                    found.append(f"{path.name}:{node.name}")
    return found


def build(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return House.at(root)


DOOR = "def run():\n    from stages.room import thing\n"


def test_a_circle_through_a_function_is_seen(tmp_path: Path) -> None:
    files = {"cache/a.py": "from cache import b\n", "cache/b.py": "def f():\n    from cache.a import x\n"}
    assert cycles(build(tmp_path, files)) == [{"cache.a", "cache.b"}]


def test_a_circle_of_types_alone_is_none(tmp_path: Path) -> None:
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from cache.a import x\n"
    assert cycles(build(tmp_path, {"cache/a.py": "import cache.b\n", "cache/b.py": typed})) == []


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"stages/b.py": "def run():\n    from stages import a\n"}, "stages.b (door) imports stages.a (door)"),
        ({"stages/room/other.py": "from stages.a import run\n"}, "stages.room.other (room) imports stages.a (door)"),
        (
            {"stages/low.py": "from stages.room.thing import x\n"},
            "stages.low (ground) imports stages.room.thing (room)",
        ),
        ({"diffps/x.py": "import cache.y\n", "cache/y.py": ""}, "diffps.x (diffps) imports cache.y (cache)"),
        ({"cache/y.py": "import diffps.x\n", "diffps/x.py": ""}, "cache.y (cache) imports diffps.x (diffps)"),
        ({"stages/low.py": "import pipeline.cli\n", "pipeline/cli.py": ""}, "stages.low (ground) imports pipeline.cli"),
    ],
)
def test_an_arrow_that_points_up_is_seen(tmp_path: Path, files: dict[str, str], said: str) -> None:
    house = build(tmp_path, {"stages/a.py": DOOR, "stages/room/thing.py": "", **files})
    assert [arrow.startswith(said) for arrow in wrong_arrows(house)] == [True]


def test_a_hidden_import_needs_a_heavy_library(tmp_path: Path) -> None:
    files = {
        "stages/room/light.py": "def f():\n    import json\n    from stages.room import heavy\n",
        "stages/room/heavy.py": "import torch\ndef f():\n    import torch\n",
    }
    found = needless_hiding(build(tmp_path, files))
    assert found == ["stages.room.heavy:3 hides torch", "stages.room.light:2 hides json"]


def test_functions_that_take_params_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f(params: Params): ...\ndef g(*, p: Params): ...\ndef h(x: int): ...\n")
    assert sorted(taking_params(tmp_path)) == ["a.py:f", "a.py:g"]
