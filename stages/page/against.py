"""Other runs beside this one: scores with their intervals, a point per query, and whom only one of them finds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from cache.files import read_bytes, read_json
from cache.sealed import table_in
from diffps.errors import ConfigError
from diffps.figures.searches import Search, ranking_sheet
from diffps.figures.sheets import Chart, Line, Sheet
from diffps.metrics.paired import paired_difference
from stages.page.content import Cell, Section, Table, change, share
from stages.page.evidence import Evidence, Json
from stages.page.scores import interval, interval_text
from stages.page.searches import query_find, result_find
from stages.places import EVALUATE

CHANGED = 2  # queries shown that changed most, in each direction
HITS = 3  # first answers shown of each
FILES = ("metrics.json", "per_query.parquet", "ranking.parquet")


class Other(NamedTuple):
    """Results of another run: ``precisions`` by query of the queries that are the same as here."""

    name: str
    metrics: Json
    precisions: dict[str, float]
    ranking: dict[str, list[Json]]


def read_other(evidence: Evidence, folder: Path) -> Other:
    """The results in ``folder``: a project's, or those of one head of a sweep. Raises ConfigError where there are
    none."""
    places = folder, folder / EVALUATE, folder / "evaluate"
    place = next((place for place in places if all((place / name).is_file() for name in FILES)), None)
    if place is None:
        raise ConfigError(f"--with {folder}: holds no results of an evaluation ({', '.join(FILES)})")
    same = _same_queries(evidence, place)
    rows = table_in(read_bytes(place / "per_query.parquet"), ["query_id", "ap"]).to_pylist()
    ranking: dict[str, list[Json]] = {}
    for row in sorted(table_in(read_bytes(place / "ranking.parquet")).to_pylist(), key=lambda row: int(row["rank"])):
        if row["scene_id"] in evidence.scenes:
            ranking.setdefault(row["query_id"], []).append(row)
    return Other(
        name=folder.resolve().name,
        metrics=read_json(place / "metrics.json"),
        precisions={row["query_id"]: row["ap"] for row in rows if row["ap"] is not None and row["query_id"] in same},
        ranking=ranking,
    )


def against_sections(evidence: Evidence, others: Sequence[Path]) -> list[Section]:
    """All scores side by side, and for every other run a point per query and the queries that changed most."""
    if not others:
        return []
    runs = [read_other(evidence, folder) for folder in others]
    lead = "The same queries, answered by other heads. Differences are this run less the other, query by query."
    columns = ["Run", "Mean AP", "95 %", "Difference", "Top-1", "Detection AP", "Queries in common"]
    rows = [_own_row(evidence), *(_row(evidence, run) for run in runs)]
    if not evidence.is_annotated:
        columns, rows = _without(columns, rows, "Detection AP")
    table = Table(caption="Runs side by side", columns=columns, rows=rows)
    return [
        Section(
            anchor="against",
            title="Beside other runs",
            lead=lead,
            tables=[table],
            charts=[chart for run in runs if (chart := _scatter(evidence, run)) is not None],
            sheets=[sheet for run in runs if (sheet := _changed(evidence, run)) is not None],
        )
    ]


def _own_row(evidence: Evidence) -> list[Any]:
    persons = {name: query.identity for name, query in evidence.queries.items()}
    bounds = interval_text(interval(evidence.precisions, persons))
    found = evidence.scores
    return ["this run", share(found["search"]["map"]), bounds, "", *_rest(found), len(evidence.precisions)]


def _row(evidence: Evidence, run: Other) -> list[Any]:
    persons = {name: query.identity for name, query in evidence.queries.items()}
    bounds = interval_text(interval(run.precisions, persons))
    found = paired_difference([(run.precisions, evidence.precisions)])
    common = len(run.precisions.keys() & evidence.precisions.keys())
    apart = change(found["map_diff"], found.get("map_diff_se")) if common else "no query in common"
    return [run.name, share(run.metrics["search"]["map"]), bounds, apart, *_rest(run.metrics), common]


def _rest(metrics: Json) -> list[Cell]:
    return [share(metrics["search"]["top1"]), share(metrics["detection"]["ap"])]


def _without(columns: list[str], rows: list[list[Any]], name: str) -> tuple[list[str], list[list[Any]]]:
    at = columns.index(name)
    return columns[:at] + columns[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]


def _scatter(evidence: Evidence, run: Other) -> Chart | None:
    names = sorted(run.precisions.keys() & evidence.precisions.keys())
    if not names:
        return None
    x, y = ([each[name] for name in names] for each in (run.precisions, evidence.precisions))
    above, below = sum(b > a for a, b in zip(x, y, strict=True)), sum(b < a for a, b in zip(x, y, strict=True))
    said = f"Queries answered better here: {above}; better there: {below}; alike: {len(names) - above - below}."
    return Chart(
        title=f"Average precision by query: this run and {run.name}",
        x_label=run.name,
        y_label="this run",
        shares="xy",
        lines=(
            Line(label="queries", x=x, y=y, points=True, joined=False),
            Line(label="equal", x=[0.0, 1.0], y=[0.0, 1.0]),
        ),
        note=f"A point is one query; above the line this run answers it better. {said}",
        summary=said,
    )


def _changed(evidence: Evidence, run: Other) -> Sheet | None:
    """The queries that gained and lost most, each with the first answers here and there."""
    common = run.precisions.keys() & evidence.precisions.keys() & evidence.queries.keys()
    gained = {name: evidence.precisions[name] - run.precisions[name] for name in common}
    order = sorted((name for name in gained if gained[name]), key=lambda name: (-gained[name], name))
    chosen = dict.fromkeys([*order[:CHANGED], *order[-CHANGED:]])
    searches = []
    for name in chosen:
        for where, rows, value in (
            ("this run", evidence.ranking.get(name, []), evidence.precisions[name]),
            (run.name, run.ranking.get(name, []), run.precisions[name]),
        ):
            searches.append(
                Search(
                    query_id=name,
                    kind=f"{'Better' if gained[name] > 0 else 'Worse'} here, {where}",
                    query=query_find(evidence, name),
                    results=tuple(replace(result_find(evidence, row), found=None) for row in rows[:HITS]),
                    precision=value,
                )
            )
    if not searches:
        return None
    note = "The queries that changed most, each twice: as this run answers it, then as the other does."
    return replace(ranking_sheet(searches), title="What changed", note=note)


def _same_queries(evidence: Evidence, place: Path) -> set[str]:
    """Queries that ask for the same person at the same place: equal names alone may be of other data."""
    columns = ["query_id", "scene_id", "identity"]
    path = place / "queries.parquet"
    rows = table_in(read_bytes(path if path.is_file() else place / "per_query.parquet"), columns).to_pylist()
    known = {name: (query.scene_id, query.identity) for name, query in evidence.queries.items()}
    return {row["query_id"] for row in rows if known.get(row["query_id"]) == (row["scene_id"], row["identity"])}
