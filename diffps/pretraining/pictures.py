"""Pictures of the held-out report: word maps over scenes, and scenes through the VAE."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from diffps.pretraining.maps_report import HeldOut, Maps, enlarge
from diffps.pretraining.scenes import to_tensor

_BAR = 16


def maps_picture(
    rows: Sequence[tuple[str, Mapping[str, Maps]]], held: HeldOut, words: Sequence[str], count: int
) -> Image.Image:
    """For each of the first ``count`` scenes one row per named set of maps: the scene, then the map of each word."""
    tiles = []
    for index in range(min(count, len(held.images))):
        image = held.images[index]
        for name, maps in rows:
            overlays = [_titled(_overlay(image, maps[word][index]), word) for word in words]
            tiles.append(np.concatenate([_titled(image, name), *overlays], axis=1))
    return Image.fromarray(np.concatenate(tiles, axis=0))


def reconstructions_picture(vae: Any, images: Sequence[NDArray[np.uint8]]) -> Image.Image:
    """Scenes above what the VAE makes of them."""
    with torch.inference_mode():
        decoded = vae.decode(vae.encode(to_tensor(images)).latent_dist.mean).sample.clamp(-1, 1)
    restored = ((decoded.permute(0, 2, 3, 1).numpy() + 1) * 127.5).round().astype(np.uint8)
    return Image.fromarray(np.concatenate([np.concatenate(list(images), 1), np.concatenate(list(restored), 1)], 0))


def _overlay(image: NDArray[np.uint8], grid: NDArray[np.float32]) -> NDArray[np.uint8]:
    heat = enlarge((grid - grid.min()) / max(float(np.ptp(grid)), 1e-12), image.shape[:2])[..., None]
    grey = image.mean(2, keepdims=True) * 0.6
    glow = np.array([255.0, 90.0, 0.0])
    blended: NDArray[np.uint8] = (grey * (1 - heat) + glow * heat).clip(0, 255).astype(np.uint8)
    return np.broadcast_to(blended, image.shape)


def _titled(image: NDArray[np.uint8], title: str) -> NDArray[np.uint8]:
    bar = Image.new("RGB", (image.shape[1], _BAR), (255, 255, 255))
    ImageDraw.Draw(bar).text((3, 2), title, fill=(0, 0, 0))
    return np.concatenate([np.asarray(bar), image], axis=0)
