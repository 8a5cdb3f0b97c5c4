"""What a search says: its hits, what is left out, and whether it can tell a person from strangers."""

import json

import numpy as np
import pytest

from diffps.errors import CalibrationError, DatasetError
from diffps.search.answer import SearchedGallery, find
from diffps.search.calibration import LEVELS, Calibration, SizeThresholds


def gallery(images: int = 5, per_image: int = 4, seed: int = 0) -> SearchedGallery:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((images * per_image, 16))
    embeddings = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    corners = np.tile(np.arange(per_image)[:, None] * [50, 0], (images, 1)) + np.array([10, 20])
    return SearchedGallery(
        embeddings=[embeddings[:7], embeddings[7:]],
        boxes=np.concatenate([corners, corners + np.array([30, 60])], axis=1).astype(np.float32),
        scores=np.linspace(0.5, 1, len(rows), dtype=np.float32),
        images=np.repeat(np.arange(images, dtype=np.int32), per_image),
        names=[f"{number}.jpg" for number in range(images)],
    )


def calibration(
    pictures: int = 1, *, start: float = 0.3, measured: int = 1000, least: float = 0.001, mates: float = 0.0
) -> Calibration:
    """Thresholds in even steps: one in 100 is the eighth. Similarities of mates spread evenly by 1 around ``mates``."""
    thresholds = tuple(start + 0.05 * step for step in range(len(LEVELS)))
    row = SizeThresholds(boxes=measured, thresholds=thresholds, scale=0.05, least=least)
    spread = tuple(np.linspace(mates - 1, mates + 1, 101).clip(-1, 1).tolist())
    counts = {"identities": 40, "unmated": 80, "mated": 90, "scenes": 50, "pool": 2 * measured}
    return Calibration(sizes=(row,), mates=spread, pictures=pictures, **counts)


GALLERY = gallery()
EMBEDDINGS = np.concatenate([np.asarray(part, np.float32) for part in GALLERY.embeddings])
ONE_IN_100 = 0.3 + 0.05 * LEVELS.index(0.01)


def test_hits_come_in_order_with_their_places() -> None:
    answer = find(EMBEDDINGS[9:10], GALLERY, top=6)
    assert [hit.similarity for hit in answer.hits] == sorted((hit.similarity for hit in answer.hits), reverse=True)
    first = answer.hits[0]
    assert (first.row, first.image, first.box) == (9, "2.jpg", (60, 20, 30, 60))
    assert first.similarity == pytest.approx(1, abs=1e-3)
    assert first.score == GALLERY.scores[9]
    assert len(answer.hits) == 6


def test_without_a_calibration_it_is_a_ranking_and_says_so() -> None:
    answer = find(EMBEDDINGS[:1], GALLERY)
    assert len(answer.hits) == 20
    assert answer.threshold is None
    assert {hit.same_person for hit in answer.hits} == {hit.fpir for hit in answer.hits} == {None}
    assert answer.notes == ("20 boxes in 5 images were searched.",)
    assert answer.verdict == (
        "This is a ranking, which cannot tell whether the person is there at all: the head was not calibrated."
    )


def test_with_a_calibration_hits_are_the_person_or_not() -> None:
    answer = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration()])
    assert answer.threshold == pytest.approx(ONE_IN_100)
    assert [hit.same_person for hit in answer.hits] == [True] + [False] * 19
    shares = [hit.fpir for hit in answer.hits]
    assert shares == sorted(shares)  # type: ignore[type-var]
    assert answer.verdict == "1 of the hits shown is taken for the person."
    assert answer.notes[1] == (
        f"Taken for the person is who has a similarity of {ONE_IN_100:.3f} or more: one in 100 strangers finds "
        "somebody so alike in this gallery, and 82% of the pictures of a person who is there are missed."
    )
    assert len(answer.notes) == 2


def test_another_promise_moves_the_threshold() -> None:
    strict = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration()], promise=0.001)
    loose = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration()], promise=0.5)
    assert strict.threshold > loose.threshold  # type: ignore[operator]
    with pytest.raises(CalibrationError, match="lies between 0 and 1"):
        find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration()], promise=1)


def test_nobody_is_an_answer() -> None:
    query = np.random.default_rng(5).standard_normal((1, 16))
    answer = find(query, GALLERY, calibrations=[calibration(start=0.6)])
    assert not any(hit.same_person for hit in answer.hits)
    assert answer.verdict == (
        "Nobody is taken for the person. That says little, since 97% of the pictures of a person who is there are "
        "missed."
    )
    loose = find(query, GALLERY, calibrations=[calibration(start=0.6, mates=0.97)])
    assert loose.verdict.startswith("Nobody is taken for the person. The person may be there all the same: 49% of")


