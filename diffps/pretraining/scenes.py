"""The scenes a backbone learns from: a world of many cameras and persons, its latents and its masks."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffps.datasets.streets.captions import caption
from diffps.datasets.streets.people import PARTS, Identity, make_identity
from diffps.datasets.streets.scene import DrawnScene, draw_scene
from diffps.datasets.streets.scenery import OBJECTS, make_camera

WORDS = ("person", *PARTS, *OBJECTS)  # the words whose maps are trained, in the order of the masks
STRIDE = 8  # pixels per latent cell
_CROWDS = (0.1, 0.15, 0.2, 0.2, 0.15, 0.1, 0.1)  # how often a scene is given 0, 1, ... 6 persons


@dataclass(frozen=True, slots=True)
class World:
    """Scenes numbered from 0, each deterministic; another ``seed`` has other persons and other cameras."""

    seed: int
    cameras: int
    identities: int

    def scene(self, index: int) -> DrawnScene:
        rng = np.random.default_rng([self.seed, 41, index])
        camera = make_camera(self.seed, int(rng.integers(self.cameras)))
        crowd = int(rng.choice(len(_CROWDS), p=_CROWDS))
        numbers = rng.choice(self.identities, crowd, replace=False)
        return draw_scene(camera, [self.identity(int(number)) for number in numbers], rng)

    def identity(self, number: int) -> Identity:
        return make_identity(self.seed, number)


def pixels(scene: DrawnScene) -> NDArray[np.uint8]:
    """(S, S, 3): the scene as it comes out of its JPEG file."""
    return np.array(Image.open(io.BytesIO(scene.jpeg())))  # a copy: torch wants writable memory


def to_tensor(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """uint8 (S, S, 3) each -> float32 (B, 3, S, S) in [-1, 1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def word_masks(scene: DrawnScene) -> NDArray[np.bool_]:
    """(words, S, S): where each of WORDS is seen."""
    parts = [scene.parts == place + 1 for place in range(len(PARTS))]
    objects = [scene.objects == place + 1 for place in range(len(OBJECTS))]
    return np.stack([scene.instances > 0, *parts, *objects])


@dataclass(frozen=True, slots=True)
class TrainingScenes:
    """``latents`` (N, 4, h, w) float16; ``masks`` (N, words, h, w) uint8, the share of each cell in 1/255;
    ``persons`` (M, 6) int32: scene, identity number, box in pixels, ordered by scene."""

    world: World
    latents: NDArray[np.float16]
    masks: NDArray[np.uint8]
    persons: NDArray[np.int32]

    @classmethod
    def join(cls, pieces: Sequence["TrainingScenes"]) -> "TrainingScenes":
        """Consecutive pieces of one world as one."""
        return cls(
            pieces[0].world,
            np.concatenate([piece.latents for piece in pieces]),
            np.concatenate([piece.masks for piece in pieces]),
            np.concatenate([piece.persons for piece in pieces]),
        )


def encode_scenes(world: World, first: int, last: int, vae: Any, device: torch.device) -> TrainingScenes:
    """Draw scenes ``first`` to ``last`` - 1 of ``world`` and encode them to the VAE's mean."""
    scenes = [world.scene(index) for index in range(first, last)]
    with torch.inference_mode():
        mean = vae.encode(to_tensor([pixels(scene) for scene in scenes]).to(device)).latent_dist.mean
    persons = [(index, p.who.number, *p.box) for index, scene in enumerate(scenes, first) for p in scene.persons]
    return TrainingScenes(
        world,
        mean.half().cpu().numpy(),
        np.stack([_pool(word_masks(scene)) for scene in scenes]),
        np.array(persons, np.int32).reshape(-1, 6),
    )


def _pool(masks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    words, height, width = masks.shape
    cells = masks.reshape(words, height // STRIDE, STRIDE, width // STRIDE, STRIDE)
    pooled: NDArray[np.uint8] = np.rint(cells.mean((2, 4)) * 255).astype(np.uint8)
    return pooled


@dataclass(frozen=True, slots=True)
class Batch:
    """``latents`` (B, 4, c, c) float32; ``masks`` (B, words, c, c) float32 in [0, 1]; a caption each."""

    latents: Tensor
    masks: Tensor
    captions: tuple[str, ...]


def sample_batch(scenes: TrainingScenes, rng: np.random.Generator, size: int, crop: int) -> Batch:
    """``size`` crops of ``crop`` x ``crop`` latent cells, each with a caption of what it shows.

    A person is named when over 40 % of the box lies in the crop, an object when it fills half a cell.
    """
    side = scenes.latents.shape[-1]
    latents, masks, captions = [], [], []
    for index in rng.integers(len(scenes.latents), size=size):
        y, x = (int(offset) for offset in rng.integers(side - crop + 1, size=2))
        window = np.s_[:, y : y + crop, x : x + crop]
        mask = scenes.masks[index][window].astype(np.float32) / 255
        first, last = np.searchsorted(scenes.persons[:, 0], (index, index + 1))
        rows = scenes.persons[first:last]
        left, top, right, bottom = (value * STRIDE for value in (x, y, x + crop, y + crop))
        inside = (np.minimum(rows[:, 4], right) - np.maximum(rows[:, 2], left)).clip(0) * (
            np.minimum(rows[:, 5], bottom) - np.maximum(rows[:, 3], top)
        ).clip(0)
        area = (rows[:, 4] - rows[:, 2]) * (rows[:, 5] - rows[:, 3])
        named = np.flatnonzero(inside > 0.4 * area)
        prominent = named[np.argsort(-area[named], kind="stable")]
        people = [scenes.world.identity(int(number)) for number in rows[prominent, 1]]
        objects = mask[len(WORDS) - len(OBJECTS) :].sum((1, 2)) > 0.5
        things = [word for word, there in zip(OBJECTS, objects, strict=True) if there]
        latents.append(scenes.latents[index][window].astype(np.float32))
        masks.append(mask)
        captions.append(caption(people, things, rng))
    return Batch(torch.from_numpy(np.stack(latents)), torch.from_numpy(np.stack(masks)), tuple(captions))
