"""Heads as ONNX graphs, run by onnxruntime: what they find is what PyTorch finds, within 1e-4."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffps.errors import CheckpointError
from diffps.exported import DETECT, EMBED, Detect, write_onnx
from diffps.features import Feature
from diffps.model import PersonSearcher
from stages.head.exchange import export_head
from stages.head.saved import head_digest
from tests.heads.scenes import CONFIG, scenes, searcher
from tests.heads.test_model import VARIANTS

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


def images(head: PersonSearcher, count: int) -> list[dict[str, Feature]]:
    """Features of one scene each; guidance in few steps, so that peaks are equal and the first of them counts."""
    found = []
    for number in range(count):
        features = scenes(1, persons=3, seed=number).features
        guidance = features["m.person"].values
        features["m.person"] = Feature((guidance * 4).round() / 4)
        found.append({name: features[name] for name in head.taps.names})
    return found


def willing(name: str) -> PersonSearcher:
    """A head with first weights that takes every box for a person: with others it may find nobody."""
    head = searcher(VARIANTS[name]).eval()
    with torch.no_grad():
        head.box_head.classifier.bias += torch.tensor([-5.0, 5.0])
    return head


def run(path: Path, features: dict[str, Feature], **more: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(path)
    given = {name: feature.values.numpy() for name, feature in features.items()}
    outputs: list[np.ndarray[Any, Any]] = session.run(None, given | more)
    return outputs


def check(head: PersonSearcher, folder: Path, *, least: int = 1) -> None:
    for features in images(head, 3):
        (expected,) = head.detect(features)
        boxes, scores, embeddings = run(folder / DETECT, features)
        assert len(expected.boxes) >= least
        assert boxes.shape == expected.boxes.shape
        np.testing.assert_allclose(boxes, expected.boxes, atol=1e-4)
        np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
        np.testing.assert_allclose(embeddings, expected.embeddings, atol=1e-4)
        for count in (1, 5):
            given = torch.rand(count, 4) * 60
            given[:, 2:] += given[:, :2]
            (expected_embeddings,) = head.embed(features, [given])
            (found,) = run(folder / EMBED, features, boxes=given.numpy())
            np.testing.assert_allclose(found, expected_embeddings.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_as_many_rows_as_there_can_be_hold_the_same_persons(name: str) -> None:
    """What is traced, run by PyTorch itself."""
    head = willing(name)
    for features in images(head, 2):
        (expected,) = head.detect(features)
        assert len(expected.boxes)
        with torch.no_grad():
            found = Detect(head)(*(features[each].values for each in head.taps.names))
        for mine, theirs in zip(found, (expected.boxes, expected.scores, expected.embeddings), strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs, atol=1e-5)


def test_where_nobody_is_found_there_are_no_rows() -> None:
    head = searcher(replace(CONFIG, box=replace(CONFIG.box, score_threshold=0.999))).eval()
    (features,) = images(head, 1)
    with torch.no_grad():
        found = Detect(head)(*(features[each].values for each in head.taps.names))
    assert [tuple(each.shape) for each in found] == [(0, 4), (0,), (0, CONFIG.embedding.size)]


@pytest.mark.parametrize("thin", ["proposals", "boxes"])
def test_what_is_thinner_than_a_box_is_nobody(thin: str) -> None:
    """Proposals of some ten thousandths of a pixel, which the box head would widen again; and its own boxes."""
    head = willing("as is")
    with torch.no_grad():
        if thin == "proposals":
            head.proposals.rpn.head.bbox_pred.bias[2::4] -= 12.5
        head.box_head.regressor[1].bias[2] += 50 if thin == "proposals" else -100
        (features,) = images(head, 1)
        found = Detect(head)(*(features[each].values for each in head.taps.names))
    assert len(head.detect(features)[0].boxes) == len(found[0]) == 0


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        export_head(str(tmp_path / "none"), tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="there already"):
        export_head(str(tmp_path / "none"), tmp_path / "out")


def test_an_export_is_written_whole_and_says_whose_it_is(tmp_path: Path) -> None:
    searcher().save_pretrained(tmp_path / "head", {"reading": {"timestep": 50}})
    told: dict[str, Any] = {}

    def write(head: PersonSearcher, place: Path, facts: Mapping[str, Any]) -> None:
        told.update(facts, canvas=head.canvas)
        (place / DETECT).write_text("a graph")
        if head.training:
            raise ValueError("nothing is trained here")

    (tmp_path / "out").mkdir()  # an empty one is as good as none
    assert export_head(str(tmp_path / "head"), tmp_path / "out", write) == tmp_path / "out"
    assert (tmp_path / "out" / DETECT).read_text() == "a graph"
    assert told == {"head": head_digest(tmp_path / "head"), "reading": {"timestep": 50}, "canvas": searcher().canvas}


def test_an_export_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    searcher().save_pretrained(tmp_path / "head")

    def write(_head: PersonSearcher, place: Path, _facts: Mapping[str, Any]) -> None:
        (place / DETECT).write_text("a graph")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_head(str(tmp_path / "head"), tmp_path / "out", write)
    assert [path.name for path in tmp_path.iterdir()] == ["head"]


@pytest.mark.slow
def test_a_head_is_exported_and_finds_the_same(tmp_path: Path) -> None:
    searcher().save_pretrained(tmp_path / "head")
    export_head(str(tmp_path / "head"), tmp_path / "out")
    check(PersonSearcher.from_pretrained(tmp_path / "head"), tmp_path / "out")
    told = onnxruntime.InferenceSession(tmp_path / "out" / DETECT).get_modelmeta().custom_metadata_map
    assert told["canvas"] == "[128, 192]"
    assert told["head"] == f'"{head_digest(tmp_path / "head")}"'


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all off", "shared features", "another wavelet", "convnext", "gfe"])
def test_other_heads_are_exported(name: str, tmp_path: Path) -> None:
    head = willing(name)
    write_onnx(head, tmp_path)
    check(head, tmp_path)


@pytest.mark.slow
def test_where_a_graph_finds_nobody_there_are_no_rows(tmp_path: Path) -> None:
    head = searcher(replace(CONFIG, box=replace(CONFIG.box, score_threshold=0.999))).eval()
    write_onnx(head, tmp_path)
    check(head, tmp_path, least=0)
