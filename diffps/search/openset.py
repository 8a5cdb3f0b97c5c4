"""Calibrating a head for searches whose person may not be there: resampled searches among held-out identities.

A gallery of n boxes is so many scenes drawn at random, whole, because the boxes of a scene belong together. What all
such draws give together is known without drawing (see ``_share_of_galleries``): the mean over every gallery of that
size, for every query. Galleries up to half of the held-out boxes are measured; a larger one is taken for several that
do not know each other, its tail for an exponential one (see ``calibration``).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from diffps.errors import CalibrationError
from diffps.metrics.similarity import exact_unit_rows
from diffps.records import UNLABELLED
from diffps.search.calibration import LEVELS, QUANTILES, Calibration, SizeThresholds, reduced

MEASURED = 0.5  # share of the held-out boxes that a measured gallery has at most: beyond, its people repeat
TAIL = 0.1  # share of searches whose largest similarities the scale of the tail is taken from
SUPPORT = 1 / 3  # a level counts as measured where its standard error over identities is at most this share of it
FEWEST = 20  # identities; with fewer nothing can be said
MOST_QUERIES = 4000  # more say little that is new and cost memory
_BLOCK = 256  # queries multiplied at a time


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """Scenes whose people the head was not trained on.

    ``embeddings`` (N, D) of all detected boxes, the ``scenes`` (N,) they lie in, numbered from 0, and the
    ``identities`` (N,) of the people in them, UNLABELLED for anybody and anything else.
    ``seen_identities`` and ``seen_scenes`` (T,): who is to be seen where, detected or not.
    ``queries`` (Q, D), their ``query_identities`` (Q,) and ``query_scenes`` (Q, pictures), the scenes they come from.
    ``scene_count`` counts scenes without a box too.
    """

    embeddings: NDArray[np.floating]
    scenes: NDArray[np.integer]
    identities: NDArray[np.integer]
    seen_identities: NDArray[np.integer]
    seen_scenes: NDArray[np.integer]
    queries: NDArray[np.floating]
    query_identities: NDArray[np.integer]
    query_scenes: NDArray[np.integer]
    scene_count: int

    def __post_init__(self) -> None:
        n, q = len(self.embeddings), len(self.queries)
        if (
            self.scenes.shape != (n,)
            or self.identities.shape != (n,)
            or self.seen_identities.shape != self.seen_scenes.shape
            or self.query_identities.shape != (q,)
            or self.query_scenes.ndim != 2
            or len(self.query_scenes) != q
            or self.embeddings.shape[1:] != self.queries.shape[1:]
        ):
            raise CalibrationError(
                f"held-out identities: embeddings {self.embeddings.shape}, scenes {self.scenes.shape}, identities "
                f"{self.identities.shape}, seen {self.seen_identities.shape} and {self.seen_scenes.shape}, queries "
                f"{self.queries.shape}, {self.query_identities.shape} and {self.query_scenes.shape} do not match"
            )
        for name in ("scenes", "seen_scenes", "query_scenes"):
            numbers = getattr(self, name)
            if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.scene_count:
                raise CalibrationError(f"held-out identities: {name} are not numbers below {self.scene_count}")
        if UNLABELLED in self.query_identities:
            raise CalibrationError("held-out identities: a query is of nobody known; leave it out")


def calibrate(held_out: HeldOut) -> Calibration:
    """Thresholds and error rates of searches, each identity with the same weight.

    A search without a mate: a query among scenes without its person. One with a mate: a query and one other scene in
    which its person is seen.

    Raises CalibrationError where nothing was detected, and where fewer than FEWEST identities are seen in a scene that
    their query is not from.
    """
    if not len(held_out.embeddings):
        raise CalibrationError("calibration: no box was detected in the held-out scenes")
    held_out = _thinned(held_out)
    searches = _search(held_out)
    people, of_search = np.unique(held_out.query_identities, return_inverse=True)
    mated_people = np.unique(held_out.query_identities[searches.mated_queries])
    if len(mated_people) < FEWEST:
        raise CalibrationError(
            f"calibration: {len(mated_people)} held-out identities are seen in a second scene; at least {FEWEST} are "
            "needed: hold out more"
        )
    rows: list[SizeThresholds] = []
    for n in _sizes(MEASURED * len(held_out.embeddings)):
        row = _measure(n, n * held_out.scene_count / len(held_out.embeddings), searches, of_search)
        if rows:  # a larger gallery never needs less, though two continued tails might say so
            row = replace(row, thresholds=tuple(np.maximum(rows[-1].thresholds, row.thresholds).tolist()))
        rows.append(row)
    return Calibration(
        sizes=tuple(rows),
        mates=_mate_quantiles(held_out, searches),
        pictures=held_out.query_scenes.shape[1],
        identities=len(people),
        unmated=len(held_out.queries),
        mated=len(searches.mates),
        scenes=held_out.scene_count,
        pool=len(held_out.embeddings),
    )


def several_pictures(held_out: HeldOut, pictures: int, rng: np.random.Generator) -> HeldOut:
    """The same with queries of ``pictures`` pictures each, from scenes that differ: the mean of their unit vectors.

    As many queries of an identity as its pictures make without using one twice.
    """
    rows = exact_unit_rows(held_out.queries, "queries")
    groups = []
    for person in np.unique(held_out.query_identities):
        own = rng.permutation(np.flatnonzero(held_out.query_identities == person))
        _, first = np.unique(held_out.query_scenes[own, 0], return_index=True)
        own = own[np.sort(first)]
        groups += own[: len(own) // pictures * pictures].reshape(-1, pictures).tolist()
    chosen = np.array(groups, np.int64).reshape(-1, pictures)
    return HeldOut(
        embeddings=held_out.embeddings,
        scenes=held_out.scenes,
        identities=held_out.identities,
        seen_identities=held_out.seen_identities,
        seen_scenes=held_out.seen_scenes,
        queries=rows[chosen].mean(1),
        query_identities=held_out.query_identities[chosen[:, 0]],
        query_scenes=held_out.query_scenes[chosen, 0],
        scene_count=held_out.scene_count,
    )


def _thinned(held_out: HeldOut) -> HeldOut:
    """With MOST_QUERIES queries at most, taken in turns from the identities, of each in a random order."""
    shuffled = np.random.default_rng(0).permutation(len(held_out.queries))
    by_person = shuffled[np.argsort(held_out.query_identities[shuffled], kind="stable")]
    _, first = np.unique(held_out.query_identities[by_person], return_inverse=True)
    turn = np.arange(len(by_person)) - np.searchsorted(first, first)
    kept = np.sort(by_person[np.argsort(turn, kind="stable")[:MOST_QUERIES]])
    return replace(
        held_out,
        queries=held_out.queries[kept],
        query_identities=held_out.query_identities[kept],
        query_scenes=held_out.query_scenes[kept],
    )


@dataclass(frozen=True, slots=True)
class _Searches:
    """``strangers`` (Q, S): the largest similarity of each query in each scene, descending, -1 where there is no box;
    of them the first ``counts`` (Q,) are the scenes without its person; ``order`` sorts them all, descending.
    ``mates`` (m,): the similarity of a person in one other scene to the query ``mated_queries`` (m,), -1 where the
    detector missed them."""

    strangers: NDArray[np.float32]
    order: NDArray[np.intp]
    counts: NDArray[np.int64]
    mates: NDArray[np.float32]
    mated_queries: NDArray[np.int64]


def _search(held_out: HeldOut) -> _Searches:
    by_scene = np.argsort(held_out.scenes, kind="stable")
    rows = exact_unit_rows(held_out.embeddings, "held-out embeddings", by_scene)
    scenes, identities = held_out.scenes[by_scene], held_out.identities[by_scene]
    queries = exact_unit_rows(held_out.queries, "queries")
    with_boxes, starts = np.unique(scenes, return_index=True)
    strangers = np.full((len(queries), held_out.scene_count), -1, np.float32)
    counts = np.zeros(len(queries), np.int64)
    mates, mated_queries = [], []
    for first in range(0, len(queries), _BLOCK):
        similarities = queries[first : first + _BLOCK] @ rows.T
        for q, similarity in enumerate(similarities, first):
            person = held_out.query_identities[q]
            shown = np.unique(held_out.seen_scenes[held_out.seen_identities == person])
            own = np.union1d(shown, held_out.query_scenes[q])
            strangers[q, with_boxes] = np.maximum.reduceat(similarity, starts)
            strangers[q, own] = -1
            counts[q] = held_out.scene_count - len(own)
            of_person = np.flatnonzero(identities == person)
            for scene in np.setdiff1d(shown, held_out.query_scenes[q]):
                there = similarity[of_person[scenes[of_person] == scene]]
                mates.append(float(there.max(initial=-1)))
                mated_queries.append(q)
    strangers = -np.sort(-strangers, axis=1)
    order = np.argsort(-strangers, axis=None, kind="stable")
    return _Searches(strangers, order, counts, np.array(mates, np.float32), np.array(mated_queries, np.int64))


def _measure(n: int, drawn: float, searches: _Searches, of_search: NDArray[np.intp]) -> SizeThresholds:
    """The largest similarity in galleries of ``n`` boxes, ``drawn`` scenes each, over all of them and all queries."""
    queries = np.arange(len(searches.counts))
    reached = np.ones((len(queries), searches.strangers.shape[1] + 1))  # shares of galleries with one of the first a
    for scenes in np.unique(searches.counts):
        reached[searches.counts == scenes, : scenes + 1] = _share_of_galleries(int(scenes), drawn)
    repeats = np.bincount(of_search)
    weights = 1 / (len(repeats) * repeats[of_search])
    mass = (np.diff(reached, axis=1) * weights[:, None]).ravel()[searches.order]
    values, fpir = searches.strangers.ravel()[searches.order].astype(np.float64), np.cumsum(mass)
    thresholds = np.interp(LEVELS, fpir, values)

    last = 0
    for number, (level, threshold) in enumerate(zip(LEVELS, thresholds, strict=True)):
        rates = reached[queries, (searches.strangers >= threshold).sum(1)]
        people = np.bincount(of_search, rates) / repeats  # an identity's searches are one observation
        if people.std(ddof=1) / np.sqrt(len(people)) <= SUPPORT * level:
            last = number
    above = max(1, int(np.searchsorted(fpir, TAIL)))
    scale = max(float(np.average(values[:above] - values[above], weights=mass[:above])), 1e-4)
    g = reduced(LEVELS)
    continued = thresholds[last] + scale * (g - g[last])
    thresholds = np.where(np.arange(len(LEVELS)) > last, continued, thresholds)
    return SizeThresholds(boxes=n, thresholds=tuple(thresholds.tolist()), scale=scale, least=LEVELS[last])


def _share_of_galleries(scenes: int, drawn: float) -> NDArray[np.float64]:
    """Of all galleries of ``drawn`` among ``scenes`` scenes, those that hold one of the first a, for a = 0..scenes.

    1 - C(scenes - a, drawn) / C(scenes, drawn), with the gamma function's binomials, since ``drawn`` need not be whole.
    """
    drawn = min(drawn, scenes)
    rest = scenes - np.arange(scenes + 1.0)
    possible = rest - drawn > -1 + 1e-9
    ratio = (
        gammaln(rest[possible] + 1)
        + gammaln(scenes - drawn + 1)
        - gammaln(rest[possible] - drawn + 1)
        - gammaln(scenes + 1)
    )
    result = np.ones(scenes + 1)
    result[possible] = np.clip(-np.expm1(ratio), 0, 1)
    return result


def _mate_quantiles(held_out: HeldOut, searches: _Searches) -> tuple[float, ...]:
    """Quantiles of the mates' similarities, each identity with the same weight."""
    _, of_mate = np.unique(held_out.query_identities[searches.mated_queries], return_inverse=True)
    weights = 1 / np.bincount(of_mate)[of_mate]
    order = np.argsort(searches.mates, kind="stable")
    reached = np.cumsum(weights[order])
    at = np.searchsorted(reached, np.linspace(0, 1, QUANTILES) * reached[-1] * (1 - 1e-12), side="left")
    return tuple(searches.mates[order][at].astype(float).tolist())


def _sizes(largest: float) -> list[int]:
    """1, 2, 5, 10 and so on, and the largest."""
    series = [digit * 10**power for power in range(9) for digit in (1, 2, 5)]
    return [n for n in series if n < largest] + [max(1, int(largest))]
