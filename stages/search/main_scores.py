"""What DVC compares between experiments: the main scores, and how far down the ranking persons are found."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cache.files import read_bytes, write_json, write_text
from cache.sealed import table_in


def write_scores(metrics: Mapping[str, Any], folder: Path) -> None:
    """scores.json: the numbers of ``metrics`` that one compares heads by, and what they are measured against."""
    search, detection = metrics["search"], metrics["detection"]
    found = {
        "map": search["map"],
        "top1": search["top1"],
        "top5": search["top5"],
        "detection_ap": detection["ap"],
        "detection_recall": detection["recall"],
        "chance_map": metrics["chance"]["map"],
        "baseline_map": (metrics.get("baseline") or {}).get("map"),
    }
    write_json(folder / "scores.json", {name: value for name, value in found.items() if value is not None})


def write_precision(folder: Path) -> None:
    """precision.csv of the ranking.parquet and per_query.parquet there, a row a rank.

    ``found``: share of the queries with a right answer up to this rank; ``precision``: share of right answers among all
    up to it. Queries with nobody to find are not counted.
    """
    asked = table_in(read_bytes(folder / "per_query.parquet"), ["query_id", "ap"]).to_pylist()
    counted = {row["query_id"] for row in asked if row["ap"] is not None}
    ranking = table_in(read_bytes(folder / "ranking.parquet"), ["query_id", "rank", "correct"]).to_pylist()
    answers = [row for row in ranking if row["query_id"] in counted]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["rank", "found", "precision"])
    for rank in range(1, max((row["rank"] for row in answers), default=0) + 1):
        above = [row for row in answers if row["rank"] <= rank]
        right = [row["query_id"] for row in above if row["correct"]]
        writer.writerow([rank, f"{len(set(right)) / len(counted):.6g}", f"{len(right) / len(above):.6g}"])
    write_text(folder / "precision.csv", file.getvalue())
