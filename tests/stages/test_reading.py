"""What a head is fed: the arrays and manifests that follow from a reading, and how it is kept with the head."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.model import PersonSearcher
from stages import extract, train
from stages.features.reading import Reading, stored_map
from stages.head.saved import reading_of
from stages.places import TRAIN
from tests.world import FLOAT16, TAPS, Project, SmallSource, small_params, train_small

TAP, MAP = "up-level3-repeat0-vit-block0-self-k", "up-level3-repeat0-vit-block0-cross-map.person"
READING = Reading(names=(TAP, MAP), timestep=50, pass_name="base", encoding="int8", head="mean", mirrored=True)

readings = st.builds(
    Reading,
    names=st.lists(st.sampled_from([TAP, MAP, "mid-vit-out", "x.two-words"]), min_size=1, unique=True).map(tuple),
    timestep=st.integers(0, 999),
    pass_name=st.sampled_from(["base", "other"]),
    encoding=st.sampled_from(["float16", "int8", "bitround:7", "project:8"]),
    head=st.one_of(st.just("mean"), st.integers(0, 9)),
    mirrored=st.booleans(),
)


@pytest.mark.parametrize(("flip", "mirrored"), [("cached", True), ("feature", False), ("none", False)])
def test_it_is_six_facts_of_two_sections(flip: str, mirrored: bool) -> None:
    changes: dict[str, Any] = {
        "extract.name": "wide",
        "extract.timesteps": [0, 50],
        "extract.encoding": "project:8",
        "extract.head": 1,
        "train.timestep": 50,
        "train.flip": flip,
    }
    params = small_params(changes)
    assert Reading.of(params.train, params.extract) == Reading(
        names=params.train.taps.names,
        timestep=50,
        pass_name="wide",
        encoding="project:8",
        head=1,
        mirrored=mirrored,
    )


def test_what_decides_nothing_of_it_changes_nothing() -> None:
    plain, other = small_params(), small_params({"train.lr": 0.5, "train.seed": 9, "extract.timesteps": [0, 7]})
    assert Reading.of(plain.train, plain.extract) == Reading.of(other.train, other.extract)


def test_mirrored_images_are_read_for_training_alone() -> None:
    assert READING.views("train") == ("identity", "hflip")
    assert READING.views("test") == ("identity",)
    assert replace(READING, mirrored=False).views("train") == ("identity",)


def test_the_name_of_an_array_says_its_encoding_and_that_of_a_map_its_head() -> None:
    assert stored_map(MAP, "mean") == MAP
    assert stored_map(MAP, 0) == f"{MAP}@head0"
    stored = replace(READING, head=3).stored
    assert stored(MAP) == f"{MAP}@head3"
    assert stored("mid-vit-out") == "mid-vit-out@int8"


def test_a_manifest_stands_for_every_array_of_every_view() -> None:
    folder = Path("data/manifests/extract/train")
    assert list(READING.manifests("train")) == [
        (view, name, folder / view / "base" / "t50" / f"{stored}.json")
        for view in ("identity", "hflip")
        for name, stored in ((TAP, f"{TAP}@int8"), (MAP, MAP))
    ]


def test_the_same_pass_read_otherwise() -> None:
    assert READING.at([MAP]) == replace(READING, names=(MAP,))
    assert READING.at([MAP, TAP], 7) == replace(READING, names=(MAP, TAP), timestep=7)


@given(readings)
def test_json_and_back(reading: Reading) -> None:
    text = json.dumps(reading.to_json())
    assert Reading.from_json(json.loads(text)) == reading
    assert json.dumps(Reading.from_json(json.loads(text)).to_json()) == text


@given(readings, readings)
def test_the_manifests_tell_readings_apart(one: Reading, other: Reading) -> None:
    """Two readings of equal manifests are fed the same, but for the order of names, and a head they have no map of."""

    def files(reading: Reading) -> set[tuple[str, Path]]:
        return {(name, path) for _, name, path in reading.manifests("train")}

    def facts(reading: Reading) -> tuple[Any, ...]:
        maps = any("." in name for name in reading.names)
        taps = any("." not in name for name in reading.names)
        encoding, head = reading.encoding if taps else None, reading.head if maps else None
        return set(reading.names), reading.timestep, reading.pass_name, encoding, head, reading.mirrored

    assert (files(one) == files(other)) == (facts(one) == facts(other))


def test_the_digest_is_over_what_is_read_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert READING.digest(["train", "test"]) == ""
    for split in ("train", "test"):
        for number, (*_, path) in enumerate(READING.manifests(split)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{split} {number}")
    train_only, both = READING.digest(["train"]), READING.digest(["train", "test"])
    assert train_only != both
    assert len(both) == 10
    next(tmp_path.rglob("train/**/*.json")).with_name("another.json").write_text("x")
    assert READING.digest(["train", "test"]) == both
    (*_, of_test) = next(iter(READING.manifests("test")))
    of_test.write_text("other bytes in the store")
    assert READING.digest(["train", "test"]) != both
    assert READING.digest(["train"]) == train_only


def test_it_is_saved_with_the_head(here: Path) -> None:
    params = small_params({"train.epochs": 1, "extract.head": 2, "extract.encoding": "bitround:7"})
    train_small(params, SmallSource())
    elsewhere = small_params({"extract.name": "other"}).extract
    head = TRAIN / "head"
    found = reading_of(head, PersonSearcher.from_pretrained(head), elsewhere)
    assert found == Reading.of(params.train, params.extract)


def test_the_store_holds_its_manifests_once_extract_has_run(small: Project) -> None:
    params = small.params(extract=FLOAT16)
    reading = Reading.of(params.train, params.extract)
    manifests = [path for split in ("train", "test") for *_, path in reading.manifests(split)]
    assert len(manifests) == 3 * 4
    assert all(path.is_file() for path in manifests)
    before = reading.digest(["train", "test"])
    small.run(extract, extract={**FLOAT16, "timesteps": [0, 10]})
    assert reading.digest(["train", "test"]) == before
    assert reading.at(reading.names, 10).digest(["train", "test"]) not in ("", before)


def test_features_computed_now_are_asked_for_exactly_that() -> None:
    section = small_params({"extract.timesteps": [0, 7]}).extract
    reading = replace(READING, timestep=300, encoding="project:8", head=1)
    asked = reading.asked_of(section)
    assert (asked.timesteps, asked.encoding, asked.head) == ((300,), "project:8", 1)
    assert asked.taps == (TAP, MAP.removesuffix(".person"))
    assert asked == replace(section, timesteps=(300,), encoding="project:8", head=1, taps=asked.taps)
    with pytest.raises(ConfigError, match=r"extract\.words \['person'\]: lacks the word of .*cross-map\.head"):
        replace(READING, names=(TAP, MAP.replace("person", "head"))).asked_of(section)


def test_a_head_may_read_taps_that_are_no_longer_extracted(small: Project) -> None:
    """Live features are computed for the head, whatever the parameters keep."""
    sections: dict[str, Any] = {"extract": FLOAT16, "evaluate": {"baseline": False}}
    small.run(train, **sections)
    reading = reading_of(TRAIN / "head", PersonSearcher.from_pretrained(TRAIN / "head"), small.params().extract)
    few = {"taps": [TAPS["detection"], TAPS["guidance"].removesuffix(".person")]}
    taps = {**TAPS, "level1": [], "level2": [], "level3": [TAPS["detection"]]}
    asked = reading.asked_of(small.params(extract=few, train={"taps": taps}).extract)
    assert set(reading.names) <= set(asked.names)


def test_bytes_of_an_image_are_those_of_every_array_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    params = small_params()
    reading = Reading.of(params.train, params.extract)
    paths = [path for *_, path in reading.manifests("test")]
    for number, path in enumerate(paths):
        assert reading.image_bytes() is None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps({"arrays": [{"nbytes": 60 * (number + 1), "images": 6}, {"nbytes": 0, "images": 0}]})
        )
    assert reading.image_bytes() == sum(10 * (number + 1) for number in range(len(paths)))
