"""Heads sent and fetched, by folder and by the hub's local cache, and the calibration that goes with them."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import errors

from diffps.errors import CalibrationError, CheckpointError
from diffps.records import UNLABELLED
from diffps.search.openset import calibrate
from stages.head.calibrated import calibrations_of, keep_calibrations, read_calibrations, said_of
from stages.head.saved import head_digest, training_of
from stages.head.travel import check_complete, find_head, hub_trouble, looks_like_hub_id, pull_head, push_head
from tests.finding.fake import calibration
from tests.search.identities import made_up

NAMES = {"config.json", "model.safetensors", "README.md"}


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """As much of a head as travels."""
    folder = tmp_path / "results" / "head"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"training": {"backbone": {}}}))
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "README.md").write_text("# A head")
    (folder / "notes.txt").write_text("not for others")
    return folder


def in_hub_cache(cache: Path, head: Path, repo: str, commit: str = "a" * 40) -> None:
    """What the hub's library leaves of a repository that it fetched."""
    folder = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(head, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


def test_to_a_folder_and_back(head: Path, tmp_path: Path) -> None:
    keep_calibrations(head, [calibration(1), calibration(2)], {"people": "test"})
    push_head(head, str(tmp_path / "sent"))
    assert {path.name for path in (tmp_path / "sent").iterdir()} == NAMES | {"calibration.json"}
    pull_head(str(tmp_path / "sent"), tmp_path / "fetched")
    assert head_digest(tmp_path / "fetched") == head_digest(head)
    assert read_calibrations(tmp_path / "fetched") == (calibration(1), calibration(2)) == read_calibrations(head)
    with pytest.raises(CheckpointError, match="there already"):
        pull_head(str(tmp_path / "sent"), tmp_path / "fetched")
    with pytest.raises(CheckpointError, match="not empty"):
        push_head(head, str(tmp_path / "sent"))


def test_an_empty_folder_is_taken_and_a_file_is_not(head: Path, tmp_path: Path) -> None:
    for name, copy in (("sent", lambda to: push_head(head, str(to))), ("pulled", lambda to: pull_head(str(head), to))):
        (tmp_path / name).mkdir()
        assert copy(tmp_path / name) in (str(tmp_path / name), tmp_path / name)
        assert {path.name for path in (tmp_path / name).iterdir()} == NAMES
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="file: is there already; name another folder, or delete it$"):
        pull_head(str(head), tmp_path / "file")


