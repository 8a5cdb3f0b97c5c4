"""How well word maps lie on what the word names, in scenes of a world that was not trained on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from diffps.datasets.streets.people import PARTS
from diffps.datasets.streets.scene import DrawnScene
from diffps.pretraining.reading import Reader
from diffps.pretraining.scenes import STRIDE, WORDS, pixels, word_masks
from diffps.taps import FeatureName

MAP_TAP = "up-level3-repeat0-vit-block0-cross-map"  # the one that DGRPN reads
_SCALE = 2  # pixel scores are taken at half the scene's side
_LEAST_PIXELS = 45  # of a word in a scene that counts for it
_TALL = 60.0  # pixels; parts are scored inside boxes of persons at least so tall

Maps = NDArray[np.float32]  # (scenes, h, w)


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Scenes with what is needed of them: ``masks`` (N, words, S, S)."""

    scenes: tuple[DrawnScene, ...]
    images: tuple[NDArray[np.uint8], ...]
    masks: NDArray[np.bool_]

    @classmethod
    def draw(cls, scenes: Sequence[DrawnScene]) -> "HeldOut":
        return cls(tuple(scenes), tuple(map(pixels, scenes)), np.stack([word_masks(scene) for scene in scenes]))


def word_maps(reader: Reader, timestep: int, advance: Callable[[int], None]) -> dict[str, Maps]:
    """The map of each of WORDS, the word alone being the prompt, averaged over heads."""
    maps: dict[str, Maps] = {}
    for word in WORDS:
        read = reader.read([MAP_TAP], timestep, word, [word])
        maps[word] = torch.cat([taken[str(FeatureName(MAP_TAP, word))][..., 0] for _, taken in read]).numpy()
        advance(len(reader.latents))
    return maps


def score_words(maps: Mapping[str, Maps], held: HeldOut) -> dict[str, dict[str, float]]:
    """Pointing and pixel AP per word of ``maps`` with chance, over the scenes that show the word.

    Pointing: share of scenes whose map has its highest cell on a cell that shows the word; chance is the share of such
    cells. AP: average precision of the bilinearly enlarged map as a score for the word's pixels; chance is their share.
    """
    scores: dict[str, dict[str, float]] = {}
    for word in maps:
        place, rows = WORDS.index(word), []
        for index in np.flatnonzero(held.masks[:, place].sum((1, 2)) >= _LEAST_PIXELS):
            mask, grid = held.masks[index, place], maps[word][index]
            cells = mask.reshape(grid.shape[0], STRIDE, grid.shape[1], STRIDE).any((1, 3))
            hit = bool(cells.flat[int(grid.argmax())])
            positive = mask[::_SCALE, ::_SCALE]
            rows.append(
                (hit, cells.mean(), average_precision(enlarge(grid, positive.shape), positive), positive.mean())
            )
        if rows:
            pointing, pointing_chance, precision, chance = (float(value) for value in np.mean(rows, axis=0))
            scores[word] = {
                "scenes": len(rows),
                "pointing": pointing,
                "pointing_chance": pointing_chance,
                "ap": precision,
                "ap_chance": chance,
            }
    return scores


def score_parts(maps: Mapping[str, Maps], held: HeldOut) -> dict[str, dict[str, float]]:
    """Pixel AP of each part's map inside the boxes of persons at least 60 pixels tall, with chance."""
    scores: dict[str, dict[str, float]] = {}
    for place, part in enumerate(PARTS, start=1):
        rows = []
        for index, scene in enumerate(held.scenes):
            enlarged = enlarge(maps[part][index], scene.parts.shape)
            for number, person in enumerate(scene.persons, start=1):
                x1, y1, x2, y2 = person.box
                positive = ((scene.parts == place) & (scene.instances == number))[y1:y2, x1:x2]
                if person.height >= _TALL and positive.sum() >= 16:
                    rows.append((average_precision(enlarged[y1:y2, x1:x2], positive), positive.mean()))
        if rows:
            precision, chance = (float(value) for value in np.mean(rows, axis=0))
            scores[part] = {"persons": len(rows), "ap": precision, "ap_chance": chance}
    return scores


def specificity(maps: Mapping[str, Maps], held: HeldOut) -> dict[str, dict[str, float]]:
    """For each word, its map's mean on the pixels of every class over its mean anywhere: 1 is indifference."""
    table: dict[str, dict[str, float]] = {}
    classes = [*WORDS, "background"]
    nothing = ~held.masks.any(1, keepdims=True)
    masks = np.concatenate([held.masks, nothing], axis=1)[:, :, ::_SCALE, ::_SCALE]
    for word in WORDS:
        enlarged = np.stack([enlarge(grid / grid.mean(), masks.shape[2:]) for grid in maps[word]])
        table[word] = {
            name: float(enlarged[masks[:, place]].mean()) for place, name in enumerate(classes) if masks[:, place].any()
        }
    return table


def presence(maps: Maps, held: HeldOut) -> float:
    """How often a scene with persons has a higher peak of the person map than a scene without (0.5 is chance)."""
    peaks = maps.max((1, 2))
    there = held.masks[:, 0].any((1, 2))
    if there.all() or not there.any():
        return float("nan")
    return float((peaks[there][:, None] > peaks[~there][None, :]).mean())


def enlarge(grid: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """(h, w) bilinearly enlarged to ``shape``."""
    large = F.interpolate(torch.from_numpy(grid)[None, None], size=shape, mode="bilinear", align_corners=False)
    enlarged: NDArray[np.float32] = large[0, 0].numpy()
    return enlarged


def average_precision(scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> float:
    """Mean over the positives, best first, of the precision at each; ties in order of position."""
    hits = positive.ravel()[np.argsort(-scores.ravel(), kind="stable")]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())
