"""While the UNet runs: features of a batch in, pooled vectors, normal equations and scores of scenes out.

No feature outlives its batch. B images, N positions of a tap's grid, C channels, S strips, P windows of an image, T
taps.
"""

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg.blas import dsyrk
from torch import Tensor

from diffps.features import FeatureShape
from diffps.geometry import Canvas
from diffps.probe.cells import PARTS, Grid
from diffps.probe.config import ProbeRules
from diffps.probe.part import Part
from diffps.probe.pooling import Weights, in_order, pool
from diffps.probe.proposals import count_found, ranked_boxes
from diffps.probe.ranking import average_precisions, chance_precision, chance_variance
from diffps.probe.ridge import ridge
from diffps.probe.windows import WINDOWS, draw_windows

HELD = 384  # windows after which they are added to the sums: to read and write these takes longer than to add to them
PERSON, SHUFFLED, OFFSETS = 0, 1, slice(2, 6)  # columns of what is regressed


class People(NamedTuple):
    """The persons of one scene: ``boxes`` (n, 4) in the canvas frame."""

    scene_id: str
    boxes: NDArray[np.float32]


class Collector:
    """Reads batches of features and keeps what the probe needs of them, until :meth:`take`.

    ``shapes`` of every tap and ``maps``, the names of word maps, whose only channel is not regressed; ``readouts`` are
    what :func:`fit_readouts` made of the first half of the scenes, None while that is being read. Normal equations and
    scores are in float64, whatever the features' type, so that they do not depend on how products are summed.
    """

    def __init__(
        self,
        shapes: Mapping[str, FeatureShape],
        maps: Collection[str],
        canvas: Canvas,
        rules: ProbeRules,
        readouts: Mapping[str, Tensor] | None = None,
    ) -> None:
        grids = {name: Grid(shape.height, shape.width, canvas) for name, shape in shapes.items()}
        self._grids = {name: grid for name, grid in grids.items() if name not in maps}
        self._maps = {name: grid for name, grid in grids.items() if name in maps}
        self._finest = max(grids.values(), key=lambda grid: (grid.height, grid.width))
        drawn = {name: projection(name, shapes[name].channels, rules) for name in self._grids}
        self._narrow = {name: matrix for name, matrix in drawn.items() if matrix is not None}
        self._canvas, self._rules = canvas, rules
        self._readouts = None if readouts is None else {name: self._widened(name, readouts[name]) for name in drawn}
        self._sums: dict[str, Tensor] = {}  # over right windows, and over all others
        self._held: dict[str, list[Tensor]] = {}
        self._targets: list[Tensor] = []
        self._rows: dict[str, list[NDArray[Any]]] = {}

    def add(self, features: Mapping[str, Tensor], people: Sequence[People]) -> None:
        """``features`` (B, H, W, C) of every tap and map, for the ``people`` of B scenes."""
        asked = _Asked(people, self._canvas, self._rules.seed, _device(features))
        weights = {grid: asked.weights(grid, self._rules.strips) for grid in set(self._grids.values())}
        outputs: dict[str, Tensor] = {}
        for name, grid in self._grids.items():
            rows, (strips, parts) = in_order(features[name].flatten(1, 2)), weights[grid]
            self._row(f"{name}/vectors", pool(rows, asked.whose, strips).float().cpu().numpy())
            samples = pool(rows, asked.images, parts)
            if self._readouts is None:
                self._held.setdefault(name, []).append(self._narrowed(name, samples).flatten(1))
            else:
                outputs[name] = _outputs(samples.flatten(1), self._readouts[name].to(samples.device))
        if self._readouts is None:
            self._targets.append(asked.targets)
            if sum(map(len, self._targets)) >= HELD:
                self._add_products()
        else:
            self._score(outputs, asked)
        if self._maps:
            person = np.stack([self._finest.owners(each.boxes) for each in people]) >= 0
            for name, grid in self._maps.items():
                self._score_map(name, features[name].flatten(1).double(), grid, person, people)

    def take(self) -> Part:
        """What was kept since the last call."""
        self._add_products()
        sums: dict[str, NDArray[Any]] = {}
        for name, (persons, others) in self._sums.items():
            mine, every = (_mirrored(value).cpu().numpy() for value in (persons, persons + others))
            size = len(mine) - OFFSETS.stop
            sums |= {f"{name}/all": every, f"{name}/persons": mine[:size, :size]}
        rows = {name: np.concatenate(values) for name, values in self._rows.items()}
        self._sums, self._rows = {}, {}
        return Part(sums, rows)

    def _narrowed(self, name: str, samples: Tensor) -> Tensor:
        if name not in self._narrow:
            return samples
        matrix = self._narrow[name] = self._narrow[name].to(samples.device)
        return samples @ matrix

    def _widened(self, name: str, weights: Tensor) -> Tensor:
        """``weights`` for a tap's own channels in place of those projected."""
        if name not in self._narrow:
            return weights
        slopes = self._narrow[name] @ weights[:-1].reshape(len(PARTS), -1, weights.shape[1])
        return torch.cat([slopes.flatten(0, 1), weights[-1:]])

    def _add_products(self) -> None:
        """Add what is held to the sums."""
        if not self._targets:
            return
        targets = torch.cat(self._targets)
        right = targets[:, 1 + PERSON] > 0
        for name, held in self._held.items():
            rows = torch.cat([torch.cat(held), targets], dim=1)
            if name not in self._sums:
                self._sums[name] = rows.new_zeros(2, rows.shape[1], rows.shape[1])
            for total, mine in zip(self._sums[name], (right, ~right), strict=True):
                _add_gram(total, rows[mine])
        self._held, self._targets = {}, []

    def _score(self, outputs: Mapping[str, Tensor], asked: "_Asked") -> None:
        """``outputs`` (6, B * P) of every tap."""
        stacked = (
            torch.stack(list(outputs.values())).cpu().numpy().reshape(len(outputs), -1, len(asked.people), WINDOWS)
        )
        scores, offsets = stacked[:, PERSON], stacked[:, OFFSETS]
        precision = average_precisions(scores, asked.right)
        dealt = average_precisions(stacked[:, SHUFFLED], asked.dealt)
        found = [
            count_found(
                ranked_boxes(scores[:, image], offsets[:, :, image], windows, self._canvas),
                each.boxes,
                self._rules.boxes,
            )
            for image, (each, windows) in enumerate(zip(asked.people, asked.windows, strict=True))
        ]
        for row, name in enumerate(outputs):
            self._row(f"{name}/precision", precision[row])
            self._row(f"{name}/shuffled", dealt[row])
            self._row(f"{name}/found", np.array([counts[row] for counts in found]))
        shares = asked.dealt.sum(1), np.full(len(asked.people), WINDOWS)
        self._row("chance", chance_precision(*shares))
        self._row("variance", chance_variance(*shares))
        self._row("truths", np.array([len(each.boxes) for each in asked.people]))

    def _score_map(
        self, name: str, values: Tensor, grid: Grid, finest: NDArray[np.bool_], people: Sequence[People]
    ) -> None:
        """``values`` (B, N); ``finest`` (B, n) says which positions of the finest grid are a person's."""
        person = np.stack([grid.owners(each.boxes) for each in people]) >= 0
        strongest = values.argmax(1, keepdim=True).cpu().numpy()
        maps, size = values.reshape(len(values), 1, grid.height, grid.width), (self._finest.height, self._finest.width)
        if grid != self._finest:
            maps = torch.nn.functional.interpolate(maps, size, mode="bilinear", align_corners=False)
        self._row(f"{name}/precision", average_precisions(maps.flatten(1).cpu().numpy(), finest))
        self._row(f"{name}/hit", np.take_along_axis(person, strongest, 1)[:, 0])
        self._row(f"{name}/share", person.mean(1))

    def _row(self, name: str, values: NDArray[Any]) -> None:
        self._rows.setdefault(name, []).append(values)


