import shutil

import pyarrow.parquet as pq
import pytest

from diffps.errors import ConfigError
from stages.page.against import against_sections
from stages.page.compose import compose
from stages.page.html import render
from tests.page.conftest import Run, other_run


def test_another_run_stands_beside_this_one(run: Run) -> None:
    other = other_run(run, lambda ap: [value - 0.1 for value in ap])
    (section,) = against_sections(run.evidence, [other])
    assert [str(cell) for cell in section.tables[0].rows[1]][3] == "+10.0 points ± 0.0"
    points = section.charts[0].lines[0]
    count = len(points.x)
    assert section.charts[0].summary == f"Queries answered better here: {count}; better there: 0; alike: 0."
    assert all(y == pytest.approx(x + 0.1) for x, y in zip(points.x, points.y, strict=True))
    assert [row.label for row in section.sheets[0].rows][:2] == ["Better here, this run", "Better here, other"]
    assert 'id="against"' in render(compose(run.evidence, [other]))


def test_equal_names_of_other_queries_are_not_compared(run: Run) -> None:
    other = run.folder / "other"
    shutil.copytree(run.folder / "results/evaluate", other)
    table = pq.read_table(other / "per_query.parquet").to_pydict()
    table |= {"scene_id": ["elsewhere"] * len(table["ap"]), "identity": [0] * len(table["ap"])}
    run.table("other/per_query.parquet", table)
    (section,) = against_sections(run.evidence, [other])
    assert "no query in common" in str(section.tables[0].rows[1][3])
    assert not section.charts
    assert not section.sheets


def test_a_folder_without_results_is_refused(run: Run) -> None:
    with pytest.raises(ConfigError, match="holds no results"):
        against_sections(run.evidence, [run.folder / "data"])


def test_queries_answered_alike_are_neither_better_here_nor_there(run: Run) -> None:
    other = other_run(run, lambda ap: [ap[0] + 0.1, ap[1] - 0.1, *ap[2:]])
    count = len(run.evidence.queries)
    (section,) = against_sections(run.evidence, [other])
    said = f"Queries answered better here: 1; better there: 1; alike: {count - 2}."
    assert section.charts[0].summary == said
    assert against_sections(run.evidence, []) == []