def test_what_was_not_measured_is_said() -> None:
    large = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(measured=10)])
    assert large.notes[-1].startswith("That was measured among up to 10 boxes and is extrapolated to these 20")
    rare = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(least=0.05)])
    assert rare.notes[-1].startswith("That was measured down to one in 20 strangers, on 40 people")
    for start in (0.9, 0.65):
        hopeless = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(start=start)])
        assert hopeless.threshold is not None
        assert hopeless.threshold >= 1
        assert "no likeness is enough" in hopeless.verdict
        assert not any("somebody so alike" in note for note in hopeless.notes)
    assert hopeless.threshold == 1
    assert len(hopeless.notes) == 1


def test_the_edges_of_what_is_said() -> None:
    assert len(find(EMBEDDINGS[:1], gallery(6)).hits) == 20
    with pytest.raises(CalibrationError, match="promise 0: a share"):
        find(EMBEDDINGS[:1], GALLERY, promise=0)
    measured = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(measured=20, least=0.01)])
    assert len(measured.notes) == 2  # just as many boxes, and strangers just as rare, as were measured
    halves = SearchedGallery(
        embeddings=[np.full((2, 4), 0.5, np.float16)],
        boxes=np.zeros((2, 4), np.float32),
        scores=np.zeros(2, np.float32),
        images=np.zeros(2, np.int32),
        names=["a.jpg"],
    )
    alike = find(np.array([[1.0, 0, 0, 0]]), halves, calibrations=[calibration(start=0.15, mates=0.5)])
    assert alike.threshold == alike.hits[0].similarity == 0.5
    assert [hit.same_person for hit in alike] == [True, True]
    assert alike.verdict == "2 of the hits shown are taken for the person."
    unlike = find(-np.array([[1.0, 0, 0, 0]]), halves, calibrations=[calibration(start=0.15, mates=0.5)])
    assert "The person may be there all the same: 50% of" in unlike.verdict


def test_boxes_that_overlap_by_more_than_two_of_a_detector_are_the_same() -> None:
    """A box of 30 x 60 at (10, 20), and others of its size that share two fifths of their union with it and more."""
    assert GALLERY.rows_at("0.jpg", np.array([10, 20, 22, 50])).tolist() == []  # 0.2
    assert GALLERY.rows_at("0.jpg", np.array([10, 20, 40, 44])).tolist() == []  # 0.4
    assert GALLERY.rows_at("0.jpg", np.array([10, 20, 40, 45])).tolist() == [0]


def test_the_query_itself_is_left_out_and_said() -> None:
    own = GALLERY.rows_at("2.jpg", np.array([62, 18, 92, 82]))
    assert own.tolist() == [9]
    answer = find(EMBEDDINGS[9:10], GALLERY, top=19, own=own, calibrations=[calibration()])
    assert 9 not in [hit.row for hit in answer.hits]
    assert (len(answer.hits), answer.boxes, answer.own) == (19, 19, (9,))
    assert answer.notes[0] == "19 boxes in 5 images were searched; the query's own box in 2.jpg is left out."


def test_rows_of_an_image_that_is_not_here() -> None:
    assert GALLERY.rows_of("1.jpg").tolist() == [4, 5, 6, 7]
    assert len(GALLERY.rows_of("other.jpg")) == len(GALLERY.rows_at("other.jpg", np.zeros(4))) == 0


def test_several_pictures_are_searched_as_their_mean_by_their_own_calibration() -> None:
    pictures = EMBEDDINGS[[3, 12]]
    answer = find(pictures, GALLERY, calibrations=[calibration(1), calibration(2, start=0.1)])
    assert answer.pictures == 2
    assert answer.threshold == pytest.approx(ONE_IN_100 - 0.2)
    mean = pictures.mean(0) / np.linalg.norm(pictures.mean(0))
    assert {answer.hits[0].row, answer.hits[1].row} == {3, 12}
    assert answer.hits[0].similarity == pytest.approx(float((EMBEDDINGS @ mean).max()), abs=1e-3)
    unknown = find(EMBEDDINGS[:3], GALLERY, calibrations=[calibration(1), calibration(2)])
    assert unknown.threshold is None
    assert "calibrated for queries of 1, 2 pictures and not of 3" in unknown.verdict


