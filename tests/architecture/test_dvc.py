from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.architecture.house import House
from tests.architecture.repository import PIPELINE, ROOT

TEXT = (ROOT / "dvc.yaml").read_text()
STAGES: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")


def entries(stage: str, *kinds: str) -> dict[str, dict[str, Any]]:
    """path -> its options."""
    found: dict[str, dict[str, Any]] = {}
    for kind in kinds:
        for entry in STAGES[stage].get(kind, []):
            found |= entry if isinstance(entry, dict) else {entry: {}}
    return found


def test_the_stages_are_the_commands_in_order() -> None:
    assert tuple(STAGES) == PIPELINE
    assert all(stage["cmd"] == f"diffps {name}" for name, stage in STAGES.items())


@pytest.mark.parametrize("name", PIPELINE)
def test_followed_parameters_exist_and_runtime_is_not_among_them(name: str) -> None:
    for key in STAGES[name]["params"]:
        value: Any = PARAMS
        for part in key.split("."):
            assert part in value, f"{name} follows {key}"
            value = value[part]
        assert not key.startswith("runtime")
    assert any(key.split(".")[0] == name for key in STAGES[name]["params"])


@pytest.mark.parametrize("name", PIPELINE)
def test_outputs_stay_in_place(name: str) -> None:
    for path, options in entries(name, "outs", "metrics", "plots").items():
        assert options.get("persist"), path


@pytest.mark.parametrize("name", PIPELINE)
def test_nothing_is_followed_twice(name: str) -> None:
    for kind in ("params", "deps", "outs", "metrics", "plots"):
        listed = [str(entry) for entry in STAGES[name].get(kind, [])]
        assert len(set(listed)) == len(listed), kind


GIVEN = ("${index.root}", "${sweep.file}")  # by whoever runs it


@pytest.mark.parametrize("name", PIPELINE)
def test_dependencies_are_code_or_what_an_earlier_stage_makes(name: str) -> None:
    made = {
        path for earlier in PIPELINE[: PIPELINE.index(name)] for path in entries(earlier, "outs", "metrics", "plots")
    }
    for path in entries(name, "deps"):
        whole = {str(parent) for parent in Path(path).parents} | {path}
        inside = {made_path for made_path in made if path in {str(parent) for parent in Path(made_path).parents}}
        assert (ROOT / path).exists() or whole & made or inside or path in GIVEN, f"{name}: {path}"


# Types without behaviour of their own.
SHARED = {"diffps", "diffps.errors", "diffps.records", "diffps.geometry"}


def code(house: House, name: str, root: Path = ROOT) -> set[Path]:
    """Files whose code decides what `run` of a door makes: all it imports but ground, which says where and how."""
    door = f"stages.{name}"
    found, waiting = {door}, {each.target for each in house.imports[door] if each.function != "dry_run"}
    while waiting:
        waiting = {target for target in waiting if house.kinds.get(target) in ("room", "diffps", "cache")} - found
        found |= waiting
        waiting = {target for module in waiting for target in house.inner(module)}
    return {path for module in found - SHARED if (path := file_of(module, root)) is not None}


def file_of(module: str, root: Path) -> Path | None:
    """None for a package: its files are reached one by one."""
    path = Path(*module.split(".")).with_suffix(".py")
    return path if (root / path).is_file() else None


def covered(path: Path, dependencies: set[Path]) -> bool:
    return bool({path, *path.parents} & dependencies)


@pytest.mark.parametrize("name", PIPELINE)
def test_the_code_a_stage_reaches_is_a_dependency_and_nothing_else(house: House, name: str) -> None:
    dependencies = {Path(path) for path in entries(name, "deps") if path.startswith(("diffps", "cache", "stages"))}
    reached = code(house, name)
    assert {path for path in reached if not covered(path, dependencies)} == set()
    assert {path for path in dependencies if not any(covered(each, {path}) for each in reached)} == set()


def test_code_that_is_reached_through_a_room_and_not_listed_is_seen(tmp_path: Path) -> None:
    """The check itself, on a house whose door reaches the method through a room."""
    files = {
        "stages/train.py": "def run():\n    from stages.head import loop\ndef dry_run():\n    import stages.cost.x\n"
    }
    files |= {
        "stages/head/loop.py": "import diffps.model\nimport stages.ground\n",
        "stages/ground.py": "import cache.y\n",
    }
    files |= {"diffps/model.py": "", "stages/cost/x.py": "", "cache/y.py": ""}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = code(House.at(tmp_path), "train", tmp_path)
    assert found == {Path("stages/train.py"), Path("stages/head/loop.py"), Path("diffps/model.py")}
    assert not all(covered(path, {Path("stages/head"), Path("stages/train.py")}) for path in found)


def test_templates_stand_in_block_style_only() -> None:
    for line in TEXT.splitlines():
        before, template, _ = line.partition("${")
        if template and not before.lstrip().startswith("#"):
            assert not set("[{") & set(before), line


def test_dvc_asks_no_network() -> None:
    config = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert "remote" not in config
