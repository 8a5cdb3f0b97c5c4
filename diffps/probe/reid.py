"""How well pooled vectors tell persons apart: retrieval between places, by cosine and after a linear map.

Identities are cut into folds. The persons of a fold are searched among themselves and the unlabelled, everywhere but in
their own place; the map of a fold is fitted on the identities of the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from diffps.probe.ranking import average_precisions, chance_precision
from diffps.probe.sample import Persons
from diffps.records import UNLABELLED

WITHIN = 0.1  # of the mean variance within persons is added to every direction's

Vectors = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Fold:
    """Rows of the sample's n boxes: who is searched, among whom, and on whom a map is fitted."""

    queries: NDArray[np.int64]
    gallery: NDArray[np.int64]
    others: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Task:
    """Who is searched where: the ``folds`` of ``persons``, and ``chance`` (q,), the average precision that every query,
    fold after fold, is expected to have in a random order."""

    persons: Persons
    folds: tuple[Fold, ...]
    chance: NDArray[np.float64]

    @property
    def identities(self) -> NDArray[np.int64]:
        """(q,) whose picture each query is."""
        rows = np.concatenate([fold.queries for fold in self.folds])
        found: NDArray[np.int64] = self.persons.identities[rows]
        return found


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Of each query (q,): average precision in [0, 1]; 1 where no wrong box is as similar as the best right one, else
    0."""

    precision: NDArray[np.float64]
    first: NDArray[np.float64]


def make_task(persons: Persons, folds: int, seed: int) -> Task:
    """Deal the identities into ``folds``, as evenly as they go; fewer where there are fewer identities."""
    names = np.unique(persons.identities[persons.identities != UNLABELLED])
    folds = min(folds, len(names))
    fold_of = dict(zip(np.random.default_rng(seed).permutation(names).tolist(), np.arange(len(names)), strict=True))
    dealt = np.array([fold_of[name] % folds if name in fold_of else -1 for name in persons.identities.tolist()])
    made, chance = [], []
    for number in range(folds):
        rows, gallery = np.flatnonzero(dealt == number), np.flatnonzero((dealt == number) | (dealt < 0))
        right, allowed = _matches(persons, rows, gallery)
        searched = right.any(1)
        made.append(Fold(rows[searched], gallery, np.flatnonzero((dealt >= 0) & (dealt != number))))
        chance.append(chance_precision(right.sum(1)[searched], allowed.sum(1)[searched]))
    return Task(persons, tuple(made), np.concatenate(chance))


def by_cosine(task: Task, vectors: Vectors) -> Retrieved:
    """Retrieval with ``vectors`` (n, D) as they are."""
    return _gathered(task, [vectors] * len(task.folds))


def by_map(task: Task, vectors: Vectors) -> Retrieved:
    """Retrieval with ``vectors`` (n, D) after each fold's own map: every dimension scaled to unit variance, then
    whitened within persons, (S_w + 0.1 tr(S_w) / D)^(-1/2): ridge linear discriminant analysis, all directions kept."""
    rows = compact(vectors)
    return _gathered(task, [_whitened(task, rows, fold) for fold in task.folds])


def compact(vectors: Vectors) -> NDArray[np.float64]:
    """``vectors`` (n, D) centred, each dimension with unit variance over all n, in at most n dimensions: turned, where
    there are more, so that every inner product stays. A dimension that never changes is 0."""
    rows: NDArray[np.float64] = vectors - vectors.mean(0, dtype=np.float64)
    spread = rows.std(0)
    rows /= np.where(spread > 1e-9 * np.abs(vectors).max(0, initial=0), spread, np.inf)
    if rows.shape[1] <= len(rows):
        return rows
    triangle = np.asarray(np.linalg.qr(rows.T, mode="r"))
    return triangle.T


def in_strips(vectors: Vectors) -> Vectors:
    """``vectors`` (n, S, C) of S strips as (n, S * C), every strip of unit length."""
    return _unit(vectors).reshape(len(vectors), -1)


def _whitened(task: Task, rows: NDArray[np.float64], fold: Fold) -> NDArray[np.float64]:
    """``rows`` (n, D) after the fold's own map, those of its gallery only; 0 elsewhere."""
    fitted = rows[fold.others]
    _, person, counts = np.unique(task.persons.identities[fold.others], return_inverse=True, return_counts=True)
    means = ((np.arange(len(counts))[:, None] == person) / counts[:, None]) @ fitted
    within = fitted - means[person]
    scatter = within.T @ within / max(len(fitted), 1)
    ridge = WITHIN * np.trace(scatter) / len(scatter) or 1.0
    lower = cholesky(scatter + ridge * np.eye(len(scatter)), lower=True)
    centre = fitted.mean(0) if len(fitted) else 0.0
    # With L L' = S the vectors L^-1 x have the inner products of S^(-1/2) x.
    found = np.zeros_like(rows)
    found[fold.gallery] = solve_triangular(lower, (rows[fold.gallery] - centre).T, lower=True).T
    return found


def _gathered(task: Task, mapped: Sequence[Vectors]) -> Retrieved:
    precision, first = [], []
    for fold, vectors in zip(task.folds, mapped, strict=True):
        rows = _unit(np.asarray(vectors, np.float64))
        right, allowed = _matches(task.persons, fold.queries, fold.gallery)
        similarity = np.where(allowed, rows[fold.queries] @ rows[fold.gallery].T, -np.inf)
        precision.append(average_precisions(similarity, right))
        first.append(np.where(right, similarity, -np.inf).max(1) > np.where(right, -np.inf, similarity).max(1))
    return Retrieved(np.concatenate(precision), np.concatenate(first).astype(np.float64))


def _matches(
    persons: Persons, rows: NDArray[np.int64], gallery: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(q, g) whether a box of the gallery is the query's person elsewhere, and whether it lies elsewhere."""
    allowed = persons.places[rows][:, None] != persons.places[gallery]
    right = (persons.identities[rows][:, None] == persons.identities[gallery]) & allowed
    return right, allowed


def _unit(vectors: Vectors) -> Vectors:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / np.where(length > 0, length, 1)
    return unit
