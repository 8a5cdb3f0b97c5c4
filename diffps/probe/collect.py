"""While the UNet runs: features of a batch in, pooled vectors, normal equations and scores of scenes out.

No feature outlives its batch. B images, N positions of a tap's grid, C channels, S strips.
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
from diffps.probe.cells import Grid, drawn_positions
from diffps.probe.config import POSITIONS, ProbeRules
from diffps.probe.part import Part
from diffps.probe.proposals import candidates, count_found
from diffps.probe.ranking import average_precisions, chance_precision, chance_variance
from diffps.probe.ridge import ridge

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
        sizes = {(grid.height, grid.width) for grid in grids.values()}
        self._finest = Grid(*max(sizes), canvas)
        self._every = [Grid(*size, canvas) for size in sorted(sizes)]
        drawn = {name: projection(name, shapes[name].channels, rules) for name in self._grids}
        self._narrow = {name: matrix for name, matrix in drawn.items() if matrix is not None}
        self._canvas, self._rules, self._readouts = canvas, rules, readouts
        self._sums: dict[str, Tensor] = {}  # over persons, and over all others
        self._rows: dict[str, list[NDArray[Any]]] = {}

    def add(self, features: Mapping[str, Tensor], people: Sequence[People]) -> None:
        """``features`` (B, H, W, C) of every tap and map, for the ``people`` of B scenes."""
        views = {(g.height, g.width): _View(g, people, self._rules, _device(features)) for g in self._every}
        finest = views[self._finest.height, self._finest.width]
        for size, view in views.items():
            outputs: dict[str, Tensor] = {}
            for name in (name for name, grid in self._grids.items() if (grid.height, grid.width) == size):
                rows = features[name].flatten(1, 2)  # no copy, also where a tap is channels first
                self._pool(name, rows, view)
                samples = self._narrowed(name, rows)
                if self._readouts is None:
                    self._add_products(name, samples, view)
                else:
                    outputs[name] = _outputs(samples.double(), self._readouts[name].to(samples.device))
            if outputs:
                self._score(outputs, view, finest)
            for name in (name for name, grid in self._maps.items() if (grid.height, grid.width) == size):
                self._score_map(name, features[name].flatten(1).double(), view, finest)
        if self._readouts is not None:
            for (height, width), view in views.items():
                self._row(f"{height}x{width}/chance", view.chance)
                self._row(f"{height}x{width}/variance", view.variance)
            self._row("truths", np.array([len(each.boxes) for each in people]))

    def take(self) -> Part:
        """What was kept since the last call."""
        sums: dict[str, NDArray[Any]] = {}
        for name, (persons, others) in self._sums.items():
            mine, every = (_mirrored(value).cpu().numpy() for value in (persons, persons + others))
            size = len(mine) - OFFSETS.stop
            sums |= {f"{name}/all": every, f"{name}/persons": mine[:size, :size]}
        rows = {name: np.concatenate(values) for name, values in self._rows.items()}
        self._sums, self._rows = {}, {}
        return Part(sums, rows)

    def _pool(self, name: str, rows: Tensor, view: "_View") -> None:
        """Every box's mean over each strip, in the features' own channels."""
        exact = torch.promote_types(rows.dtype, torch.float32)
        vectors = view.pooling.to(exact) @ rows.to(exact)
        strips = vectors.flatten(0, 1)[view.pooled].reshape(-1, self._rules.strips, rows.shape[-1])
        self._row(f"{name}/vectors", strips.float().cpu().numpy())

    def _narrowed(self, name: str, rows: Tensor) -> Tensor:
        if name not in self._narrow:
            return rows
        matrix = self._narrow[name] = self._narrow[name].to(rows.device)
        return rows.to(matrix.dtype) @ matrix

    def _add_products(self, name: str, samples: Tensor, view: "_View") -> None:
        channels = samples.shape[-1]
        rows = view.rows_of(channels)
        rows[:, :channels] = samples[view.fitted]
        if name not in self._sums:
            self._sums[name] = rows.new_zeros(2, rows.shape[1], rows.shape[1])
        persons, others = self._sums[name]
        _add_gram(persons, rows[: view.persons])
        _add_gram(others, rows[view.persons :])

    def _score(self, outputs: Mapping[str, Tensor], view: "_View", finest: "_View") -> None:
        """``outputs`` (B, 6, N) of every tap of one grid."""
        stacked = torch.stack(list(outputs.values()))
        scores = stacked[:, :, PERSON]
        precision = finest.precisions(scores, view.size)
        dealt = view.dealt_precisions(stacked[:, :, SHUFFLED])
        boxes = candidates(scores, stacked[:, :, OFFSETS], view.centres, self._canvas)
        found = [
            count_found(np.ascontiguousarray(boxes[:, image]), each.boxes, self._rules.boxes)
            for image, each in enumerate(view.people)
        ]
        for row, name in enumerate(outputs):
            self._row(f"{name}/precision", precision[row])
            self._row(f"{name}/shuffled", dealt[row])
            self._row(f"{name}/found", np.array([counts[row] for counts in found]))

    def _score_map(self, name: str, values: Tensor, view: "_View", finest: "_View") -> None:
        hits = np.take_along_axis(view.person, values.argmax(1, keepdim=True).cpu().numpy(), 1)[:, 0]
        self._row(f"{name}/precision", finest.precisions(values, view.size))
        self._row(f"{name}/hit", hits)
        self._row(f"{name}/share", view.person.mean(1))

    def _row(self, name: str, values: NDArray[Any]) -> None:
        self._rows.setdefault(name, []).append(values)


def fit_readouts(sums: Mapping[str, NDArray[Any]], taps: Iterable[str]) -> dict[str, Tensor]:
    """Weights (C + 1, 6) of every tap, C after :func:`projection`: a position's score for being a person's, the same
    learnt from dealt labels, and the offsets of its box."""
    found = {}
    for tap in taps:
        every, persons = (torch.from_numpy(sums[f"{tap}/{kind}"]) for kind in ("all", "persons"))
        size = len(persons)
        gram, cross = every[:size, :size], every[:size, size:]
        found[tap] = torch.cat([ridge(gram, cross[:, : OFFSETS.start]), ridge(persons, cross[:, OFFSETS])], dim=1)
    return found


def projection(tap: str, channels: int, rules: ProbeRules) -> Tensor | None:
    """(channels, ``rules.width``) Gaussian projection by which a wider tap reaches the detection probe, decided by the
    seed and the tap alone; None for others."""
    if channels <= rules.width:
        return None
    digest = hashlib.sha256(f"{rules.seed}/projection/{tap}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    matrix = torch.randn(channels, rules.width, generator=generator)
    return matrix.div_(math.sqrt(rules.width))


def _outputs(samples: Tensor, weights: Tensor) -> Tensor:
    """(B, 6, N): what weights (C + 1, 6) say of every position (B, N, C)."""
    # Long rows first: with six columns of weights on the right the same product takes half as long again.
    return weights[:-1].T @ samples.mT + weights[-1][:, None]


class _View:
    """One grid over the scenes of a batch. Its positions ``fitted``, images (B * P,) and places in them, enter the
    normal equations, those of ``persons`` first."""

    def __init__(self, grid: Grid, people: Sequence[People], rules: ProbeRules, device: torch.device) -> None:
        positions = grid.height * grid.width
        owners = [grid.owners(each.boxes) for each in people]
        draws = [drawn_positions(positions, POSITIONS, rules.seed, each.scene_id) for each in people]
        targets = []
        for owner, (chosen, order), each in zip(owners, draws, people, strict=True):
            own = owner[chosen]
            offsets = grid.offsets(each.boxes, owner)[chosen]
            targets.append(np.column_stack([np.ones(len(own)), own >= 0, (own >= 0)[order], offsets]))
        pooling = [grid.pooling(each.boxes, rules.strips).reshape(-1, positions) for each in people]
        self.people = people
        self.size = grid.height, grid.width
        counts = np.array([len(rows) for rows in pooling])
        padded = np.zeros((len(people), counts.max(), positions), np.float32)
        for image, rows in enumerate(pooling):
            padded[image, : len(rows)] = rows
        self.pooled = torch.from_numpy(np.flatnonzero(np.arange(counts.max()) < counts[:, None])).to(device)
        self.person = np.stack(owners) >= 0
        self.pooling = torch.from_numpy(padded).to(device)
        self.centres = torch.from_numpy(grid.centres().T).to(device)
        self._chosen = np.stack([chosen for chosen, _ in draws])
        regressed = np.concatenate(targets)
        order = np.argsort(regressed[:, 1 + PERSON] == 0, kind="stable")
        images = np.repeat(np.arange(len(people)), self._chosen.shape[1])
        self.persons = int(regressed[:, 1 + PERSON].sum())
        self.fitted = tuple(torch.from_numpy(rows[order]).to(device) for rows in (images, self._chosen.ravel()))
        self._targets = torch.from_numpy(regressed[order]).to(device)
        self._blank: dict[int, Tensor] = {}
        self._dealt = np.stack([target[:, 1 + SHUFFLED] > 0 for target in targets])
        shares = self._dealt.sum(1), np.full(len(people), self._dealt.shape[1])
        self.chance, self.variance = chance_precision(*shares), chance_variance(*shares)

    def rows_of(self, channels: int) -> Tensor:
        """(B * P, channels + 1 + 6): room for features, a one for the intercept, then what is regressed. Taps of one
        width write over each other's features."""
        if channels not in self._blank:
            room = self._targets.new_empty(len(self._targets), channels + self._targets.shape[1])
            room[:, channels:] = self._targets
            self._blank[channels] = room
        return self._blank[channels]

    def dealt_precisions(self, scores: Tensor) -> NDArray[np.float64]:
        """Average precisions (..., B) of ``scores`` (..., B, N) for the dealt labels, over the positions drawn."""
        values = scores.cpu().numpy()
        return average_precisions(np.take_along_axis(values, self._chosen[None], -1), self._dealt)

    def precisions(self, scores: Tensor, size: tuple[int, int]) -> NDArray[np.float64]:
        """Average precisions (..., B) of ``scores`` (..., B, n) of a coarser grid, bilinear on this one."""
        if size != self.size:
            maps = scores.reshape(1, -1, *size)
            fine = torch.nn.functional.interpolate(maps, self.size, mode="bilinear", align_corners=False)
            scores = fine.reshape(*scores.shape[:-1], -1)
        return average_precisions(scores.cpu().numpy(), self.person)


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
