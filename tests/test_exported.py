"""Heads as ONNX graphs, run by onnxruntime: what they find is what PyTorch finds, within 1e-4."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.ops import nms, roi_align

import diffps.exported
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


def test_what_onnx_is_given_for_torchvisions_operators_does_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    suppress, align, sort = diffps.exported._operators().values()
    boxes = torch.rand(40, 4, generator=generator) * 30
    boxes[:, 2:] += boxes[:, :2]
    scores = torch.rand(40, generator=generator)
    for overlap in (0.1, 0.5):
        kept = suppress(boxes.numpy(), scores.numpy(), overlap)
        assert kept.value.tolist() == nms(boxes, scores, overlap).tolist()
    maps = torch.randn(2, 3, 12, 10, generator=generator)
    rois = torch.cat([torch.tensor([0.0, 1, 0, 1]).repeat(10)[:, None], boxes], dim=1)
    found = align(maps.numpy(), rois.numpy(), 0.25, 3, 2, 2, False)
    expected = roi_align(maps, rois, (3, 2), spatial_scale=0.25, sampling_ratio=2, aligned=False)
    np.testing.assert_allclose(found.value, expected.numpy(), atol=1e-5)
    rows = np.array([[3, 1, 3, 2], [0, 5, 5, 1]], np.float32)
    values, order = (each.value for each in sort(rows, True, 1, True))
    assert (values.tolist(), order.tolist()) == ([[3, 3, 2, 1], [5, 5, 1, 0]], [[0, 2, 3, 1], [1, 2, 3, 0]])
    assert sort(rows)[0].value.tolist() == [[1, 2, 3, 3], [0, 1, 5, 5]]


def test_what_is_traced_and_how_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    class Program:
        def __init__(self) -> None:
            self.model = SimpleNamespace(metadata_props={"kept": "1"})

        def save(self, path: Path) -> None:
            path.write_text(json.dumps(self.model.metadata_props))

    def export(module: torch.nn.Module, example: tuple[Any, ...], **options: Any) -> str:
        assert not module.training
        assert not torch.is_grad_enabled()
        asked.append({"example": example, **options})
        return "exported"

    def write(exported: str, **options: Any) -> Program:
        assert exported == "exported"
        asked[-1].update(options)
        return Program()

    monkeypatch.setattr(torch.export, "export", export)
    monkeypatch.setattr(torch.onnx, "export", write)
    head = searcher()
    write_onnx(head, tmp_path, {"head": "0a"})
    told = {"kept": "1", "canvas": "[128, 192]", "head": '"0a"'}
    assert [json.loads((tmp_path / name).read_text()) for name in (DETECT, EMBED)] == [told, told]
    detect, embed = asked
    names = list(head.taps.names)
    grids = [(1, *head.shapes[name]) for name in names]
    assert [tuple(each.shape) for each in detect["example"]] == grids
    assert detect["input_names"] == names
    assert detect["output_names"] == ["boxes", "scores", "embeddings"]
    assert detect["dynamic_shapes"] is None
    maps, boxes = embed["example"]
    assert [tuple(each.shape) for each in maps] == grids
    assert boxes.tolist() == [[0, 0, 96, 64]] * 3
    assert embed["input_names"] == [*names, "boxes"]
    assert embed["output_names"] == ["embeddings"]
    nothing, several = embed["dynamic_shapes"]
    assert nothing == (None,) * len(names)
    assert (list(several), several[0].__name__, several[0].min) == ([0], "n", 1)
    for options in asked:
        assert (options["strict"], options["dynamo"], options["verbose"], options["opset_version"]) == (
            False,
            True,
            False,
            18,
        )
    with torch.no_grad():
        embedded = diffps.exported._Embed(head.eval())(maps, boxes)
        assert len(embedded) == 3


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
