"""Figures of features and of a head's insides, from a stand-in for the store."""

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from diffps.errors import ConfigError
from diffps.figures.analyses import Person, Shown
from diffps.figures.pictures import crop
from diffps.heads.config import ModelConfig, SFANConfig
from diffps.records import Annotations
from stages import figure
from stages.page import failures, features
from stages.page.evidence import NotThereError
from stages.page.figures import FIGURES, make
from tests.page.conftest import SMALL, Run, save_head
from tests.page.made_probe import write_probe


def test_attention_shows_one_map_per_word_and_scene(filled: Run) -> None:
    sheet = features.attention(filled.evidence)
    assert [[tile.caption for tile in row.tiles] for row in sheet.rows] == [["scene", "person"]] * 2


def test_scenes_shown_come_from_several_cameras(filled: Run) -> None:
    evidence = filled.evidence
    shown = [evidence.scenes[scene.scene_id] for scene in features.shown_scenes(evidence)]
    assert len({scene.camera for scene in shown}) == 2
    assert {scene.split for scene in shown} == {"test"}


def test_a_scene_whose_image_cannot_be_read_is_not_shown(run: Run) -> None:
    first = features.shown_scenes(run.evidence)[0].scene_id
    # Nobody was found in it, so all of its persons were missed.
    path = run.folder / "results/evaluate/detections.parquet"
    table = pq.read_table(path)
    pq.write_table(table.filter(pc.field("scene_id") != first), path)
    (run.folder / "images" / run.evidence.scenes[first].path).write_bytes(b"")
    assert first not in [scene.scene_id for scene in features.shown_scenes(run.evidence)]
    assert failures.failures(run.evidence).rows


def test_components_come_per_tap_and_across_timesteps(filled: Run) -> None:
    (sheet,) = features.components(filled.evidence)
    assert [tile.caption for tile in sheet.rows[0].tiles] == ["scene", "level 3.0 self-k"]
    filled.change("extract", timesteps=(100, 0))
    taps, steps = features.components(filled.evidence)
    assert [tile.caption for tile in steps.rows[0].tiles] == ["scene", "t = 0", "t = 100"]
    assert not np.array_equal(steps.rows[0].tiles[1].image, steps.rows[0].tiles[2].image)
    assert not np.array_equal(taps.rows[0].tiles[1].image, taps.rows[1].tiles[1].image)


@pytest.mark.parametrize(
    ("tap", "label"),
    [
        ("up-level3-repeat0-vit-block0-self-k", "level 3.0 self-k"),
        ("up-level1-repeat2-vit-block0-out", "level 1.2 out"),
        ("up-level1-repeat2-res-out", "up-level1-repeat2-res-out"),
        ("mid-vit-block0-cross-map-heads-first", "mid-vit-block0-cross-map-heads-first"),
    ],
)
def test_taps_of_blocks_have_shorter_names(tap: str, label: str) -> None:
    assert features.label_of(tap) == label


def test_the_head_is_looked_into(filled: Run) -> None:
    evidence = filled.evidence
    assert [len(row.tiles) for row in features.frequency(evidence).rows] == [5, 5]
    semantics = features.semantics(evidence)
    words = evidence.params.encode.words
    assert [len(row.tiles) for row in semantics.rows] == [4 + len(words)] * 4
    assert [tile.caption.split()[0] for tile in semantics.rows[0].tiles[2:-1]] == [*words, "gate"]
    assert len(np.unique(semantics.rows[0].tiles[2].image.reshape(-1, 3), axis=0)) > 5


def test_semantics_show_the_tallest_persons_of_each_scene(filled: Run) -> None:
    """Of equally tall ones the first; how wide they are and where they stand does not matter."""
    evidence = filled.evidence
    scenes = features.shown_scenes(evidence)
    boxes = np.array([[0, 100, 90, 140], [10, 30, 44, 116], [60, 20, 80, 150], [150, 60, 230, 146]], np.float32)
    for scene in scenes:
        evidence.annotations[scene.scene_id] = Annotations(boxes, np.arange(4))
    sheet = features.semantics(evidence)
    expected = [(scene.scene_id, crop(scene.image, boxes[row])) for scene in scenes for row in (2, 1)]
    assert [row.label for row in sheet.rows] == [name for name, _ in expected]
    for row, (_, picture) in zip(sheet.rows, expected, strict=True):
        assert np.array_equal(row.tiles[0].image, picture)


def test_parts_that_are_off_have_no_figure(filled: Run) -> None:
    save_head(filled, ModelConfig(**SMALL, msfrn=None, sfan=None))
    for name, part in (("frequency", "msfrn"), ("semantics", "sfan")):
        with pytest.raises(NotThereError, match=part):
            make(name, filled.evidence)


def test_words_that_say_the_same_everywhere_are_left_out(filled: Run) -> None:
    save_head(filled, ModelConfig(**SMALL, sfan=SFANConfig(temperature=100.0)))
    with pytest.raises(NotThereError, match="shows nothing"):
        make("semantics", filled.evidence)
    filled.report()
    assert 'id="semantics"' not in (filled.folder / "results/report/index.html").read_text()


@pytest.mark.parametrize(("similarity", "gate", "same"), [(0.05, 0.15, True), (0.15, 0, False), (0, 0.25, False)])
def test_a_map_is_one_colour_on_the_scale_it_is_drawn_on(similarity: float, gate: float, same: bool) -> None:
    """Of a map that varies by that much: similarities are drawn from 0 to 1, the gate from 0 to 2."""
    step, flat = np.array([[0, 1], [0, 0]], np.float32), np.full((2, 2), 0.5, np.float32)
    shown = Shown(scene_id="a", image=np.zeros((4, 4, 3), np.uint8))
    similarities = {"person": 0.5 + similarity * step, "face": flat}
    person = Person(
        scene=shown, box=np.zeros(4), before=flat, similarities=similarities, gate=1 + gate * step, after=flat
    )
    assert features.one_colour(person) is same


def test_an_empty_store_is_said(run: Run) -> None:
    run.change("extract", name="other")
    with pytest.raises(NotThereError, match="diffps extract"):
        make("pca", run.evidence)


def test_every_figure_is_drawn_and_unknown_names_list_them(filled: Run) -> None:
    write_probe(filled)
    for name in FIGURES:
        assert make(name, filled.evidence)
    with pytest.raises(ConfigError, match="attention, pca"):
        make("atention", filled.evidence)


def test_a_figure_is_written_and_similarity_leaves_the_threshold_beside_the_head(run: Run) -> None:
    figure.run(run.params, run.runtime, run.job, "similarity")
    assert {path.name for path in Path("results/figures").iterdir()} == {
        "similarity.png",
        "similarity.svg",
        "digests.json",
    }
    assert (run.folder / "results/train/head-similarity.json").exists()
