"""Whether features know a person again before another camera, next to what colours alone do."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from diffps.datasets.streets.scene import draw_scene
from diffps.datasets.streets.scenery import make_camera
from diffps.pretraining.reading import Reader
from diffps.pretraining.scenes import World, pixels

TAPS = (
    "up-level3-repeat0-vit-block0-self-k",
    "up-level3-repeat0-vit-block0-self-v",
    "up-level3-repeat1-vit-block0-self-k",
    "up-level3-repeat1-res-out",
    "up-level2-repeat2-vit-block0-self-q",
    "up-level1-repeat2-vit-block0-self-q",
)
LEVEL3 = "level 3 together"
STRIPS = 3  # a person is described by the means of as many horizontal strips
_CAMERAS = 6
_PROBE_CAMERAS = 4  # of them, the linear probe learns from these and is tested on the others
_TOGETHER = 3
_RIDGE = 1.0

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Appearances:
    """Persons as seen by cameras: for each a scene, a box in its pixels, an identity, a camera."""

    images: tuple[NDArray[np.uint8], ...]
    scene: NDArray[np.int64]
    boxes: tuple[Box, ...]
    identity: NDArray[np.int64]
    camera: NDArray[np.int64]


def draw_appearances(world: World, identities: int) -> Appearances:
    """Each of ``identities`` persons once before each of six cameras of ``world``, three persons a scene."""
    images: list[NDArray[np.uint8]] = []
    rows: list[tuple[int, int, int]] = []
    boxes: list[Box] = []
    for camera in range(_CAMERAS):
        rng = np.random.default_rng([world.seed, 53, camera])
        order = rng.permutation(identities)
        for start in range(0, identities, _TOGETHER):
            people = [world.identity(int(number)) for number in order[start : start + _TOGETHER]]
            scene = draw_scene(make_camera(world.seed, camera), people, rng)
            for person in scene.persons:
                rows.append((len(images), person.who.number, camera))
                boxes.append(person.box)
            images.append(pixels(scene))
    scene_of, identity, seen_by = np.array(rows, np.int64).T
    return Appearances(tuple(images), scene_of, tuple(boxes), identity, seen_by)


def descriptors(
    reader: Reader, seen: Appearances, timestep: int, advance: Callable[[int], None]
) -> dict[str, NDArray[np.float64]]:
    """{feature: (appearances, D)} for the taps, latents, mean RGB and colour histograms, all over the same strips."""
    found: dict[str, list[NDArray[np.float64]]] = {}
    for part, taken in reader.read(TAPS, timestep, "person"):
        maps = {name: value.permute(0, 3, 1, 2).float().numpy() for name, value in taken.items()}
        maps["latents"] = reader.latents[part].numpy()
        for index in np.flatnonzero((seen.scene >= part.start) & (seen.scene < part.stop)):
            image, box = seen.images[seen.scene[index]], seen.boxes[index]
            described = {name: strip_means(value[seen.scene[index] - part.start], box) for name, value in maps.items()}
            described[LEVEL3] = np.concatenate([described[name] for name in TAPS if "level3" in name])
            described["mean RGB"] = strip_means(image.transpose(2, 0, 1).astype(np.float32), box)
            described["colour histogram"] = strip_histograms(image, box)
            for name, value in described.items():
                found.setdefault(name, []).append(value)
        advance(len(maps["latents"]))
    return {name: np.stack(values) for name, values in found.items()}


def score_identity(values: NDArray[np.float64], seen: Appearances) -> dict[str, float]:
    """Nearest neighbour among all appearances before other cameras, and a linear probe from four cameras to the others.

    Descriptors are standardised; similarity is the cosine. ``chance`` is one over the number of identities.
    """
    standard = (values - values.mean(0)) / (values.std(0) + 1e-6)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    similarity = np.where(seen.camera[:, None] == seen.camera[None, :], -np.inf, unit @ unit.T)
    nearest = seen.identity[similarity.argmax(1)]
    train, test = seen.camera < _PROBE_CAMERAS, seen.camera >= _PROBE_CAMERAS
    names, target = np.unique(seen.identity, return_inverse=True)
    inputs = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    onehot = np.eye(len(names))[target]
    gram = inputs[train].T @ inputs[train] + _RIDGE * inputs.shape[1] * np.eye(inputs.shape[1])
    probe = inputs[test] @ np.linalg.solve(gram, inputs[train].T @ onehot[train])
    return {
        "nearest": float((nearest == seen.identity).mean()),
        "probe": float((probe.argmax(1) == target[test]).mean()),
        "chance": 1.0 / len(names),
    }


def strip_means(grid: NDArray[np.float32], box: Box, side: int = 256) -> NDArray[np.float64]:
    """``grid`` (C, h, w) over a scene of ``side`` pixels -> (3 C,): means over the strips of ``box``."""
    channels, height, width = grid.shape
    columns = _overlap(width, side / width, box[0], box[2])
    edges = np.linspace(box[1], box[3], STRIPS + 1)
    means = []
    for top, bottom in pairwise(edges):
        weight = np.outer(_overlap(height, side / height, top, bottom), columns)
        means.append((grid * weight).reshape(channels, -1).sum(1) / weight.sum())
    return np.concatenate(means).astype(np.float64)


def strip_histograms(image: NDArray[np.uint8], box: Box) -> NDArray[np.float64]:
    """``image`` (S, S, 3) -> (3 * 4**3,): a joint histogram of four levels a channel for each strip of ``box``."""
    x1, y1, x2, y2 = box
    histograms = []
    for rows in np.array_split(image[y1:y2, x1:x2] >> 6, STRIPS):
        codes = rows.reshape(-1, 3) @ np.array([16, 4, 1])
        histograms.append(np.bincount(codes, minlength=64) / max(1, len(codes)))
    return np.sqrt(np.concatenate(histograms))


def _overlap(cells: int, size: float, low: float, high: float) -> NDArray[np.float64]:
    """The length of [low, high) that lies in each of ``cells`` cells of ``size`` pixels."""
    first = np.arange(cells) * size
    overlap: NDArray[np.float64] = (np.minimum(first + size, high) - np.maximum(first, low)).clip(0)
    return overlap
