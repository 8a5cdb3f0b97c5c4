"""The probe, tap by tap from features in memory, by other means: explicit samples, torchvision's RoIAlign and NMS,
scikit-learn's average precision, loops over queries."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from torchvision.ops import box_iou, nms, roi_align

from diffps.geometry import Canvas
from diffps.probe.collect import projection
from diffps.probe.config import ProbeRules
from diffps.probe.ridge import RIDGE
from diffps.probe.sample import ProbeSample
from diffps.probe.windows import draw_windows


def plain_probe(
    features: Mapping[str, torch.Tensor], taps: Sequence[str], sample: ProbeSample, canvas: Canvas, rules: ProbeRules
) -> dict[str, dict[str, np.ndarray]]:
    """Of each tap: ``vectors``, and per scored scene ``precision``, ``shuffled`` and ``found``."""
    return {tap: _tap(features[tap].double(), tap, sample, canvas, rules) for tap in taps}


def _tap(
    feature: torch.Tensor, tap: str, sample: ProbeSample, canvas: Canvas, rules: ProbeRules
) -> dict[str, np.ndarray]:
    width, channels = feature.shape[2:]
    scale = width / canvas.width
    assert scale == feature.shape[1] / canvas.height, "torchvision has one scale for both sides"
    maps = feature.permute(0, 3, 1, 2)
    drawn = [
        draw_windows(scene.scene_id, boxes, canvas, rules.seed)
        for scene, boxes in zip(sample.scenes, sample.boxes, strict=True)
    ]
    matrix = projection(tap, channels, rules)
    nine = _nine(maps, [each.boxes for each in drawn], scale)
    above, sides = nine[:, [0, 2]].mean((1, 2)), nine[:, :, [0, 2]].mean((1, 2))
    parts = torch.stack([nine[:, 1, 1], above, sides], 1)
    x = (parts if matrix is None else parts @ matrix).flatten(1).reshape(len(drawn), len(drawn[0].boxes), -1).numpy()
    fitted = range(sample.fitted)
    samples, own = np.concatenate(x[: sample.fitted]), np.concatenate([drawn[row].right for row in fitted])
    score, wrong = _fit(samples, own), _fit(samples, np.concatenate([drawn[row].dealt for row in fitted]))
    places = _fit(samples[own], np.concatenate([drawn[row].offsets for row in fitted])[own])
    found: dict[str, list] = {"precision": [], "shuffled": [], "found": []}
    for row in range(sample.fitted, len(sample.scenes)):
        scores = score(x[row])
        found["precision"].append(average_precision_score(drawn[row].right, scores.astype(np.float32)))
        found["shuffled"].append(average_precision_score(drawn[row].dealt, wrong(x[row]).astype(np.float32)))
        boxes = _boxes(places(x[row]), drawn[row].boxes, canvas)
        kept = nms(boxes.float(), torch.from_numpy(scores).float(), 0.5)[: rules.boxes]
        overlaps = box_iou(torch.from_numpy(sample.boxes[row]), boxes[kept].float())
        found["found"].append(int((overlaps.amax(1) >= 0.5).sum()))
    boxes_of = [torch.from_numpy(boxes).double() for boxes in sample.boxes]
    rois = roi_align(maps, boxes_of, (24, 12), spatial_scale=scale, sampling_ratio=1, aligned=True)
    strips = rois.reshape(len(rois), channels, rules.strips, -1).mean(3).transpose(1, 2)
    return {name: np.array(values) for name, values in found.items()} | {"vectors": strips.numpy()}


def _nine(maps: torch.Tensor, windows: Sequence[np.ndarray], scale: float) -> torch.Tensor:
    """(n, 3, 3, C) means over windows half as large again; beyond its edge the canvas goes on as it ends."""
    pad = max(maps.shape[2:])
    wide = torch.nn.functional.pad(maps, (pad, pad, pad, pad), mode="replicate")
    grown = []
    for boxes in map(torch.from_numpy, windows):
        more = (boxes[:, 2:] - boxes[:, :2]) / 4
        grown.append(torch.cat([boxes[:, :2] - more, boxes[:, 2:] + more], 1) + pad / scale)
    rois = roi_align(wide, grown, (24, 12), spatial_scale=scale, sampling_ratio=1, aligned=True)
    return rois.reshape(len(rois), -1, 3, 8, 3, 4).mean((3, 5)).permute(0, 2, 3, 1)


def _fit(x: np.ndarray, y: np.ndarray):
    """Ridge regression on standardised channels."""
    mean, spread = x.mean(0), x.std(0)
    spread[spread == 0] = np.inf
    model = Ridge(alpha=RIDGE * len(x)).fit((x - mean) / spread, y.astype(np.float64))
    return lambda rows: model.predict((rows - mean) / spread)


def _boxes(offsets: np.ndarray, windows: np.ndarray, canvas: Canvas) -> torch.Tensor:
    size = windows[:, 2:] - windows[:, :2]
    middle = (windows[:, :2] + windows[:, 2:]) / 2 + offsets[:, :2] * size
    half = size * np.exp(np.clip(offsets[:, 2:], -1, 1)) / 2
    limits = np.array([canvas.width, canvas.height])
    return torch.from_numpy(np.concatenate([np.clip(middle - half, 0, limits), np.clip(middle + half, 0, limits)], 1))
