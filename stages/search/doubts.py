"""What makes one doubt that a head has learned anything, in sentences."""

from collections.abc import Mapping
from typing import Any

from stages.text import percent


def doubts(metrics: Mapping[str, Any], detections: int, persons: int, threshold: float) -> list[str]:
    """``metrics`` as evaluate makes them; ``detections`` pass ``threshold``, ``persons`` are annotated."""
    found = []
    ours, colours = metrics["search"]["map"], (metrics.get("baseline") or {}).get("map")
    if ours is not None and colours is not None and colours > ours:
        found.append(
            f"colours alone, in true boxes, reach mAP {percent(colours)}, more than this head's {percent(ours)}: it "
            "has not learned to tell these persons apart; train longer, or on more identities"
        )
    if detections < persons:
        found.append(
            f"{detections} detections pass evaluate.score_threshold {threshold}, but {persons} persons are annotated: "
            "some cannot be found; lower the threshold, or train longer"
        )
    return found
