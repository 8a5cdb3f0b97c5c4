"""Searching with a head that was trained here: a folder, the test split, the answers and what is refused."""

import csv
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import diffps
from cache import FeatureStore
from cache.traces import find_traces
from diffps.errors import CalibrationError, CheckpointError, ConfigError, DatasetError, ImageError
from diffps.features import Feature
from diffps.images import load_image
from diffps.records import Detections
from diffps.search.answer import SearchedGallery
from stages import find
from stages.config_data import IndexConfig
from stages.features.backbone import PassComputer
from stages.finding.embedder import OnCanvas
from stages.finding.meant import SeveralPeopleError
from stages.finding.photos import Photo
from stages.finding.searcher import Searcher
from stages.job import Runtime, StoppedError, Tracker
from stages.places import EVALUATE, INDEX
from stages.search.tables import read_detections
from tests.world import Listener, StoppingJob

HEAD = Path("results/train/head")
FRAMES = Path("data/streets/frames")
QUERY = FRAMES / "c1s2_000001.jpg"
RUNTIME = Runtime(device="cpu", threads=1, batch=2, vae_batch=2)


class Counting(Listener):
    """Keeps how many new pictures each search computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed: list[int] = []

    @contextmanager
    def track(self, label: str, total: int, unit: str) -> Iterator[Tracker]:
        self.computed.append(total)
        with super().track(label, total, unit) as tracker:
            yield tracker


@pytest.fixture
def project(searchable: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its folder, as the working directory."""
    monkeypatch.chdir(searchable)
    return searchable


