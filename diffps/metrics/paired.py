"""Differences between two heads, query by query and seed by seed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any


def paired_difference(pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> dict[str, Any]:
    """Mean difference of average precision (second less first) and its standard error; a pair per seed, each
    ``{query: ap}``. Keys ``map_diff``, ``map_diff_se`` and ``se_over``: "seeds" where there are several, else
    "queries"; empty where no query is common."""
    by_seed = [[b[query] - a[query] for query in a if query in b] for a, b in pairs]
    by_seed = [differences for differences in by_seed if differences]
    if not by_seed:
        return {}
    means = [statistics.fmean(differences) for differences in by_seed]
    over, values = ("seeds", means) if len(means) > 1 else ("queries", by_seed[0])
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"map_diff": statistics.fmean(means), "map_diff_se": error, "se_over": over}
