"""What came out of a sweep: one result per variant, and the table over them."""

import csv
import io
import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cache.errors import DamagedError
from cache.files import write_file, write_json, write_text
from cache.sealed import read_json
from cache.sealed import write_json as write_sealed
from diffps.metrics.paired import paired_difference
from stages.config_heads import TrainConfig
from stages.head.identity import code_digest, index_digest, scoring_digest
from stages.places import SWEEP
from stages.sweeps.effects import effects_content, sweep_runs
from stages.sweeps.variants import Variant, describe_changes
from stages.together import begin, finish, require_same, sealed_head, table_content, together

log = logging.getLogger(__name__)

BASE = "train"  # in table.parquet
COLUMNS = {
    "variant": str,
    "group": str,
    "status": str,
    "changes": str,
    "seed": int,
    "timestep": int,
    "encoding": str,
    "taps": str,
    "image_bytes": int,
    "detection_ap": float,
    "detection_recall": float,
    "map": float,
    "top1": float,
    "seeds": int,
    "map_mean": float,
    "map_std": float,
    "map_se": float,
    "map_diff": float,
    "map_diff_se": float,
    "se_over": str,
    "loss": float,
    "epochs": int,
    "seconds": float,
    "parameters": int,
    "folder": str,
    "error": str,
}


def write_result(variant: Variant, result: Mapping[str, Any]) -> None:
    """Written last: with it a variant counts as done, under its settings, those of the evaluation, and the stored
    features."""
    write_sealed(variant.folder / "result.json", {"of": _made_under(variant), **result})


def result_of(variant: Variant) -> dict[str, Any] | None:
    """The variant's result, None where it is missing, damaged, or of other settings, code or features."""
    path = variant.folder / "result.json"
    if not path.is_file():
        return None
    try:
        result = read_json(path, "`diffps sweep`")
    except DamagedError as error:
        log.warning("%s", error)
        return None
    return result if result.pop("of", None) == _made_under(variant) else None


def write_table(variants: Sequence[Variant], base: TrainConfig) -> None:
    """results/sweep/table.parquet, table.csv, effects.json and metrics.json from the results there are. ``base``, the
    section that variants are changes of, is kept with the table: parameters may be others when it is read."""
    rows = table_rows(variants)
    begin(SWEEP)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(COLUMNS), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(SWEEP / "table.csv", text.getvalue())
    write_file(SWEEP / "table.parquet", lambda path: _write_parquet(rows, base, path))
    write_json(SWEEP / "effects.json", effects_content(sweep_runs(variants, rows)))
    keys = ("detection_ap", "map", "top1", "map_mean", "map_std", "map_diff", "map_diff_se")
    found = {row["variant"]: {key: row[key] for key in keys if row[key] is not None} for row in rows}
    write_json(SWEEP / "metrics.json", {name: scores for name, scores in found.items() if scores})
    written = ("effects.json", "metrics.json", "table.csv", "table.parquet")
    finish(SWEEP, written, {"index": index_digest()})


def table_rows(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """One row per variant, in order. Differences are to the first variant's group, paired query by query and seed by
    seed; their standard error is over seeds where there are several, else over queries. ``map_se`` is that of the mean
    over seeds, from run to run; ``image_bytes`` what the head reads of one image."""
    results = {variant.name: result_of(variant) for variant in variants}
    rows = [_row(variant, results[variant.name]) for variant in variants]
    by_group: dict[str, list[tuple[Variant, dict[str, Any]]]] = {}
    for variant, row in zip(variants, rows, strict=True):
        if row["map"] is not None:
            by_group.setdefault(variant.group, []).append((variant, row))
    reference = by_group.get(variants[0].group, [])
    for name, members in by_group.items():
        maps = [row["map"] for _, row in members]
        deviation = statistics.stdev(maps) if len(maps) > 1 else None
        shared = {
            "seeds": len(members),
            "map_mean": statistics.fmean(maps),
            "map_std": deviation,
            "map_se": None if deviation is None else deviation / len(maps) ** 0.5,
        }
        if name != variants[0].group:
            shared |= paired_difference(_pairs([v for v, _ in reference], [v for v, _ in members]))
        for _, row in members:
            row |= shared
    return rows


def _pairs(ours: Sequence[Variant], theirs: Sequence[Variant]) -> list[tuple[dict[str, float], dict[str, float]]]:
    """Average precisions of equal seeds; of the first two heads where no seed is common."""
    by_seed = {variant.params.train.seed: variant for variant in ours}
    pairs = [(by_seed[v.params.train.seed], v) for v in theirs if v.params.train.seed in by_seed]
    return [(_precisions(a), _precisions(b)) for a, b in pairs or list(zip(ours, theirs, strict=False))[:1]]


def _row(variant: Variant, result: Mapping[str, Any] | None) -> dict[str, Any]:
    train = variant.params.train
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {
        "variant": variant.name,
        "group": variant.group,
        "status": result["status"] if result else _stage_of(variant),
        "changes": describe_changes(variant.changes),
        "seed": train.seed,
        "timestep": train.timestep,
        "encoding": variant.params.extract.encoding,
        "taps": ", ".join(train.taps.names),
        "image_bytes": variant.reading.image_bytes(),
        "epochs": train.epochs,
        "folder": str(variant.folder),
        "error": result.get("error") if result else None,
    }
    if result and result["status"] == "done":
        training, scores = result["training"], result["scores"]
        row |= {name: training[name] for name in ("loss", "seconds", "parameters")}
        row |= {"detection_ap": scores["detection"]["ap"], "detection_recall": scores["detection"]["recall"]}
        row |= {"map": scores["search"]["map"], "top1": scores["search"]["top1"]}
    return row


def _stage_of(variant: Variant) -> str:
    if (variant.folder / "head").exists():
        return "trained"
    return "training" if (variant.folder / "checkpoint").exists() else "waiting"


def _precisions(variant: Variant) -> dict[str, float]:
    folder = variant.folder / "evaluate"
    scores = together(folder, "sweep")
    if scores is not None:
        require_same(scores, "head", sealed_head(variant.folder / "head", "sweep"), variant.folder / "head")
    table = table_content(folder / "per_query.parquet", "sweep", ["query_id", "ap"])
    pairs = zip(table["query_id"].to_pylist(), table["ap"].to_pylist(), strict=True)
    return {query: precision for query, precision in pairs if precision is not None}


def _write_parquet(rows: Sequence[Mapping[str, Any]], base: TrainConfig, path: Path) -> None:
    types = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    said = {BASE: json.dumps(asdict(base))}
    schema = pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()], said)
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema), path)


def _made_under(variant: Variant) -> dict[str, Any]:
    evaluate = json.loads(json.dumps(asdict(variant.params.evaluate)))
    return {
        "settings": variant.settings,
        "evaluate": evaluate,
        "store": variant.reading.digest(["train", "test"]),
        "index": index_digest(),
        "code": code_digest(),
        "scoring": scoring_digest(),
    }
