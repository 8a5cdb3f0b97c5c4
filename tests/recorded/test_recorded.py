"""A store and a head that commit bf19871 made are taken as they are: nothing is computed again, ids and scores stay."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from cache.verify import verify
from diffps.images import decoder
from diffps.model import PersonSearcher
from pipeline.config import load_params
from stages import encode, evaluate, extract
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.features.reading import Reading
from stages.head.saved import reading_of
from stages.places import EVALUATE, TRAIN
from tests.world import STORE, Listener, files_below

ARCHIVE = Path(__file__).parent / "bf19871.tar.xz"
PARAMS = Path("params.yaml")
ENCODINGS = ("float16", "bitround:7", "project:8", "int8")
FOLDERS = ("features.zarr", "receipts", "rows", "manifests", "bases")


@pytest.fixture(autouse=True)
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded project is the working directory."""
    safely: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python from 3.11.4 on
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, **safely)
    monkeypatch.chdir(tmp_path)
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(PARAMS)
    del params["pretrain"]  # left the params files since: a section of a command that stands outside
    params["train"]["init"] = "xavier-everywhere"  # has been called so since there were rules as released
    with PARAMS.open("w") as file:
        yaml.dump(params, file)


@pytest.fixture
def same_decoder() -> None:
    """Recipes name the library that decodes images: another version is other pixels, and another store."""
    (array, *_) = (spec for spec in open_store(str(STORE)).arrays() if spec.name == "moments")
    if array.recipe["decoder"] != decoder():
        pytest.skip(f"the store was recorded with {array.recipe['decoder']}, here is {decoder()}")


def stored() -> dict[str, bytes]:
    return {f"{folder}/{name}": data for folder in FOLDERS for name, data in files_below(STORE / folder).items()}


def listen(run: Callable[[Listener], object]) -> list[str]:
    job = Listener()
    run(job)
    return job.lines


@pytest.mark.usefixtures("same_decoder")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_nothing_is_missing_and_every_id_is_the_same(encoding: str) -> None:
    params, runtime = load_params(PARAMS, [f"extract.encoding={encoding}"])
    before, inputs = stored(), files_below(STORE / "inputs")
    ids = {spec.path: spec.id for spec in open_store(str(STORE)).arrays()}
    wanted = PassPlan(params.encode, params.extract, open_store(str(STORE))).arrays()
    assert len(wanted) == 3 * 5
    assert {spec.path: spec.id for spec in wanted}.items() <= ids.items()
    assert listen(lambda job: encode.run(params, runtime, job)) == ["encode: nothing is missing"]
    assert listen(lambda job: extract.run(params, runtime, job)) == ["extract: nothing is missing"]
    now = stored()
    # Which weights a pass was made by is written down since, beside its manifests.
    assert {name for name in now.keys() - before.keys() if "/checkpoints/" not in name} == set()
    assert {name: now[name] for name in before} == before
    if encoding == "int8":  # the last that was extracted
        found = files_below(Path("data/inputs"))
        assert found.pop("store.json")  # which store they are of
        assert found == inputs


def test_the_store_is_whole() -> None:
    assert verify(STORE, open_store(str(STORE)).arrays()) == []


@pytest.mark.usefixtures("same_decoder")
def test_the_head_is_scored_as_it_was() -> None:
    EVALUATE.rename("then")
    params, runtime = load_params(PARAMS)
    assert listen(lambda job: extract.run(params, runtime, job)) == ["extract: nothing is missing"]
    evaluate.run(params, runtime, Listener())
    then, now = (json.loads((folder / "metrics.json").read_text()) for folder in (Path("then"), EVALUATE))
    for section in ("detection", "search", "chance"):
        numbers = {name: value for name, value in then[section].items() if isinstance(value, float)}
        assert {name: now[section][name] for name in numbers} == pytest.approx(numbers, rel=1e-3)
        assert {name: now[section][name] for name in then[section]} | numbers == then[section]
    before, after = (pq.read_table(folder / "detections.parquet") for folder in (Path("then"), EVALUATE))
    assert before["scene_id"].to_pylist() == after["scene_id"].to_pylist()
    for column in ("x1", "y1", "x2", "y2", "score"):
        np.testing.assert_allclose(after[column].to_numpy(), before[column].to_numpy(), rtol=1e-3, atol=1e-3)
    embeddings = [np.array(table["embedding"].to_pylist()) for table in (before, after)]
    np.testing.assert_allclose(*embeddings, atol=1e-3)


def test_the_head_reads_what_it_was_trained_on() -> None:
    params, _ = load_params(PARAMS)
    head = TRAIN / "head"
    found = reading_of(head, PersonSearcher.from_pretrained(head), params.extract)
    assert found == Reading.of(params.train, params.extract)
