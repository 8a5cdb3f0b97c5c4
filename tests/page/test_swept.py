"""A sweep's section: which columns stand there, what is said of other epochs and parameters, and its effects."""

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.page.content import Section
from stages.page.scores import plain_section
from stages.page.swept import sweep_section
from stages.sweeps.results import BASE
from tests.page.conftest import Run

TABLE = "results/sweep/table.parquet"


def section(run: Run) -> Section:
    (found,) = sweep_section(run.evidence)
    return found


def change(run: Run, base: dict[str, Any] | None = None, **columns: list[Any]) -> None:
    """Columns of the sweep's table for its four scored variants, and the parameters it says it was run with."""
    path = run.folder / TABLE
    table = pq.read_table(path).slice(0, 4).to_pydict() | columns
    metadata = None if base is None else {BASE: json.dumps(base)}
    pq.write_table(pa.table({name: values for name, values in table.items() if values}, metadata=metadata), path)


def columns_of(found: Section) -> list[str]:
    return list(found.tables[0].columns)


def test_numbers_are_written_as_what_they_are(run: Run) -> None:
    change(
        run,
        epochs=[6, 6, 6, 6],
        map_mean=[0.4, 0.3, 0.35, 0.2],
        map_se=[0.01, 0.02, None, 0.0125],
        parameters=[1234567, 5, 5, 5],
    )
    found = section(run)
    rows = [dict(zip(columns_of(found), map(str, row), strict=True)) for row in found.tables[0].rows]
    first, second = rows[:2]
    assert found.tables[0].caption == "4 heads trained from the cache"
    assert {"41.2 %", "71.0 %", "50.0 %", "40.0 %", "240 kB", "31 s", "1.0 points", "1,234,567"} <= set(first.values())
    assert "-8.2 points ± 1.0" in second.values()
    assert "None" in first.values()  # the first variant differs from none
    assert found.lead == ("Press a heading to sort. Differences are to the first variant, with their standard error.")
    assert found.sentences == []


def test_columns_that_say_nothing_are_left_out(run: Run) -> None:
    change(run, epochs=[6, 6, 6, 6])
    found = section(run)
    assert len(columns_of(found)) == len(set(columns_of(found)))
    assert found.lead.endswith(
        "Each variant was trained once: errors count the queries, not how far two trainings of one variant differ."
    )
    with_epochs = columns_of(found)
    change(run, epochs=[3, 3, 3, 3])  # all the same, and said in a sentence
    shorter = section(run)
    assert len(columns_of(shorter)) == len(with_epochs) - 1
    assert shorter.sentences == [
        "These heads were trained for 3 epochs, the one this page is about for 6: their scores compare with each "
        "other, not with the numbers above."
    ]
    change(run, epochs=[6, None, 6, 6])  # of one that diverged nothing is known
    assert section(run).sentences == []
    change(run, epochs=[3, 4, 3, 6])
    assert section(run).sentences[0].startswith("These heads were trained for 3 to 6 epochs, ")
    assert len(columns_of(section(run))) == len(with_epochs)
    path = run.folder / "data/index/annotations.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert set(with_epochs) - set(columns_of(section(run))) == {"Detection AP"}


def test_variants_of_other_parameters_are_told(run: Run) -> None:
    now = plain_section(run.params.train)
    change(run, {**now, "source": "live"}, epochs=[6] * 4)
    assert section(run).sentences == []  # live and cached features are the same
    change(run, {**now, "lr": 0.5}, epochs=[6] * 4)
    (sentence,) = section(run).sentences
    assert sentence.startswith("These heads are changes of other parameters than today’s (train.lr")


@pytest.mark.parametrize("errors", [True, False])
def test_effects_are_judged_where_they_have_errors(run: Run, errors: bool) -> None:
    effects = [
        {"factor": "lr", "level": "1", "reference": "2", "change": 0.05, "error": 0.01, "notable": True},
        {"factor": "seed", "level": "b", "reference": "a", "change": -0.001, "error": 0.02, "notable": False},
    ]
    if not errors:
        effects = [effect | {"error": None, "notable": False} for effect in effects]
    run.write("results/sweep/effects.json", {"effects": effects, "basis": "Over seeds."})
    found = section(run)
    rows = [[str(cell) for cell in row] for row in found.tables[1].rows]
    assert found.lead.endswith("with their standard error. Over seeds.")
    if errors:
        assert rows == [
            ["lr: 1 against 2", "+5.0 points ± 1.0", "above twice its error"],
            ["seed: b against a", "-0.1 points ± 2.0", "within twice its error"],
        ]
    else:
        assert rows == [["lr: 1 against 2", "+5.0 points"], ["seed: b against a", "-0.1 points"]]
    assert len(found.tables[1].columns) == len(rows[0])


def test_without_scored_heads_there_is_no_section(run: Run) -> None:
    change(run, map=[None] * 4)
    assert sweep_section(run.evidence) == []
    run.write("results/sweep/effects.json", {"effects": [], "basis": "x"})
    (run.folder / TABLE).unlink()
    assert sweep_section(run.evidence) == []
