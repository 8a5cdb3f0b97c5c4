from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.architecture.repository import PIPELINE, ROOT, imports

TEXT = (ROOT / "dvc.yaml").read_text()
STAGES: dict[str, Any] = YAML(typ="safe", pure=True).load(TEXT)["stages"]
PARAMS: dict[str, Any] = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")


# Says how to run, not what comes out; `sources` reads what manifests name, and its live half is for the commands.
SHELL = {
    "job",
    "params",
    "typed",
    "devices",
    "files",
    "storage",
    "forecast",
    "sweep_forecast",
    "cluster",
    "worker",
    "sources",
}
# Of other stages' modules these say what is called how and where it lies; any other function is work that is shared.
PLACES = {"splits", "manifest_folder", "stored_name", "views_read"}
# Types without behaviour of their own.
SHARED = {"errors", "records", "geometry"}


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
def test_dependencies_are_code_or_what_an_earlier_stage_makes(name: str) -> None:
    made = {
        path for earlier in PIPELINE[: PIPELINE.index(name)] for path in entries(earlier, "outs", "metrics", "plots")
    }
    for path in entries(name, "deps"):
        whole = {str(parent) for parent in Path(path).parents} | {path}
        inside = {made_path for made_path in made if path in {str(parent) for parent in Path(made_path).parents}}
        assert (ROOT / path).exists() or whole & made or inside or path == "${sweep.file}", f"{name}: {path}"


def shares_work(name: str) -> bool:
    """Whether an imported name is a function of another stage's module, not a constant, a class or a place."""
    package, stage, function = [*name.split("."), "", ""][:3]
    return package == "stages" and stage in PIPELINE and function.islower() and function not in PLACES


def reached(name: str) -> set[Path]:
    """The modules that decide what a stage makes: its own, its helpers in stages/, other stages whose functions it
    calls, the method's that these import."""
    found, waiting = set(), [Path(f"stages/{name}.py")]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for module in imports(path):
            if shares_work(module):
                waiting += {Path(*module.split(".")[:2]).with_suffix(".py")} - found
                continue
            package, _, rest = module.partition(".")
            imported = Path(*module.split(".")).with_suffix(".py")
            if rest and package in {"stages", "diffps"} and (ROOT / imported).exists() and imported not in found:
                if package == "diffps" and rest not in SHARED:
                    found.add(imported)
                elif package == "stages" and rest not in SHELL and rest not in PIPELINE:
                    waiting.append(imported)
    return found


@pytest.mark.parametrize("name", PIPELINE[:-1])  # the page shows what others made
def test_the_code_a_stage_reaches_is_a_dependency(name: str) -> None:
    dependencies = {Path(path) for path in entries(name, "deps")}
    for module in reached(name):
        assert {module, *module.parents} & dependencies, f"{name} reaches {module}"


def test_a_stage_reaches_what_it_has_another_stage_do() -> None:
    assert {Path("stages/evaluate.py"), Path("stages/inference.py"), Path("stages/scoring.py")} <= reached("sweep")
    assert Path("stages/extract.py") not in reached("train")


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
