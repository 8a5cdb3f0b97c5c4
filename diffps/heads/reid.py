"""The re-ID head: RoIs of F_refined, semantic aggregation, backbone head, part encoder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from diffps.heads.config_rois import ReIDConfig
from diffps.heads.oim import BACKGROUND
from diffps.heads.sampling import Target, cut_rois, sample_rois


class ReIDHead(nn.Module):
    """Boxes in the canvas frame -> embeddings of unit length. ``sfan`` None leaves the RoIs as they are."""

    def __init__(
        self, config: ReIDConfig, sfan: nn.Module | None, body: nn.Module, encoder: nn.Module, canvas: tuple[int, int]
    ) -> None:
        super().__init__()
        self.config = config
        self.canvas = canvas
        self.sfan = sfan
        self.body = body
        self.encoder = encoder

    def sample(
        self, candidates: Sequence[Float[Tensor, "_ 4"]], targets: Sequence[Target]
    ) -> tuple[list[Float[Tensor, "_ 4"]], Int64[Tensor, " R"]]:
        """RoIs of each image to learn from, and the labels of all: identity, UNLABELLED or BACKGROUND."""
        config = self.config
        boxes, labels = [], []
        for image_boxes, target in zip(candidates, targets, strict=True):
            sample = sample_rois(
                image_boxes,
                target,
                samples=config.samples,
                positive_iou=config.positive_iou,
                negative_iou=config.negative_iou,
                positive_fraction=config.positive_fraction,
            )
            boxes.append(sample.boxes)
            if len(sample.boxes):
                matched = target.identities[sample.person.clamp_min(0)]
                labels.append(torch.where(sample.person >= 0, matched, BACKGROUND))
            else:
                labels.append(sample.person)
        return boxes, torch.cat(labels)

    def cut(
        self, features: Float[Tensor, "B C h w"], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float[Tensor, "R C grid_height grid_width"]:
        """RoIs of each image's boxes on ``features``, as SFAN gets them."""
        return cut_rois(features, boxes, self.config.grid, self.canvas, self.config.sampling_ratio)

    def forward(
        self, features: Float[Tensor, "B C h w"], boxes: Sequence[Float[Tensor, "_ 4"]]
    ) -> Float32[Tensor, "R D"]:
        """Embeddings of each image's boxes on ``features``."""
        rois = self.cut(features, boxes)
        if self.sfan is not None:
            rois = self.sfan(rois)
        embedded: Tensor = self.encoder([rois, self.body(rois)])
        return embedded