def test_a_folder_is_meant_where_its_parent_is_there_or_the_name_is_no_hub_id(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("shared").mkdir()
    for to in ("shared/a-head", str(tmp_path / "not" / "there")):
        assert push_head(head, to, lambda *_: "the hub") == to
        assert {path.name for path in Path(to).iterdir()} == NAMES
    assert push_head(head, "nobody/a-head", lambda *_: "the hub") == "the hub"


def test_to_the_hub(head: Path) -> None:
    sent: dict[str, set[str]] = {}

    def upload(folder: Path, repo: str) -> str:
        sent[repo] = {path.name for path in folder.iterdir()}
        return f"https://hub/{repo}"

    assert push_head(head, "someone/a-head", upload) == "https://hub/someone/a-head"
    assert sent == {"someone/a-head": NAMES}
    assert {path.name for path in head.parent.iterdir()} == {"head"}


def test_from_the_hub_s_local_cache(head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    in_hub_cache(tmp_path / "hub", head, "someone/a-head")
    assert head_digest(find_head("someone/a-head")) == head_digest(head)
    pull_head("someone/a-head", tmp_path / "fetched")
    assert {path.name for path in (tmp_path / "fetched").iterdir()} == NAMES
    with pytest.raises(CheckpointError, match="head someone/else: no such folder here, the hub cannot be reached"):
        find_head("someone/else")
    assert find_head("someone/a-head", "a" * 40) == find_head("someone/a-head", "main") == find_head("someone/a-head")
    with pytest.raises(CheckpointError, match="head someone/a-head: no such folder here, the hub cannot be reached"):
        find_head("someone/a-head", "b" * 40)


@pytest.mark.parametrize("name", ["nowhere", "./nowhere/head", "/nowhere/head", "a/b/c", ""])
def test_a_name_that_is_nothing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not looks_like_hub_id(name)
    with pytest.raises(CheckpointError, match="no such folder|holds no config.json"):
        find_head(name)


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_a_head_that_is_not_whole_is_not_sent(head: Path, lost: str, tmp_path: Path) -> None:
    (head / lost).unlink()
    with pytest.raises(CheckpointError, match=f"{lost} is missing"):
        push_head(head, str(tmp_path / "sent"))
    assert not (tmp_path / "sent").exists()


def test_a_head_that_does_not_say_its_backbone_is_not_sent(head: Path, tmp_path: Path) -> None:
    check_complete(head)
    for training in ({"reading": {}}, None, 3):
        (head / "config.json").write_text(json.dumps({"training": training}))
        assert training_of(head) == (training if isinstance(training, dict) else {})
        with pytest.raises(CheckpointError, match="config.json does not say what backbone .*run `diffps train` again"):
            push_head(head, str(tmp_path / "sent"))
    assert training_of(tmp_path) == {}
    assert head_digest(tmp_path) == ""


def test_the_hub_s_errors_say_what_to_do() -> None:
    def said(kind: type[Exception]) -> str:
        return hub_trouble(kind.__new__(kind))  # as they come: their parts differ from version to version

    assert said(errors.RevisionNotFoundError) == "the repository has no such revision (404)"
    private = "no such repository on the hub, or a private one (401/404); check the id, or `hf auth login`"
    assert said(errors.RepositoryNotFoundError) == said(errors.GatedRepoError) == private
    away = "no such folder here, the hub cannot be reached, or no copy lies in its local cache"
    assert said(errors.LocalEntryNotFoundError) == said(errors.OfflineModeIsEnabled) == said(ConnectionError) == away
    assert hub_trouble(ValueError("not\n  an id")) == "not an id"
    assert hub_trouble(ValueError("x" * 301)) == "x" * 300
    assert hub_trouble(ValueError()) == "ValueError"


def test_a_head_is_calibrated_for_as_many_pictures_as_its_people_are_seen_in() -> None:
    """Up to three; what is seen once cannot be searched for by two."""
    twice = made_up(1, people=30, scenes=60)
    assert [record.pictures for record in calibrations_of(twice)] == [1, 2]
    known = twice.identities != UNLABELLED
    often = replace(
        twice,
        queries=twice.embeddings[known],
        query_identities=twice.identities[known],
        query_scenes=twice.scenes[known][:, None],
    )
    found = calibrations_of(often)
    assert [record.pictures for record in found] == [1, 2, 3]
    assert found[0] == calibrate(often)
    assert found == calibrations_of(often)


def test_what_a_calibration_says_to_people() -> None:
    found = [calibration(1), calibration(2)]
    lines = said_of(found)
    assert [line.partition(" strangers")[0] for line in lines[:-1]] == [
        f"among {boxes} boxes: one in {one_in}"
        for boxes in ("100", "1,000", "10,000", "100,000")
        for one_in in (100, 10)
    ]
    costs = [f"{row['threshold']:.3f}; {row['fnir']:.0%} of the pictures of a person" for row in found[0].table()]
    for line, row, cost in zip(lines, found[0].table(), costs, strict=False):
        assert f"finds somebody of similarity {cost} lie below" in line
        assert line.endswith(" (extrapolated)") is not row["measured"]
    assert {bool(row["measured"]) for row in found[0].table()} == {True, False}
    assert lines[-1] == "for searches by 1 to 2 pictures, measured on 400 people"
    assert said_of(found[:1])[-1] == "for searches by one picture, measured on 400 people"


def test_a_calibration_belongs_to_its_weights(head: Path) -> None:
    assert read_calibrations(head) == ()
    keep_calibrations(head, [calibration(1)], {})
    (head / "model.safetensors").write_bytes(b"others")
    with pytest.raises(CalibrationError, match="other weights.*diffps head calibrate"):
        read_calibrations(head)
    head.with_name("head-calibration.json").write_text("{")
    with pytest.raises(CalibrationError, match="is no calibration"):
        read_calibrations(head)
