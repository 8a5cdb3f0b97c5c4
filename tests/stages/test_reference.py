"""The parameter reference and the schemas: made from the fields, and the files in the repository are what comes out."""

import json
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from diffps.errors import ConfigError
from pipeline.config import ParamsFile, load_params
from stages.config_heads import TrainConfig
from stages.config_probe import ProbeFile
from stages.reference import described, page, schema, sweep_schema
from stages.typed import keys

ROOT = Path(__file__).parents[2]
PARAMS = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]
SWEEPS = sorted((ROOT / "presets/sweeps").glob("*.yaml"))
PROBES = sorted((ROOT / "presets/probe").glob("*.yaml"))


@pytest.mark.parametrize("kind", [ParamsFile, ProbeFile])
def test_every_key_says_what_it_is(kind: type) -> None:
    text = page(kind)
    for key in keys(kind):
        assert f"`{key.rpartition('.')[2]}` (" in text, key


def test_the_reference_page_is_that_of_the_code() -> None:
    assert (ROOT / "docs/parameters.md").read_text() == page(ParamsFile), "run: diffps params > docs/parameters.md"


def test_the_schemas_are_those_of_the_code() -> None:
    files = {
        "presets/params.schema.json": schema(ParamsFile),
        "presets/sweeps/sweep.schema.json": sweep_schema(TrainConfig),
        "presets/probe/probe.schema.json": schema(ProbeFile),
    }
    for name, expected in files.items():
        found = json.loads((ROOT / name).read_text())
        assert found == json.loads(json.dumps(expected)), (
            f"run: diffps params --schema, --sweep-schema or --probe-schema > {name}"
        )


@pytest.mark.parametrize("path", PARAMS + SWEEPS + PROBES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_yaml_file_names_its_schema_and_is_valid_by_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    name = first.removeprefix("# yaml-language-server: $schema=")
    assert name != first
    jsonschema.validate(YAML(typ="safe", pure=True).load(path), json.loads((path.parent / name).read_text()))


@pytest.mark.parametrize(
    "change", ["train.lrr=1", "train.batch=five", "encode.views=[sideways]", "train.model.box.nms=[1]"]
)
def test_what_the_schema_refuses_the_program_refuses(change: str) -> None:
    raw = YAML(typ="safe", pure=True).load(ROOT / "params.yaml")
    key, _, text = change.partition("=")
    *sections, leaf = key.split(".")
    place = raw
    for section in sections:
        place = place[section]
    place[leaf] = YAML(typ="safe", pure=True).load(text)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, schema(ParamsFile))
    with pytest.raises(ConfigError):
        load_params(ROOT / "params.yaml", [change])


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A section."""

    a: int = 1
    """What a is,
    on two lines."""

    b: str = ""


def test_a_field_without_a_text_is_seen() -> None:
    assert described(Said) == {"a": "What a is, on two lines."}
    with pytest.raises(KeyError, match="b"):
        page(Said)
