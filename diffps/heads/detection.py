"""Detection on torchvision's parts: region proposals, then classification and regression of RoIs.

Boxes are (x1, y1, x2, y2) in the canvas frame.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from diffps.heads.config_rois import BoxConfig, RPNConfig
from diffps.heads.sampling import Samples, Target, cut_rois, sample_rois
from diffps.suppression import suppress

PERSON = 1  # the class beside background, 0
SMALLEST_SIDE = 1e-2  # canvas pixels; a smaller decoded box is no box


# Half precision cannot tell neighbouring pixels of a canvas apart: anchors, coordinates and scores are float32.


class _FloatAnchors(AnchorGenerator):
    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(torch.float32, device)


class _FloatRPNHead(RPNHead):
    def forward(
        self, x: list[Float[Tensor, "B C h w"]]
    ) -> tuple[list[Float32[Tensor, "B A h w"]], list[Float32[Tensor, "B 4*A h w"]]]:
        scores, deltas = super().forward(x)
        return [score.float() for score in scores], [delta.float() for delta in deltas]


class _Proposals(RegionProposalNetwork):
    def filter_proposals(
        self,
        proposals: Float32[Tensor, "B n 4"],
        objectness: Float32[Tensor, "..."],
        image_shapes: list[tuple[int, int]],
        num_anchors_per_level: list[int],
    ) -> tuple[list[Float32[Tensor, "_ 4"]], list[Float32[Tensor, " _"]]]:
        """As torchvision's, of the one level there is; suppression ends with the last proposal that is wanted."""
        logits = objectness.detach().reshape(len(proposals), -1)
        strongest = logits.topk(min(self.pre_nms_top_n(), logits.shape[1])).indices
        found, scores = [], []
        for boxes, logit, best, shape in zip(proposals, logits, strongest, image_shapes, strict=True):
            box, score = clip_boxes_to_image(boxes[best], shape), logit[best].sigmoid()
            usable = remove_small_boxes(box, self.min_size)
            usable = usable[score[usable] >= self.score_thresh]
            box, score = box[usable], score[usable]
            kept = suppress(box, score, self.nms_thresh, self.post_nms_top_n())
            found.append(box[kept])
            scores.append(score[kept])
        return found, scores


