"""Scenes with persons, and features in which it is known what can be read."""

import numpy as np
import torch

from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.probe.collect import People
from diffps.probe.sample import ProbeSample, draw_sample
from diffps.records import Annotations, Scene

CANVAS = Canvas(128, 128)
SHAPES = {
    "planted": FeatureShape(16, 16, 24),
    "coarse": FeatureShape(4, 4, 24),
    "noise": FeatureShape(16, 16, 12),
    "map.person": FeatureShape(8, 8, 1),
}
MAPS = ("map.person",)


def scenes(
    count: int, identities: int, cameras: int | None = 3, persons: int = 3, seed: int = 0
) -> tuple[list[Scene], dict[str, Annotations]]:
    """Drawn boxes of upright persons, each scene's of different identities, one in five unlabelled."""
    rng = np.random.default_rng(seed)
    found, annotations = [], {}
    for number in range(count):
        name = f"s{number:03d}.jpg"
        camera = None if cameras is None else number % cameras
        found.append(Scene(scene_id=name, split="train", path=name, width=128, height=128, digest=name, camera=camera))
        corners = rng.uniform(0, 70, (persons, 2))
        sizes = rng.uniform((14, 34), (24, 56), (persons, 2))
        names = rng.permutation(identities)[:persons]
        names[rng.random(persons) < 0.2] = -1
        annotations[name] = Annotations(np.concatenate([corners, corners + sizes], 1).astype(np.float32), names)
    return found, annotations


def sample(count: int = 40, identities: int = 12) -> ProbeSample:
    """The scenes above, all of them drawn."""
    return draw_sample(*scenes(count, identities), CANVAS, count, 0)


def people(sample: ProbeSample, rows: range) -> list[People]:
    return [People(sample.scenes[row].scene_id, sample.boxes[row]) for row in rows]


def features(sample: ProbeSample, rows: range) -> dict[str, torch.Tensor]:
    """``planted``: whether a position is a person's, where that person's box lies, and a code of the identity, in
    noise; ``coarse`` its mean over 4 x 4 positions; ``noise``: nothing; the map is bright inside persons. Decided by
    the scene alone."""
    made = [_planted(sample, row) for row in rows]
    return {name: torch.from_numpy(np.stack([each[name] for each in made])).float() for name in SHAPES}


def _planted(sample: ProbeSample, row: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([*sample.scenes[row].scene_id.encode()])
    boxes, identities = sample.boxes[row], sample.identities[row]
    codes = np.random.default_rng(7).normal(size=(100, 8))
    centre = (np.arange(16) + 0.5) * 8
    planted = rng.normal(0, 0.3, (16, 16, 24))
    bright = rng.normal(0, 0.1, (16, 16))
    for box, identity in zip(boxes, identities, strict=True):
        x1, y1, x2, y2 = box
        inside = np.ix_((centre >= y1) & (centre < y2), (centre >= x1) & (centre < x2))
        y, x = np.meshgrid(centre, centre, indexing="ij")
        planted[(*inside, 0)] += 2
        planted[..., 1][inside] = ((x1 + x2) / 2 - x)[inside] / 20
        planted[..., 2][inside] = ((y1 + y2) / 2 - y)[inside] / 20
        planted[..., 3][inside] = np.log(x2 - x1)
        planted[..., 4][inside] = np.log(y2 - y1)
        code = codes[identity] if identity >= 0 else rng.normal(size=8)
        planted[..., 8:16][inside] += code
        bright[inside] += 1
    coarse = planted.reshape(4, 4, 4, 4, 24).mean((1, 3))
    noise = rng.normal(0, 1, (16, 16, 12)) + 30
    return {
        "planted": planted,
        "coarse": coarse,
        "noise": noise,
        "map.person": bright.reshape(8, 2, 8, 2).mean((1, 3))[..., None],
    }
