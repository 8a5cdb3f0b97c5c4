"""Whom a head is trained on: scenes drawn, people held out and numbered, on the made-up index."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffps.datasets.tables import read_annotations
from diffps.errors import ConfigError, DatasetError
from diffps.records import UNLABELLED
from diffps.schedule import Sample
from stages.finding.strangers import strangers
from stages.head.data import TrainingSet, held_out_people, training_set
from stages.places import INDEX
from stages.search.gallery import open_task, read_search_set
from tests.world import SIZE, small_params


def made(skipped: tuple[str, ...] = (), **train: Any) -> TrainingSet:
    params = small_params({f"train.{name}": value for name, value in train.items()})
    return training_set(params.train, params.encode.frame, INDEX, skipped)


def test_people_are_numbered_from_nought_and_their_boxes_lie_on_the_canvas(here: Path) -> None:
    found = made()
    assert (found.identities, len(found.order.scene_ids), dict(found.held_out)) == (4, 8, {})
    assert (found.order.batch, found.order.flip, found.mirror_features) == (2, True, False)
    assert found.persons["c2_0.jpg"].identities.tolist() == [2, 3, UNLABELLED]
    left, top, right, bottom = found.persons["c2_0.jpg"].boxes[0]
    assert right - left == pytest.approx(30 * SIZE / 100)
    assert (top, bottom) == pytest.approx((8 * SIZE / 80, 70 * SIZE / 80))
    target = found.target(Sample("c2_0.jpg", False))
    assert target.boxes.numpy().tolist() == found.persons["c2_0.jpg"].boxes.tolist()
    mirrored = found.target(Sample("c2_0.jpg", True))
    assert mirrored.boxes[0].tolist() == pytest.approx([SIZE - right, top, SIZE - left, bottom])
    assert mirrored.identities.tolist() == [2, 3, UNLABELLED]
    assert (made(flip="none").order.flip, made(flip="feature").mirror_features) == (False, True)


def test_scenes_are_drawn_by_the_seed_and_those_skipped_are_not_there(here: Path) -> None:
    first, again, other = made(scenes=4), made(scenes=4), made(scenes=4, data_seed=8)
    assert len(first.persons) == 4
    assert list(first.persons) == sorted(first.persons) == list(again.persons) != list(other.persons)
    assert first.digest() == again.digest() != other.digest()
    assert len(first.digest()) == 10
    assert len(made(scenes=8).persons) == 8
    with pytest.raises(ConfigError, match=r"^train\.scenes 9: the index has 8 training scenes$"):
        made(scenes=9)
    assert sorted(made(("c3_0.jpg", "c0_0.jpg")).persons) == [f"c{number}_0.jpg" for number in (1, 2, 4, 5, 6, 7)]
    with pytest.raises(DatasetError, match=r"images\.parquet lists no readable training scenes: nothing to train on"):
        made(tuple(f"c{number}_0.jpg" for number in range(8)))


def test_a_batch_may_hold_every_scene_and_no_more(here: Path) -> None:
    assert made(batch=8).order.batches_per_epoch == 1
    with pytest.raises(ConfigError, match=r"8 scenes are left to train on \(holdout 0\.0 takes 0\), fewer than one"):
        made(batch=9)


def test_one_of_four_people_is_held_out_with_every_scene_that_shows_them(here: Path) -> None:
    """Of 0.01 too: a share is rounded up."""
    for share, count in ((0.01, 1), (0.25, 1), (0.26, 2)):
        found = made(holdout=share, batch=1)
        names = {int(i) for persons in found.held_out.values() for i in persons.identities} - {UNLABELLED}
        assert len(names) == count
        shown = {
            scene_id
            for scene_id, persons in read_annotations(INDEX).items()
            if scene_id.endswith("_0.jpg") and names & set(persons.identities.tolist())
        }
        assert set(found.held_out) == shown
        assert set(found.persons) == {f"c{number}_0.jpg" for number in range(8)} - shown
        assert found.identities == len({i for p in found.persons.values() for i in p.identities.tolist()} - {-1})
        params = small_params({"train.holdout": share, "train.batch": 1})
        people = held_out_people(params.train, INDEX)
        assert {name: p.identities.tolist() for name, p in people.items()} == {
            name: p.identities.tolist() for name, p in found.held_out.items()
        }
        name = next(iter(people))
        np.testing.assert_array_equal(people[name].boxes, read_annotations(INDEX)[name].boxes)  # in the scene frame


def test_strangers_are_those_held_out_or_those_of_the_test_split(here: Path) -> None:
    train = small_params({"train.holdout": 0.25}).train
    found = strangers(train, INDEX, "held-out")
    assert {scene.scene_id for scene in found.scenes} == set(found.annotations) == set(held_out_people(train, INDEX))
    assert [found.numbers[scene.scene_id] for scene in found.scenes] == list(range(len(found.scenes)))
    assert (found.queries, found.queries_in) == ((), {})
    test = strangers(replace(train, holdout=0.0), INDEX, "test")
    assert [scene.scene_id for scene in test.scenes] == [f"c{number}_1.jpg" for number in range(6)]
    assert set(test.annotations) == set(test.numbers) == {scene.scene_id for scene in test.scenes}
    with pytest.raises(ConfigError, match=r"^train\.holdout is 0, so no identity was kept from the head"):
        strangers(replace(train, holdout=0.0), INDEX, "held-out")


def test_the_test_split_says_who_is_asked_for_where(here: Path) -> None:
    test = read_search_set(INDEX)
    assert test.numbers == {f"c{number}_1.jpg": number for number in range(6)}
    assert test.queries_in == {f"c{number}_1.jpg": [number] for number in range(4)}
    assert open_task("all", "protocol", test, INDEX).name == "all"
    with pytest.raises(ConfigError, match=r"^evaluate\.gallery 7: this dataset has all, same_camera, cross_camera$"):
        open_task(7, "protocol", test, INDEX)
