"""Bases of ``project:k``: a seeded sample of the training images, and the principal channels fitted on it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache import Basis, fit_basis, parse_encoding
from cache.encodings import Project
from diffps.backbone.latents import NoiseKey
from diffps.records import Scene
from stages.features.batches import chunks
from stages.features.plan import PassPlan

BASIS_IMAGES = 64
BASIS_POSITIONS = 1024  # per image

Keyed = tuple[NoiseKey, NDArray[Any]]  # an image's key and its moments (h, w, 8)


def basis_sample(scenes: Sequence[Scene], seed: int) -> list[Scene]:
    """The scenes that the basis of ``project:k`` is fitted on: of the training split, or of the only one there is."""
    train = [scene for scene in scenes if scene.split == "train"] or list(scenes)
    chosen = np.random.default_rng(seed).permutation(len(train))[:BASIS_IMAGES]
    return [train[row] for row in sorted(chosen.tolist())]


class BasisFit:
    """Gathers a seeded sample of positions of one tap: of equal features the same ones, whatever else is asked for."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)
        self._rows: list[NDArray[Any]] = []

    def add(self, feature: NDArray[Any]) -> None:
        """``feature`` (H, W, C) of the next image."""
        rows = feature.reshape(-1, feature.shape[-1])
        chosen = self._generator.permutation(len(rows))[:BASIS_POSITIONS]
        self._rows.append(rows[chosen])

    def basis(self, encoding: str) -> Basis:
        """The first k principal channels for ``project:k``. Raises EncodingError where there are not as many."""
        project = parse_encoding(encoding)
        assert isinstance(project, Project)
        return fit_basis(np.concatenate(self._rows), project.k)


def fit_bases(
    plan: PassPlan,
    features: Callable[[Sequence[Keyed], int, int], Iterator[dict[str, NDArray[Any]]]],
    images: Sequence[Keyed],
    timesteps: Sequence[int],
    batch: int,
) -> None:
    """Fit and keep the bases that ``plan`` lacks, on ``images`` of the training split, identity view.

    ``features(images, timestep, batch)`` gives {name: (H, W, C)} of up to ``batch`` images.
    """
    for timestep in plan.unfitted(timesteps):
        fits = {tap: BasisFit(plan.extract.seed) for tap in plan.without_basis(timestep)}
        for chunk in chunks(images, batch):
            for found in features(chunk, timestep, batch):
                for tap, fit in fits.items():
                    fit.add(found[tap])
        for tap, fit in fits.items():
            plan.keep_basis(tap, timestep, fit.basis(plan.extract.encoding))
