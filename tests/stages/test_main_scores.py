"""The scores that DVC compares: taken from the metrics, and counted down the ranking by hand."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.search.main_scores import write_precision, write_scores


def write(folder: Path, aps: dict[str, float | None], answers: list[tuple[str, int, bool]]) -> list[str]:
    ap = pa.array(list(aps.values()), pa.float64())
    pq.write_table(pa.table({"query_id": list(aps), "ap": ap}), folder / "per_query.parquet")
    names, ranks, correct = ([row[place] for row in answers] for place in range(3))
    columns = {
        "query_id": pa.array(names, pa.string()),
        "rank": pa.array(ranks, pa.int64()),
        "correct": pa.array(correct, pa.bool_()),
    }
    pq.write_table(pa.table(columns), folder / "ranking.parquet")
    write_precision(folder)
    return (folder / "precision.csv").read_text().splitlines()


def test_found_and_precise_down_to_every_rank(tmp_path: Path) -> None:
    """Two queries count, the third has nobody to find: right at 2 and 3, and at 1."""
    answers = [("a", 1, False), ("a", 2, True), ("a", 3, True), ("b", 1, True), ("b", 2, False), ("c", 1, True)]
    lines = write(tmp_path, {"a": 0.5, "b": 1.0, "c": None}, answers)
    assert lines == ["rank,found,precision", "1,0.5,0.5", "2,1,0.5", "3,1,0.6"]


def test_without_an_answer_there_is_no_row(tmp_path: Path) -> None:
    assert write(tmp_path, {"a": 0.5}, []) == ["rank,found,precision"]
    assert write(tmp_path, {"a": None}, [("a", 1, True)]) == ["rank,found,precision"]


def test_main_scores_are_those_of_the_metrics_as_far_as_there_are_any(tmp_path: Path) -> None:
    metrics = {
        "search": {"map": 0.1, "top1": 0.2, "top5": 0.3, "top10": 0.9},
        "detection": {"ap": 0.4, "recall": None},
        "chance": {"map": 0.6},
        "baseline": {"map": 0.7},
    }
    expected = {"map": 0.1, "top1": 0.2, "top5": 0.3, "detection_ap": 0.4, "chance_map": 0.6, "baseline_map": 0.7}
    write_scores(metrics, tmp_path)
    assert json.loads((tmp_path / "scores.json").read_text()) == expected
    write_scores(metrics | {"baseline": None}, tmp_path)
    del expected["baseline_map"]
    assert json.loads((tmp_path / "scores.json").read_text()) == expected
