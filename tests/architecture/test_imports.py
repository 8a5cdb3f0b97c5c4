import re
import subprocess
import sys
import tomllib
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.architecture.house import House
from tests.architecture.repository import PACKAGES, ROOT, STAGES, imports, modules

# Imported by every command, so nothing here may cost seconds.
LIGHT = ["cache", "diffps", "diffps.records", "diffps.geometry", "diffps.taps", "diffps.heads.config", "stages.params"]
HEAVY = {"torch", "torchvision", "diffusers", "transformers", "distributed"}


def test_what_every_command_imports_is_light(house: House) -> None:
    """Doors and ground: seen by really importing them."""
    names = [*LIGHT, *(name for name, kind in house.kinds.items() if kind in ("door", "ground"))]
    names += [name for name in house.kinds if name.startswith("diffps.metrics")]
    script = f"import importlib, sys\nfor name in {names!r}:\n    importlib.import_module(name)\n"
    script += f"    found = {HEAVY!r} & set(sys.modules)\n    assert not found, (name, found)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_stage_has_the_same_shape() -> None:
    script = "from importlib import import_module\nfrom inspect import signature\n"
    script += f"for name in {STAGES!r}:\n    stage = import_module('stages.' + name)\n"
    script += "    for function in (stage.run, stage.dry_run):\n"
    script += "        assert list(signature(function).parameters)[1:3] == ['runtime', 'job'], name"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_every_third_party_import_is_a_declared_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {name: part for name, part in project["optional-dependencies"].items() if name not in ("test", "dev")}
    requirements = [*project["dependencies"], *(requirement for part in extras.values() for requirement in part)]
    declared = {name for requirement in requirements for name in _names(requirement)}
    distributions = packages_distributions()
    for package in PACKAGES:
        for path in modules(package):
            for name in imports(path):
                top = name.partition(".")[0]
                if top in sys.stdlib_module_names or top in PACKAGES:
                    continue
                owners = {_plain(owner) for owner in distributions.get(top, [top])}
                assert owners & declared, f"{path} imports {name}, which pyproject.toml does not declare"


def test_image_files_are_opened_in_one_place() -> None:
    """Whoever opens one elsewhere decides anew how it is displayed. Drawn scenes are read back by who drew them."""
    opening = re.compile(r"\bImage\.open\(|\bPil\.open\(|exif_transpose|load_img|imread")
    found = {
        str(path) for package in PACKAGES for path in modules(package) if opening.search((ROOT / path).read_text())
    }
    assert found == {"diffps/images/opening.py", "diffps/pretraining/scenes.py"}


def _names(requirement: str) -> set[str]:
    """The distributions that a requirement brings: its own, and extras that are distributions themselves."""
    name, extras = re.match(r"([\w.-]+)(?:\[(.*?)\])?", requirement).groups()  # type: ignore[union-attr]
    return {_plain(part) for part in [name, *(extras or "").split(",")] if part}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")


@pytest.mark.parametrize("package", PACKAGES)
def test_files_stay_small(package: str) -> None:
    for path in modules(package):
        lines = len((ROOT / path).read_text(encoding="utf-8").splitlines())
        assert lines <= 500, f"{path} has {lines} lines"


@pytest.mark.parametrize("package", ["diffps", "cache"])
def test_the_public_api_is_there(package: str) -> None:
    face = import_module(package)
    assert face.__all__ == sorted(face.__all__)
    assert all(getattr(face, name) is not None for name in face.__all__)
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        _ = face.nothing_of_ours


def test_one_name_of_the_public_api_comes_from_beside_the_method() -> None:
    """Whoever imports diffps asks for it there; no module of diffps may."""
    homes = import_module("diffps")._HOMES
    outside = {name for home, names in homes.items() for name in names if not home.startswith("diffps.")}
    assert outside == {"Searcher"}
    named = [path for path in modules("diffps") if re.search(r"\bSearcher\b", (ROOT / path).read_text())]
    assert named == [Path("diffps/__init__.py")]


@pytest.mark.parametrize("package", ["diffps", "cache"])
def test_the_public_faces_are_short(package: str) -> None:
    assert len(Path(ROOT / package / "__init__.py").read_text().splitlines()) <= 70


def test_tables_are_read_by_the_thread_that_asks() -> None:
    """`pyarrow.parquet.read_table` leaves threads behind that may abort a program at its end (apache/arrow#34314)."""
    for package in ("cache", "diffps", "stages", "pipeline"):
        for path in (ROOT / package).rglob("*.py"):
            assert not re.search(r"\b(pq|parquet)\.read_table\(", path.read_text(encoding="utf-8")), path
