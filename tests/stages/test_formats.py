"""docs/formats.md against the files of a finished project."""

import csv
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from diffps.model import LOSSES
from stages.places import EVALUATE, INDEX, TRAIN
from tests.architecture.repository import ROOT

TEXT = (ROOT / "docs/formats.md").read_text(encoding="utf-8")


def rows(part: str) -> list[tuple[str, list[str]]]:
    """Name and what stands in code of every row of the tables below a heading."""
    text = TEXT.split(f"## {part}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\| (`[^|]+) \| (.+) \|$", text, re.MULTILINE)
    return [(names, re.findall(r"`([^`]+)`", said)) for names, said in found]


@pytest.mark.parametrize("part", ["The index", "Results"])
def test_tables_have_the_columns_that_are_told(part: str, searchable: Path) -> None:
    told = [(names.strip("`"), columns) for names, columns in rows(part) if len(columns) > 3]
    assert len(told) == 4
    for name, columns in told:
        path = searchable / (INDEX if part == "The index" else "results") / name
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                header = next(csv.reader(file))
            assert header == [*columns[:-1], *LOSSES, columns[-1]]
        else:
            assert pq.read_schema(path).names == columns, name


def test_files_are_called_as_is_told(searchable: Path) -> None:
    names = [name for names, _ in rows("Results") for name in re.findall(r"`([^`]+)`", names)]
    for name in names:
        if name.startswith((f"{TRAIN.name}/", f"{EVALUATE.name}/")):
            assert (searchable / "results" / name).is_file(), name


def test_a_head_holds_what_is_told(searchable: Path) -> None:
    keys = dict(rows("A head's folder"))["`config.json`"]
    config = json.loads((searchable / TRAIN / "head/config.json").read_text())
    assert list(config) == keys
    assert {"reading", "recipe"} <= set(config["training"])
    assert (searchable / TRAIN / "head/model.safetensors").is_file()
    assert (searchable / TRAIN / "head/README.md").is_file()


def test_the_store_has_the_arrays_that_are_told(searchable: Path) -> None:
    store = searchable / "data/features"
    arrays = {path.parent.name for path in (store / "features.zarr").rglob("zarr.json")}
    assert "moments" in arrays
    assert any(name.endswith("@float16") for name in arrays)
    assert any(re.fullmatch(r"[\w-]+-cross-map\.\w+(@\w+)?", name) for name in arrays)
    assert {path.stem for path in (store / "rows").glob("*.parquet")} == {"train", "test"}