@pytest.fixture(scope="module")
def loaded(searchable: Path) -> Searcher:
    """One searcher with its backbone, for tests that only ask."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(searchable)
        searcher = diffps.Searcher.from_pretrained(HEAD.absolute(), galleries=searchable / "kept", runtime=RUNTIME)
        searcher.add(searchable / FRAMES)
    return searcher


def test_a_folder_is_found_what_evaluate_found_in_it(project: Path, loaded: Searcher) -> None:
    found = read_detections(EVALUATE / "detections.parquet")
    assert sum(map(len, found.values())) > 10
    gallery = loaded.gallery
    for name, people in found.items():
        rows = gallery.rows_of(str(project / FRAMES / Path(name).name))
        order = np.argsort(-gallery.scores[rows], kind="stable")
        np.testing.assert_allclose(gallery.boxes[rows][order], people.boxes, atol=0.02)
        np.testing.assert_allclose(gallery.scores[rows][order], people.scores, atol=1e-4)
        for row, embedding in zip(rows[order], people.embeddings, strict=True):
            np.testing.assert_allclose(gallery.embedding(int(row)).astype(float), embedding, atol=2e-3)


def test_what_is_there_is_never_computed_again(project: Path, loaded: Searcher, tmp_path: Path) -> None:
    photos, kept, job = tmp_path / "photos", tmp_path / "galleries", Counting()
    photos.mkdir()
    first, second, third = sorted((project / FRAMES).glob("*s2_*.jpg"))[:3]
    shutil.copy(first, photos)
    searcher = Searcher.from_pretrained(HEAD, galleries=kept, anyway=True, runtime=RUNTIME, job=job)
    searcher.__dict__["_embedder"] = loaded._embedder
    searcher.add(photos)
    searcher.add(photos)
    assert job.computed == [1]
    (photos / first.name).rename(photos / "renamed.jpg")
    shutil.copy(second, photos)
    shutil.copy(third, photos)
    searcher.add(photos)
    assert job.computed == [1, 2]
    assert {Path(name).name for name in searcher.gallery.names} == {"renamed.jpg", second.name, third.name}
    (photos / second.name).unlink()
    (photos / "broken.jpg").write_bytes(third.read_bytes()[:700])
    searcher.add(photos)
    assert {Path(name).name for name in searcher.gallery.names} == {"renamed.jpg", third.name}
    assert [line for line in job.lines if "left out" in line and "broken.jpg" in line]
    assert len({path.parent for path in kept.rglob("gallery.json")}) == 1


def test_kept_features_find_the_same_and_need_no_backbone_again(
    project: Path, loaded: Searcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, store = tmp_path / "photos", tmp_path / "features"
    photos.mkdir()
    first, second, third, *_ = sorted((project / FRAMES).glob("*s2_*.jpg"))
    for path in (first, second, third):
        shutil.copy(path, photos)
    (photos / "torn.jpg").write_bytes(third.read_bytes()[:-900])

    def searched(job: Counting, name: str = "galleries") -> SearchedGallery:
        runtime = replace(RUNTIME, store=str(store))
        kept = {"galleries": tmp_path / name, "keep_features": True, "anyway": True}
        searcher = Searcher.from_pretrained(HEAD.absolute(), runtime=runtime, job=job, **kept)
        searcher.add(photos)
        assert "_embedder" not in searcher.__dict__
        return searcher.gallery

    job = Counting()
    gallery = searched(job)
    assert job.computed == [4, 4]  # features, then people
    assert [line for line in job.lines if "left out" in line and "torn.jpg" in line]
    for path in (first, second, third):
        mine, others = (
            gallery.rows_of(str(photos / path.name)),
            loaded.gallery.rows_of(str(project / FRAMES / path.name)),
        )
        assert len(mine) == len(others) > 0
        np.testing.assert_allclose(gallery.boxes[mine], loaded.gallery.boxes[others], atol=0.02)
        for row, other in zip(mine.tolist(), others.tolist(), strict=True):
            alike = gallery.embedding(row).astype(float) @ loaded.gallery.embedding(other).astype(float)
            assert alike > 0.999
    # As another head would: no gallery of it is there, but all features are.
    monkeypatch.setattr(PassComputer, "rows", None)
    again = Counting()
    assert len(searched(again, "others")) == len(gallery)
    assert again.computed == [4]


def test_kept_features_leave_with_their_picture_and_others_keep_theirs(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "data/features", tmp_path / "features")
    photos, store = tmp_path / "photos", FeatureStore(tmp_path / "features")
    photos.mkdir()
    shared, own = sorted((project / FRAMES).glob("*s2_*.jpg"))[0], photos / "own.jpg"
    shutil.copy(shared, photos)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)).save(own)
    digests = {path.name: Photo.open(path).digest for path in (shared, own)}
    runtime, job = replace(RUNTIME, store=str(store.root)), Counting()

    def search(**kept: bool) -> None:
        searcher = Searcher.from_pretrained(
            HEAD.absolute(), galleries=tmp_path / "kept", anyway=True, runtime=runtime, job=job, **kept
        )
        searcher.add(photos)

    def known() -> set[str]:
        return {digest for digest in store.rows("test").digests if digest}

    before = known()
    search(keep_features=True)
    assert job.computed == [1, 2]  # the test split has brought the other
    assert known() == before | {digests["own.jpg"]}
    # By content, which is how `diffps forget` looks for it.
    assert find_traces(store.root, "test", digests={digests["own.jpg"]}).nbytes > 0
    own.unlink()
    (photos / shared.name).unlink()
    shutil.copy(sorted((project / FRAMES).glob("*s2_*.jpg"))[1], photos)
    search()
    assert known() == before


def test_a_stopped_search_goes_on(project: Path, loaded: Searcher, tmp_path: Path) -> None:
    job = StoppingJob(1)
    stopped = Searcher.from_pretrained(HEAD, galleries=tmp_path, runtime=RUNTIME, job=job)
    stopped.__dict__["_embedder"] = loaded._embedder
    with pytest.raises(StoppedError, match="goes on"):
        stopped.add(project / FRAMES)
    going_on = Counting()
    searcher = Searcher.from_pretrained(HEAD, galleries=tmp_path, runtime=RUNTIME, job=going_on)
    searcher.__dict__["_embedder"] = loaded._embedder
    searcher.add(project / FRAMES)
    assert going_on.computed == [len(list((project / FRAMES).glob("*.jpg"))) - 4]
    np.testing.assert_array_equal(np.sort(searcher.gallery.scores), np.sort(loaded.gallery.scores))


def test_the_query_itself_is_left_out_and_the_answer_says_that_it_is_a_ranking(project: Path, loaded: Searcher) -> None:
    answer = loaded.search(project / QUERY, person=1, top=5)
    assert [hit.similarity for hit in answer] == sorted((hit.similarity for hit in answer), reverse=True)
    assert len(answer.hits) == 5
    assert answer.own
    assert not {hit.row for hit in answer} & set(answer.own)
    assert "own box" in answer.notes[0]
    assert "cannot tell" in answer.verdict
    assert all(hit.same_person is None for hit in answer)


def test_a_box_drawn_where_somebody_was_found_finds_the_same(project: Path, loaded: Searcher) -> None:
    x1, y1, x2, y2 = loaded.ask(project / QUERY, person=1)[0].box.tolist()
    drawn = loaded.search(project / QUERY, box=(x1, y1, x2 - x1, y2 - y1), top=3)
    found = loaded.search(project / QUERY, person=1, top=3)
    assert [hit.row for hit in drawn] == [hit.row for hit in found]
    several = loaded.search(project / QUERY, person=1, also=[], top=3)
    assert several == found


def test_a_query_costs_its_own_picture_and_nothing_of_the_gallery_is_read(
    project: Path, loaded: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    embedder = loaded._embedder
    through = embedder._features

    def watched(pictures: Sequence[OnCanvas]) -> dict[str, Feature]:
        seen.extend(picture.digest for picture in pictures)
        return through(pictures)

    monkeypatch.setattr(embedder, "_features", watched)
    assert loaded.search(project / QUERY, box=(10, 10, 30, 60)).hits
    assert seen == [Photo.open(project / QUERY).digest]
    assert loaded.find([3]).hits
    assert len(seen) == 1


def test_the_test_split_is_searched_without_store_images_or_backbone(project: Path, tmp_path: Path) -> None:
    for folder in (INDEX, EVALUATE):
        shutil.copytree(folder, tmp_path / folder)
    (tmp_path / "streets.json").write_text("{}")
    searcher = Searcher.from_pretrained(HEAD, runtime=replace(RUNTIME, store=str(tmp_path / "nowhere")))
    searcher.add_evaluated(tmp_path / INDEX, tmp_path / EVALUATE, tmp_path)
    found = read_detections(EVALUATE / "detections.parquet")
    assert len(searcher.gallery) == sum(map(len, found.values()))
    assert searcher.find([0]).boxes == len(searcher.gallery) - 1
    assert "_embedder" not in searcher.__dict__
    assert not (tmp_path / "nowhere").exists()


def test_several_people_are_asked_about(project: Path, loaded: Searcher) -> None:
    with pytest.raises(SeveralPeopleError, match="people are in it; say which") as told:
        loaded.search(project / QUERY)
    assert len(told.value.people) > 1
    with pytest.raises(ConfigError, match="person 99: .* expected 1 to"):
        loaded.search(project / QUERY, person=99)


def test_who_is_meant_is_said_once(project: Path, loaded: Searcher, monkeypatch: pytest.MonkeyPatch) -> None:
    first, other, *_ = sorted((project / FRAMES).glob("*s2_*.jpg"))
    with pytest.raises(ConfigError, match="--person and --box both say who"):
        loaded.search(first, person=1, box=(1, 1, 20, 20))
    with pytest.raises(ConfigError, match=rf"{other.name}: \d+ people are in it; cut out the one") as told:
        loaded.search(first, person=1, also=[other])
    assert not isinstance(told.value, SeveralPeopleError)  # whose remedy is of the query alone
    found = loaded.detect(Photo.open(first))
    alone = Detections(found.boxes[:1], found.scores[:1], found.embeddings[:1])
    monkeypatch.setattr(loaded, "_detect", lambda photo, threshold: alone)
    assert [part.photo.name for part in loaded.ask(first, also=[other])] == [str(first), str(other)]
    with pytest.raises(ConfigError, match=f"{other.name}: shows what another picture"):
        loaded.ask(first, also=[other, other])


@pytest.mark.parametrize("promise", [0, 1, -0.1, 2, float("nan")])
def test_a_promise_that_is_none_is_refused_without_a_calibration_too(
    project: Path, loaded: Searcher, promise: float
) -> None:
    with pytest.raises(CalibrationError, match="promise .*lies between 0 and 1"):
        loaded.search(project / QUERY, person=1, promise=promise)
    with pytest.raises(CalibrationError, match="promise .*lies between 0 and 1"):  # before anything is loaded
        find.run(find.SearchRequest(query=QUERY, folder=None, head="nowhere", promise=promise), RUNTIME, Listener())


@pytest.mark.parametrize(
    ("box", "said"),
    [
        ((0, 0, 500, 10), "lies outside .* which is 128 x 128 pixels"),
        ((-2, 0, 5, 10), "lies outside"),
        ((0, 0, 0, 10), "expected x,y,width,height"),
        ((0, 0, float("nan"), 10), "expected x,y,width,height"),
        ((0, 0, 5), "expected x,y,width,height"),
    ],
)
def test_a_box_that_is_none(project: Path, loaded: Searcher, box: tuple[float, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        loaded.search(project / QUERY, box=box)


def test_a_head_of_drawings_is_not_shown_photographs_unless_told_twice(
    project: Path, loaded: Searcher, tmp_path: Path
) -> None:
    photo = tmp_path / "me.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 60, 3), np.uint8)).save(photo)
    for shown in (lambda: loaded.add(tmp_path), lambda: loaded.search(photo)):
        with pytest.raises(ImageError, match="trained on drawn scenes.*--anyway"):
            shown()
    with pytest.raises(ImageError, match="trained on drawn scenes"):
        loaded.detect(Photo.open(photo))
    assert loaded.detect(Photo.open(project / QUERY))


def test_the_door_answers_in_words_as_a_page_and_as_files(
    project: Path, loaded: Searcher, capsys: pytest.CaptureFixture[str]
) -> None:
    job = Listener()
    index = IndexConfig(root="data/streets")
    x1, y1, x2, y2 = loaded.ask(project / QUERY, person=1)[0].box.tolist()
    box = (x1, y1, x2 - x1, y2 - y1)
    find.run(find.SearchRequest(query=QUERY, folder=None, index=index, box=box, top=4, format="csv"), RUNTIME, job)
    assert "cannot tell" in capsys.readouterr().out
    assert not any(QUERY.name in line for line in job.lines)  # they are kept in a log
    assert "<html" in Path("results/search/index.html").read_text()[:200]
    with Path("results/search/hits.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    test_frames = {f"data/streets/frames/{path.name}" for path in FRAMES.glob("*s2_*.jpg")}
    assert {row["image"] for row in rows} <= test_frames
    with pytest.raises(ConfigError, match="people.jpg has their numbers"):
        find.run(find.SearchRequest(query=QUERY, folder=None, index=index), RUNTIME, job)
    assert load_image("results/search/people.jpg").shape == (128, 128, 3)


def test_what_is_missing_is_said_before_anything_is_loaded(project: Path, loaded: Searcher, tmp_path: Path) -> None:
    def asked(folder: Path | None, head: str = str(HEAD)) -> None:
        find.run(find.SearchRequest(query=QUERY, folder=folder, head=head), RUNTIME, Listener())

    with pytest.raises(DatasetError, match="no such folder"):
        asked(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no such folder"):
        asked(FRAMES, "nowhere")
    with pytest.raises(ConfigError, match="--keep-features: .* name a folder with --in"):
        find.run(find.SearchRequest(query=QUERY, folder=None, keep_features=True), RUNTIME, Listener())
    with pytest.raises(ConfigError, match="name the picture"):
        find.run(find.SearchRequest(query=None, folder=FRAMES), RUNTIME, Listener())
    (tmp_path / "streets.json").write_text("{}")
    with pytest.raises(DatasetError, match="holds no picture"):
        loaded.add(tmp_path)


def test_the_test_split_has_to_be_evaluated_with_this_head(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "head"
    shutil.copytree(HEAD, other)
    tensors = load_file(other / "model.safetensors")
    tensors["box_head.classifier.bias"] *= 2
    save_file(tensors, other / "model.safetensors")
    searcher = Searcher.from_pretrained(other, runtime=RUNTIME)
    with pytest.raises(ConfigError, match="are of another head.*diffps evaluate"):
        searcher.add_evaluated(INDEX, EVALUATE, project / "data/streets")
    with pytest.raises(ConfigError, match="are not there.*diffps evaluate"):
        searcher.add_evaluated(INDEX, tmp_path, project / "data/streets")


def test_another_backbone_is_refused_by_its_digest(project: Path, tmp_path: Path) -> None:
    searcher = Searcher.from_pretrained(HEAD, checkpoint="builtin:streets", galleries=tmp_path, runtime=RUNTIME)
    with pytest.raises(CheckpointError, match="another backbone than builtin:streets .*unet"):
        searcher.search(QUERY, person=1)
    searcher = Searcher.from_pretrained(HEAD, checkpoint="someone/sd", galleries=tmp_path, runtime=RUNTIME)
    with pytest.raises(CheckpointError, match="not on this machine: `hf download someone/sd` .*5 GB"):
        searcher.search(QUERY, person=1)


def test_a_head_without_its_backbone_s_name_is_refused(project: Path, tmp_path: Path) -> None:
    old = tmp_path / "head"
    shutil.copytree(HEAD, old)
    config = json.loads((old / "config.json").read_text())
    del config["training"]["backbone"]
    (old / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="does not say what backbone"):
        Searcher.from_pretrained(old)