class ProposalNetwork(nn.Module):
    """torchvision's region proposal network over one map."""

    def __init__(self, config: RPNConfig, channels: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.canvas = canvas
        anchors = _FloatAnchors((tuple(config.anchor_sizes),), (tuple(config.anchor_ratios),))
        self.rpn = _Proposals(
            anchors,
            _FloatRPNHead(channels, anchors.num_anchors_per_location()[0]),
            config.positive_iou,
            config.negative_iou,
            config.samples,
            config.positive_fraction,
            {"training": config.train_before_nms, "testing": config.test_before_nms},
            {"training": config.train_after_nms, "testing": config.test_after_nms},
            config.nms,
        )

    def forward(
        self, features: Float[Tensor, "B C h w"], targets: Sequence[Target] | None = None
    ) -> tuple[list[Float[Tensor, "_ 4"]], dict[str, Float[Tensor, ""]]]:
        """Proposals of each image, and in training the losses rpn_cls and rpn_reg."""
        batch = len(features)
        # torchvision asks the images for their size only; this one has no memory.
        images = ImageList(features.new_empty(()).expand(batch, 3, *self.canvas), [self.canvas] * batch)
        boxes = None if targets is None else [{"boxes": target.boxes} for target in targets]
        proposals, losses = self.rpn(images, {"map": features}, boxes)
        if not self.training:
            return proposals, {}
        return proposals, {"rpn_cls": losses["loss_objectness"], "rpn_reg": losses["loss_rpn_box_reg"]}


class Found(NamedTuple):
    """Persons of one image, strongest first."""

    boxes: Float[Tensor, "n 4"]
    scores: Float[Tensor, " n"]


class BoxHead(nn.Module):
    """RoIAlign, backbone head, mean pool, then a linear classifier and a class-agnostic box regressor."""

    def __init__(self, config: BoxConfig, body: nn.Module, channels: int, canvas: tuple[int, int]) -> None:
        super().__init__()
        self.config = config
        self.canvas = canvas
        self.body = body
        self.classifier = nn.Linear(channels, 2)
        self.regressor = nn.Sequential(nn.Linear(channels, 4), nn.BatchNorm1d(4))
        self.coder = BoxCoder(config.coder_weights)

    def learn(
        self, features: Float[Tensor, "B C h w"], proposals: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]
    ) -> tuple[list[Float[Tensor, "_ 4"]], dict[str, Float[Tensor, ""]]]:
        """Decoded sampled boxes of each image, without gradient, and the losses prop_cls and prop_reg."""
        config = self.config
        samples = [
            sample_rois(
                boxes,
                target,
                samples=config.samples,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                positive_fraction=config.positive_fraction,
            )
            for boxes, target in zip(proposals, targets, strict=True)
        ]
        if sum(len(sample.boxes) for sample in samples) < 2:  # BatchNorm needs two
            nothing = features[:0].sum().float()
            return [sample.boxes[:0] for sample in samples], {"prop_cls": nothing, "prop_reg": nothing}
        scores, deltas = self(features, [sample.boxes for sample in samples])
        losses = self._losses(scores, deltas, samples, targets)
        parts = deltas.detach().split([len(sample.boxes) for sample in samples])
        return [self._decode(part, sample.boxes)[0] for part, sample in zip(parts, samples, strict=True)], losses

    def forward(
        self, features: Float[Tensor, "B C h w"], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> tuple[Float32[Tensor, "R 2"], Float32[Tensor, "R 4"]]:
        """Class logits and box deltas."""
        rois = cut_rois(features, boxes, self.config.grid, self.canvas, self.config.sampling_ratio)
        pooled = self.body(rois).mean((2, 3))
        return self.classifier(pooled).float(), self.regressor(pooled).float()

    def detect(
        self, features: Float[Tensor, "B C h w"], proposals: Sequence[Float[Tensor, "_ 4"]], score_threshold: float
    ) -> list[Found]:
        """What remains of each image's proposals above the threshold and after NMS."""
        counts = [len(boxes) for boxes in proposals]
        if sum(counts) == 0:
            return [Found(boxes, boxes[:, 0]) for boxes in proposals]
        logits, deltas = self(features, proposals)
        scores = logits.softmax(1)[:, PERSON]
        found = []
        for boxes, score, delta in zip(proposals, scores.split(counts), deltas.split(counts), strict=True):
            decoded, kept = self._decode(delta, boxes)
            score = score[kept]
            strong = score > score_threshold
            decoded, score = decoded[strong], score[strong]
            best = batched_nms(decoded, score, torch.zeros_like(score), self.config.nms)[: self.config.detections]
            found.append(Found(decoded[best], score[best]))
        return found

    def _losses(
        self,
        scores: Float32[Tensor, "R 2"],
        deltas: Float32[Tensor, "R 4"],
        samples: Sequence[Samples],
        targets: Sequence[Target],
    ) -> dict[str, Float[Tensor, ""]]:
        person = torch.cat([sample.person for sample in samples])
        positive = person >= 0
        boxes = torch.cat([sample.boxes for sample in samples])
        matched = torch.cat(
            [
                target.boxes[sample.person.clamp_min(0)]
                for sample, target in zip(samples, targets, strict=True)
                if len(sample.boxes)
            ]
        ).to(boxes)
        wanted = self.coder.encode_single(matched[positive], boxes[positive])
        return {
            "prop_cls": F.cross_entropy(scores, positive.long()),
            "prop_reg": F.smooth_l1_loss(deltas[positive], wanted, reduction="sum") / len(person),
        }

    def _decode(
        self, deltas: Float[Tensor, "n 4"], boxes: Float[Tensor, "n 4"]
    ) -> tuple[Float[Tensor, "m 4"], Int64[Tensor, " m"]]:
        """Boxes after regression, inside the canvas and not empty, and the indices of those that are left."""
        decoded = clip_boxes_to_image(self.coder.decode_single(deltas, boxes), self.canvas)
        kept = remove_small_boxes(decoded, SMALLEST_SIDE)
        return decoded[kept], kept