def test_an_empty_gallery_and_one_that_is_all_query() -> None:
    empty = SearchedGallery(
        embeddings=[],
        boxes=np.empty((0, 4), np.float32),
        scores=np.empty(0, np.float32),
        images=np.empty(0, np.int32),
        names=["a.jpg"],
    )
    answer = find(EMBEDDINGS[:1], empty, calibrations=[calibration()])
    assert answer.hits == ()
    assert answer.notes == ("0 boxes in 1 images were searched.",)
    assert answer.verdict == "There is nobody to compare with."
    alone = find(EMBEDDINGS[:1], GALLERY, own=np.arange(20), calibrations=[calibration()])
    assert (alone.hits, alone.boxes, alone.threshold) == ((), 0, None)


def test_an_answer_is_json() -> None:
    answer = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration()])
    value = json.loads(json.dumps(answer.to_json()))
    assert value["hits"][0]["box"] == list(answer.hits[0].box)
    assert value["notes"] == list(answer.notes)


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DatasetError, match="20 embeddings, boxes"):
        SearchedGallery(
            embeddings=GALLERY.embeddings,
            boxes=GALLERY.boxes[1:],
            scores=GALLERY.scores,
            images=GALLERY.images,
            names=GALLERY.names,
        )


def test_an_embedding_by_its_row_through_all_parts() -> None:
    for row in (0, 6, 7, 19):
        assert np.array_equal(GALLERY.embedding(row), EMBEDDINGS[row].astype(np.float16))
    with pytest.raises(IndexError, match="row 0 beyond the gallery's end"):
        GALLERY.embedding(20)


def test_what_is_left_out_is_named_once_per_image() -> None:
    answer = find(EMBEDDINGS[[9, 1]], GALLERY, top=30, own=np.array([9, 1, 2, 9]))
    assert (answer.own, answer.boxes, len(answer.hits)) == ((1, 2, 9), 17, 17)
    assert answer.notes == ("17 boxes in 5 images were searched; the query's own box in 0.jpg, 2.jpg is left out.",)
    assert [hit.row for hit in find(EMBEDDINGS[:1], GALLERY, top=2, own=np.array([0])).hits] == [
        hit.row for hit in find(EMBEDDINGS[:1], GALLERY, top=3).hits[1:]
    ]
    assert find(EMBEDDINGS[:1], GALLERY, top=0).hits == ()


def test_what_was_not_measured_is_said_in_full() -> None:
    large = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(measured=19)])
    assert large.notes[-1] == (
        "That was measured among up to 19 boxes and is extrapolated to these 20; the true share may be several times "
        "as large."
    )
    rare = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(least=0.05)])
    assert rare.notes[-1] == (
        "That was measured down to one in 20 strangers, on 40 people, and is extrapolated beyond."
    )
    hopeless = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(start=0.9)])
    assert hopeless.verdict == (
        "Among so many boxes no likeness is enough to tell a person from a stranger: this is a ranking."
    )
    other = find(EMBEDDINGS[:2], GALLERY, calibrations=[calibration(1), calibration(3)])
    assert other.verdict == (
        "This is a ranking, which cannot tell whether the person is there at all: the head was calibrated for queries "
        "of 1, 3 pictures and not of 2."
    )
    with pytest.raises(CalibrationError) as caught:
        find(EMBEDDINGS[:1], GALLERY, promise=1.5)
    assert str(caught.value) == "promise 1.5: a share of strangers lies between 0 and 1; 0.01 is one in 100"


def test_a_hit_is_worth_what_the_calibration_says() -> None:
    record = calibration()
    answer = find(EMBEDDINGS[:1], GALLERY, calibrations=[calibration(2, start=0.1), record], promise=0.05)
    assert answer.promise == 0.05
    for hit in answer:
        assert hit.fpir == pytest.approx(float(record.fpir(hit.similarity, 20)))
        assert hit.same_person == (hit.similarity >= record.threshold(20, 0.05))


@pytest.mark.parametrize("part", ["boxes", "scores", "images"])
def test_every_part_of_a_gallery_is_as_long_as_the_embeddings(part: str) -> None:
    parts = {name: getattr(GALLERY, name) for name in ("embeddings", "boxes", "scores", "images", "names")}
    with pytest.raises(DatasetError, match=r"^gallery: 20 embeddings, boxes .*, scores .*, images .* do not match$"):
        SearchedGallery(**{**parts, part: parts[part][1:]})
    assert len(GALLERY) == 20
