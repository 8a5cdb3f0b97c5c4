"""The figures by name: each from the evidence to sheets and charts, or NotThereError with what is missing."""

from typing import TYPE_CHECKING, Any

from diffps.errors import ConfigError
from stages.page.evidence import Evidence, NotThereError, Row

if TYPE_CHECKING:
    from diffps.figures.sheets import Chart, Picture

# Name -> the heading of its section on the page, in the page's order.
TITLES = {
    "ranking": "Rankings",
    "similarity": "Similarity",
    "failures": "Failures",
    "attention": "Attention",
    "pca": "Features",
    "frequency": "Frequency refinement",
    "semantics": "Semantic weighting",
    "timesteps": "Timesteps",
    "taps": "Taps",
}
SCORES = {"detection AP": "detection_ap", "re-ID mAP": "map"}


def make(name: str, evidence: Evidence) -> "list[Picture]":
    """The pictures of one figure. Raises NotThereError, and ConfigError for a name that is none."""
    from stages.page import features, searches

    match name:
        case "ranking":
            return [searches.rankings(evidence)]
        case "failures":
            return [searches.failures(evidence)]
        case "similarity":
            return [_similarity(evidence)]
        case "attention":
            return [features.attention(evidence)]
        case "pca":
            return list(features.components(evidence))
        case "frequency":
            return [features.frequency(evidence)]
        case "semantics":
            return [features.semantics(evidence)]
        case "timesteps":
            return [_timesteps(evidence)]
        case "taps":
            return [_taps(evidence)]
        case _:
            raise ConfigError(f"figure {name}: there is none of that name; known are {', '.join(TITLES)}")


def _similarity(evidence: Evidence) -> "Chart":
    from diffps.figures.similarity import similarity_chart
    from stages.page.searches import similarity

    pairs = similarity(evidence)
    if pairs is None:
        raise NotThereError(
            "figure similarity: no identity was detected in two scenes, so there are no pairs to compare"
        )
    return similarity_chart(pairs)


def _timesteps(evidence: Evidence) -> "Chart":
    from diffps.figures.curves import score_chart

    rows = [row for row in evidence.sweep if row.get("timestep") is not None]
    if len({row["timestep"] for row in rows}) < 2:
        raise NotThereError(
            "figure timesteps: the sweep's table has fewer than two timesteps; sweep over train.timestep"
        )
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for label, column in SCORES.items():
            if row.get(column) is not None:
                series.setdefault(label, []).append((float(row["timestep"]), float(row[column])))
    return score_chart("Scores against the timestep", "timestep", series)


def _taps(evidence: Evidence) -> "Chart":
    from diffps.figures.curves import bar_chart

    rows = [row for row in evidence.sweep if row.get("taps")]
    if len({str(row["taps"]) for row in rows}) < 2:
        raise NotThereError("figure taps: the sweep's table has fewer than two sets of taps; sweep over train.taps")
    groups = {label: [(_name(row), float(row[column])) for row in rows] for label, column in SCORES.items()}
    return bar_chart("Scores per set of taps", "score", groups)


def _name(row: Row) -> str:
    return str(row.get("variant", ""))


def scores_of(row: Row) -> dict[str, Any]:
    """The scores of a sweep's row, by their names for people."""
    return {label: row[column] for label, column in SCORES.items() if column in row}
