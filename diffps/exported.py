"""A trained head as two ONNX graphs, which run without PyTorch: one finds persons, one embeds boxes that are given.

torchvision's own box selection asks how many boxes are left and cannot be exported. Here as many rows are kept as there
can be, whatever they hold; what is no person is taken out at the end. Boxes, scores and embeddings are those of
:meth:`diffps.model.PersonSearcher.detect`.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import clip_boxes_to_image, nms

from diffps.features import Feature
from diffps.heads.detection import PERSON, SMALLEST_SIDE
from diffps.model import PersonSearcher

DETECT, EMBED = "detect.onnx", "embed.onnx"
OPSET = 18
NOBODY = -1.0  # score of a row that holds no person
SOME = 3  # boxes of the example that a graph is traced with


def write_onnx(searcher: PersonSearcher, folder: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write detect.onnx and embed.onnx of a head in eval mode into ``folder``, which is there.

    Inputs of both: every feature of ``searcher.taps`` under its name, (1, H, W, C) float32, dense and not mirrored;
    embed.onnx also ``boxes`` (n, 4). Outputs: of detect.onnx ``boxes`` (n, 4), ``scores`` (n,), strongest first, and
    ``embeddings`` (n, D); of embed.onnx ``embeddings`` (n, D). Boxes are x1, y1, x2, y2 in the canvas frame. The
    graphs carry ``canvas`` and ``facts`` as metadata. Needs onnx and onnxscript.
    """
    names = list(searcher.taps.names)
    maps = tuple(torch.zeros(1, *searcher.shapes[name]) for name in names)
    height, width = searcher.canvas.height, searcher.canvas.width
    boxes = torch.tensor([[0.0, 0.0, width / 2, height / 2]]).repeat(SOME, 1)
    told = {"canvas": [height, width], **(facts or {})}
    _write(Detect(searcher), maps, None, names, ["boxes", "scores", "embeddings"], folder / DETECT, told)
    several = (tuple(None for _ in maps), {0: torch.export.Dim("n", min=1)})
    _write(_Embed(searcher), (maps, boxes), several, [*names, "boxes"], ["embeddings"], folder / EMBED, told)


class Detect(nn.Module):
    """The features of one image -> its persons."""

    def __init__(self, searcher: PersonSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def forward(self, *maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        searcher = self.searcher
        features = _features(searcher, maps)
        refined = searcher.msfrn(features)
        detection = searcher.detection_map(features, refined)
        proposals, real = self._propose(detection)
        boxes, scores = self._judge(detection, proposals, real)
        embeddings = searcher.reid_head(refined, [boxes])
        persons = torch.nonzero(scores > NOBODY)[:, 0]
        return boxes[persons], scores[persons], embeddings[persons]

    def _propose(self, detection: Tensor) -> tuple[Tensor, Tensor]:
        """Proposals (p, 4), and which of them are any."""
        canvas, rpn = self.searcher.proposals.canvas, self.searcher.proposals.rpn
        images = ImageList(detection.new_empty(()).expand(1, 3, *canvas), [canvas])
        scores, deltas = concat_box_prediction_layers(*rpn.head([detection]))
        boxes = rpn.box_coder.decode(deltas, rpn.anchor_generator(images, [detection]))[:, 0]
        scores, strongest = scores[:, 0].topk(min(rpn.pre_nms_top_n(), len(scores)))
        boxes = clip_boxes_to_image(boxes[strongest], canvas)
        scores = torch.where(_has_sides(boxes, rpn.min_size), scores.sigmoid(), NOBODY)
        boxes, scores = _select(boxes, scores, rpn.nms_thresh, rpn.post_nms_top_n())
        return boxes, scores > NOBODY

    def _judge(self, detection: Tensor, proposals: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (d, 4) and scores (d,) of what the proposals hold."""
        head = self.searcher.box_head
        logits, deltas = head(detection, [proposals])
        boxes = clip_boxes_to_image(head.coder.decode_single(deltas, proposals), head.canvas)
        scores = logits.softmax(1)[:, PERSON]
        person = real & _has_sides(boxes, SMALLEST_SIDE) & (scores > head.config.score_threshold)
        return _select(boxes, torch.where(person, scores, NOBODY), head.config.nms, head.config.detections)


class _Embed(nn.Module):
    """The features of one image and boxes in it -> embeddings."""

    def __init__(self, searcher: PersonSearcher) -> None:
        super().__init__()
        self.searcher = searcher

    def forward(self, maps: tuple[Tensor, ...], boxes: Tensor) -> Tensor:
        refined = self.searcher.msfrn(_features(self.searcher, maps))
        embeddings: Tensor = self.searcher.reid_head(refined, [boxes])
        return embeddings


def _features(searcher: PersonSearcher, maps: tuple[Tensor, ...]) -> dict[str, Feature]:
    return {name: Feature(values) for name, values in zip(searcher.taps.names, maps, strict=True)}


def _has_sides(boxes: Tensor, least: float) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2] >= least).all(1)


def _select(boxes: Tensor, scores: Tensor, overlap: float, count: int) -> tuple[Tensor, Tensor]:
    """``count`` rows: what NMS leaves, strongest first, then rows that hold nobody."""
    kept = nms(boxes, scores, overlap)
    kept = torch.cat([kept, kept.new_full((count,), len(boxes))])[:count]
    boxes = torch.cat([boxes, boxes.new_zeros(1, 4)])
    scores = torch.cat([scores, scores.new_full((1,), NOBODY)])
    return boxes[kept], scores[kept]


def _write(
    module: nn.Module,
    example: tuple[Any, ...],
    several: Any,
    inputs: list[str],
    outputs: list[str],
    path: Path,
    facts: Mapping[str, Any],
) -> None:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch and torchvision warn of each other's insides
        exported = torch.export.export(module.eval(), example, dynamic_shapes=several, strict=False)
        program = torch.onnx.export(
            exported,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table=_operators(),
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
    program.save(path)


def _operators() -> dict[Any, Callable[..., Any]]:
    """What torch's exporter does not know, as ONNX has it."""
    from onnxscript import opset18 as op

    def suppress(boxes: Any, scores: Any, overlap: float) -> Any:
        most, least = op.Constant(value_int=2**62), op.Constant(value_float=overlap)
        found = op.NonMaxSuppression(op.Unsqueeze(boxes, [0]), op.Unsqueeze(scores, [0, 1]), most, least)
        return op.Squeeze(op.Slice(found, [2], [3], [1]), [1])

    def align(
        maps: Any, rois: Any, scale: float, height: int, width: int, samples: int, aligned: bool
    ) -> Any:  # aligned: never here
        images = op.Cast(op.Squeeze(op.Slice(rois, [0], [1], [1]), [1]), to=7)
        return op.RoiAlign(
            maps,
            op.Slice(rois, [1], [5], [1]),
            images,
            spatial_scale=scale,
            output_height=height,
            output_width=width,
            sampling_ratio=samples,
            coordinate_transformation_mode="output_half_pixel",
        )

    def sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
        return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)

    return {
        torch.ops.torchvision.nms.default: suppress,
        torch.ops.torchvision.roi_align.default: align,
        torch.ops.aten.sort.stable: sort,
    }
