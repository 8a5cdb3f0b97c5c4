"""Which RoIs a head learns from, and cutting RoIs out of a map. Boxes are (x1, y1, x2, y2) in the canvas frame."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torchvision.ops import box_iou, roi_align


class Target(NamedTuple):
    """The persons of one image; the identity -1 is unlabelled."""

    boxes: Float32[Tensor, "n 4"]
    identities: Int64[Tensor, " n"]


class Samples(NamedTuple):
    """Sampled RoIs of one image; ``person`` is the index of the matched person, or -1."""

    boxes: Float[Tensor, "m 4"]
    person: Int64[Tensor, " m"]


def sample_rois(
    boxes: Float[Tensor, "n 4"],
    target: Target,
    *,
    samples: int,
    positive_iou: float,
    negative_iou: float,
    positive_fraction: float,
) -> Samples:
    """Random RoIs of one image from candidates and the persons themselves.

    The positive fraction is kept by shrinking both sides: where one has too few candidates, fewer of the other are
    taken, so an image without persons gives none. Draws from torch's global generator.
    """
    boxes = torch.cat([boxes, target.boxes.to(boxes)])
    if not len(target.boxes):
        return Samples(boxes[:0], torch.zeros(0, dtype=torch.int64, device=boxes.device))
    iou, person = box_iou(target.boxes.to(boxes), boxes).max(dim=0)
    positive, negative = torch.where(iou >= positive_iou)[0], torch.where(iou < negative_iou)[0]
    most_positive = max(1, int(samples * positive_fraction))
    most_negative = samples - most_positive
    # Integers, so that a full side is exactly full: the smaller of the two shares, as a fraction share / scale.
    share, scale = min(
        (1, 1), (len(positive), most_positive), (len(negative), most_negative), key=lambda part: part[0] / part[1]
    )
    positive = _pick(positive, most_positive * share // scale)
    negative = _pick(negative, most_negative * share // scale)
    nobody = torch.full_like(negative, -1)
    return Samples(boxes[torch.cat([positive, negative])], torch.cat([person[positive], nobody]))


def _pick(indices: Int64[Tensor, " n"], count: int) -> Int64[Tensor, " m"]:
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]


def cut_rois(
    features: Float[Tensor, "B C h w"],
    boxes: Sequence[Float[Tensor, "_ 4"]],
    grid: tuple[int, int],
    canvas: tuple[int, int],
    sampling_ratio: int,
) -> Float[Tensor, "R C {grid[0]} {grid[1]}"]:
    """RoIAlign of ``features``, which cover the whole canvas, at each image's boxes; in channels_last memory."""
    scale = features.shape[2] / canvas[0]
    exact = torch.promote_types(features.dtype, torch.float32)  # half precision would move the boxes by pixels
    rois = [image_boxes.to(exact) for image_boxes in boxes]
    cut: Tensor = roi_align(
        features.to(exact), rois, grid, spatial_scale=scale, sampling_ratio=sampling_ratio, aligned=False
    )
    return cut.to(features.dtype, memory_format=torch.channels_last)