def fit_readouts(sums: Mapping[str, NDArray[Any]], taps: Iterable[str]) -> dict[str, Tensor]:
    """Weights (3 C + 1, 6) of every tap, C after :func:`projection`: a window's score for showing a person, the same
    learnt from dealt labels, and the offsets of that person's box."""
    found = {}
    for tap in taps:
        every, persons = (torch.from_numpy(sums[f"{tap}/{kind}"]) for kind in ("all", "persons"))
        size = len(persons)
        gram, cross = every[:size, :size], every[:size, size:]
        found[tap] = torch.cat([ridge(gram, cross[:, : OFFSETS.start]), ridge(persons, cross[:, OFFSETS])], dim=1)
    return found


def projection(tap: str, channels: int, rules: ProbeRules) -> Tensor | None:
    """(channels, ``rules.width`` // 3) Gaussian projection by which a wider tap reaches the detection probe, decided by
    the seed and the tap alone; None for others."""
    width = rules.width // len(PARTS)
    if channels <= width:
        return None
    digest = hashlib.sha256(f"{rules.seed}/projection/{tap}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(channels, width, generator=generator).div_(math.sqrt(width)).double()


def _outputs(samples: Tensor, weights: Tensor) -> Tensor:
    """(6, n): what weights (C + 1, 6) say of every sample (n, C)."""
    return weights[:-1].T @ samples.T + weights[-1][:, None]


class _Asked:
    """The windows of a batch, and what is to be learnt of them: ``targets`` (B * P, 7), a one for the intercept and
    what is regressed."""

    def __init__(self, people: Sequence[People], canvas: Canvas, seed: int, device: torch.device) -> None:
        drawn = [draw_windows(each.scene_id, each.boxes, canvas, seed) for each in people]
        self.people = people
        self.windows = [each.boxes for each in drawn]
        self.right, self.dealt = (np.stack([getattr(each, kind) for each in drawn]) for kind in ("right", "dealt"))
        self.images = np.repeat(np.arange(len(people)), WINDOWS)
        self.whose = np.repeat(np.arange(len(people)), [len(each.boxes) for each in people])
        offsets, one = np.concatenate([each.offsets for each in drawn]), np.ones(self.right.size)
        targets = np.column_stack([one, self.right.ravel(), self.dealt.ravel(), offsets])
        self.targets = torch.from_numpy(targets).to(device)

    def weights(self, grid: Grid, strips: int) -> tuple[Weights, Weights]:
        """Of every person's strips, and of the parts of every window."""
        boxes = np.concatenate([each.boxes for each in self.people])
        return grid.strips(boxes, strips), grid.parts(np.concatenate(self.windows))


def _add_gram(total: Tensor, rows: Tensor) -> None:
    """Add rows' rows to the lower triangle of ``total``; on a GPU to all of it."""
    if rows.device.type == "cpu":
        # Half of the product, and no copy: with rows stored one after another BLAS' columns are rows.
        dsyrk(1.0, rows.numpy().T, beta=1.0, c=total.numpy().T, overwrite_c=True)
    else:
        total += rows.T @ rows


def _mirrored(total: Tensor) -> Tensor:
    return total.tril() + total.tril(-1).T


def _device(features: Mapping[str, Tensor]) -> torch.device:
    return next(iter(features.values())).device
