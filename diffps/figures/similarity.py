"""How similar two pictures of one person are, against those of two persons: what people need to read a score."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from diffps.errors import ConfigError
from diffps.figures.sheets import Chart, Line

BINS = 48
MOST_EMBEDDINGS = 3000  # 4.5 million pairs: enough for a rate of 1e-4, and a matrix of 36 MB


@dataclass(frozen=True, kw_only=True, slots=True)
class Similarity:
    """Cosine similarities ``same`` (n,) and ``different`` (m,) of pairs from two scenes, ascending; ``threshold`` is
    what a fraction ``false_match_rate`` of the different pairs reaches, ``true_match_rate`` of the same pairs: the
    lowest for which the former is at most ``wanted_rate``."""

    same: NDArray[np.float32]
    different: NDArray[np.float32]
    wanted_rate: float
    false_match_rate: float
    threshold: float
    true_match_rate: float

    def as_json(self) -> dict[str, float | int]:
        """What a reader of scores keeps beside the head."""
        return {
            "wanted_false_match_rate": self.wanted_rate,
            "false_match_rate": round(self.false_match_rate, 6),
            "threshold": self.threshold,
            "true_match_rate": round(self.true_match_rate, 6),
            "same_pairs": len(self.same),
            "different_pairs": len(self.different),
        }


def compare_pairs(
    embeddings: NDArray[np.floating],
    identities: NDArray[np.integer],
    scenes: NDArray[np.integer],
    false_match_rate: float,
    seed: int = 0,
) -> Similarity | None:
    """Every pair of embeddings (n, d) of unit length whose ``identities`` (n,) are known and ``scenes`` (n,) differ.

    Above 3000 embeddings a seeded sample is compared. None where there are no pairs of both kinds.
    """
    if not 0 < false_match_rate < 1:
        raise ConfigError(f"false_match_rate {false_match_rate}: must lie between 0 and 1")
    chosen = np.flatnonzero(identities >= 0)
    if len(chosen) > MOST_EMBEDDINGS:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, MOST_EMBEDDINGS, replace=False))
    vectors, names, places = np.asarray(embeddings, np.float32)[chosen], identities[chosen], scenes[chosen]
    first, second = np.triu_indices(len(chosen), k=1)
    apart = places[first] != places[second]
    values = (vectors @ vectors.T)[first[apart], second[apart]]
    equal = names[first[apart]] == names[second[apart]]
    same, different = np.sort(values[equal]), np.sort(values[~equal])
    if not len(same) or not len(different):
        return None
    allowed = int(false_match_rate * len(different))
    threshold = float(np.nextafter(different[len(different) - 1 - allowed], np.float32(np.inf)))
    return Similarity(
        same=same,
        different=different,
        wanted_rate=false_match_rate,
        false_match_rate=float(np.mean(different >= threshold)),
        threshold=threshold,
        true_match_rate=float(np.mean(same >= threshold)),
    )


def similarity_chart(pairs: Similarity) -> Chart:
    """Histograms of both kinds of pairs, each scaled to area one, with the threshold."""
    low = float(min(pairs.same[0], pairs.different[0]))
    high = float(max(pairs.same[-1], pairs.different[-1]))
    edges = np.linspace(low, high + 1e-6, BINS + 1)
    rate, found = f"{100 * pairs.false_match_rate:.1f} %", f"{100 * pairs.true_match_rate:.1f} %"
    return Chart(
        title="Similarity of pairs",
        x_label="cosine similarity",
        y_label="density",
        lines=(
            histogram(f"two persons ({len(pairs.different):,} pairs)", pairs.different, edges),
            histogram(f"one person ({len(pairs.same):,} pairs)", pairs.same, edges),
        ),
        markers=((pairs.threshold, f"threshold {pairs.threshold:.2f}"),),
        note=(
            f"At a threshold of {pairs.threshold:.2f}, {rate} of pairs of different persons are taken for one person, "
            f"and {found} of the pairs of one person are recognised. Only pairs from two different scenes count."
        ),
        summary=(
            f"Two histograms over cosine similarity. Same person: median {np.median(pairs.same):.2f}; "
            f"different persons: median {np.median(pairs.different):.2f}; threshold {pairs.threshold:.2f}."
        ),
    )


def histogram(label: str, values: NDArray[np.floating], edges: NDArray[np.floating], *, density: bool = True) -> Line:
    """Steps over bins with the given edges: counts, or with ``density`` heights of area one."""
    heights, _ = np.histogram(values, edges, density=density)
    y = np.concatenate([[0.0], np.repeat(heights, 2), [0.0]])
    return Line(label=label, x=np.repeat(edges, 2).round(5).tolist(), y=y.round(5).tolist(), area=True)
