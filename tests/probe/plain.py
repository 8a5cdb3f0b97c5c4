"""The probe, tap by tap from features in memory, by other means: explicit samples, torchvision's RoIAlign and NMS,
scikit-learn's average precision, loops over queries."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score
from torchvision.ops import box_iou, nms, roi_align

from diffps.geometry import Canvas
from diffps.probe.cells import Grid, drawn_positions
from diffps.probe.collect import projection
from diffps.probe.config import POSITIONS, ProbeRules
from diffps.probe.ridge import RIDGE
from diffps.probe.sample import ProbeSample


def plain_probe(
    features: Mapping[str, torch.Tensor], taps: Sequence[str], sample: ProbeSample, canvas: Canvas, rules: ProbeRules
) -> dict[str, dict[str, np.ndarray]]:
    """Of each tap: ``vectors``, and per scored scene ``precision``, ``shuffled`` and ``found``."""
    finest = max(tuple(value.shape[1:3]) for value in features.values())
    return {tap: _tap(features[tap].double(), tap, sample, canvas, rules, finest) for tap in taps}


def _tap(
    feature: torch.Tensor, tap: str, sample: ProbeSample, canvas: Canvas, rules: ProbeRules, finest: tuple[int, int]
) -> dict[str, np.ndarray]:
    _, height, width, channels = feature.shape
    matrix = projection(tap, channels, rules)
    rows = feature if matrix is None else feature @ matrix.double()
    grid, fine = Grid(height, width, canvas), Grid(*finest, canvas)
    x, person, dealt, offsets = [], [], [], []
    for row in range(sample.fitted):
        owner = grid.owners(sample.boxes[row])
        chosen, order = drawn_positions(height * width, POSITIONS, rules.seed, sample.scenes[row].scene_id)
        x.append(rows[row].reshape(height * width, -1)[chosen].numpy())
        person.append(owner[chosen] >= 0)
        dealt.append((owner[chosen] >= 0)[order])
        offsets.append(grid.offsets(sample.boxes[row], owner)[chosen])
    samples, own = np.concatenate(x), np.concatenate(person)
    score = _fit(samples, own)
    wrong = _fit(samples, np.concatenate(dealt))
    places = _fit(samples[own], np.concatenate(offsets)[own])
    found: dict[str, list] = {"precision": [], "shuffled": [], "found": []}
    for row in range(sample.fitted, len(sample.scenes)):
        each = rows[row].reshape(height * width, -1).numpy()
        scores = torch.from_numpy(score(each)).reshape(1, 1, height, width)
        if (height, width) != finest:
            resized = torch.nn.functional.interpolate(scores, finest, mode="bilinear", align_corners=False)
        else:
            resized = scores
        right = fine.owners(sample.boxes[row]) >= 0
        found["precision"].append(average_precision_score(right, resized.flatten().float().numpy()))
        chosen, order = drawn_positions(height * width, POSITIONS, rules.seed, sample.scenes[row].scene_id)
        labels = (grid.owners(sample.boxes[row])[chosen] >= 0)[order]
        found["shuffled"].append(average_precision_score(labels, wrong(each)[chosen]))
        boxes = _boxes(places(each), grid.centres(), canvas)
        kept = nms(boxes.float(), scores.flatten().float(), 0.5)[: rules.boxes]
        overlaps = box_iou(torch.from_numpy(sample.boxes[row]), boxes[kept].float())
        found["found"].append(int((overlaps.amax(1) >= 0.5).sum()))
    scale = width / canvas.width
    maps = feature.permute(0, 3, 1, 2)
    places = [torch.from_numpy(boxes).double() for boxes in sample.boxes]
    assert scale == height / canvas.height, "torchvision has one scale for both sides"
    rois = roi_align(maps, places, (24, 12), spatial_scale=scale, sampling_ratio=1, aligned=True)
    strips = rois.reshape(len(rois), channels, rules.strips, -1).mean(3).transpose(1, 2)
    return {name: np.array(values) for name, values in found.items()} | {"vectors": strips.numpy()}


def _fit(x: np.ndarray, y: np.ndarray):
    """Ridge regression on standardised channels."""
    mean, spread = x.mean(0), x.std(0)
    spread[spread == 0] = np.inf
    model = Ridge(alpha=RIDGE * len(x)).fit((x - mean) / spread, y.astype(np.float64))
    return lambda rows: model.predict((rows - mean) / spread)


def _boxes(offsets: np.ndarray, centres: np.ndarray, canvas: Canvas) -> torch.Tensor:
    middle = centres + offsets[:, :2]
    half = np.minimum(np.exp(offsets[:, 2:]), [canvas.width, canvas.height]) / 2
    limits = np.array([canvas.width, canvas.height])
    low = np.clip(middle - half, 0, limits)
    high = np.clip(middle + half, low, limits)
    return torch.from_numpy(np.concatenate([low, high], 1))
