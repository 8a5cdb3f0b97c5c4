"""What earlier stages left: what is taken where they left nothing, and results of another index or head."""

import shutil
from typing import Any

import pyarrow.parquet as pq
import pytest

from cache.errors import DamagedError
from cache.sealed import seal_folder
from stages.head.identity import index_digest
from stages.page.evidence import Evidence
from tests.page.conftest import Run


def test_a_scene_where_nobody_was_found_has_no_boxes(run: Run) -> None:
    assert run.evidence.found_in("nowhere").shape == (0, 4)
    assert run.evidence.scores_in("nowhere").shape == (0,)


@pytest.mark.parametrize(
    ("report", "foreign"), [({"test": {"foreign": 7}}, 7), ({"test": {}}, 0), ({"test": 5}, 0), ({}, 0), (None, 0)]
)
def test_boxes_of_training_persons_are_none_where_the_index_does_not_say(run: Run, report: Any, foreign: int) -> None:
    path = run.folder / "data/index/report.json"
    path.unlink()
    if report is not None:
        run.write("data/index/report.json", report)
    assert run.evidence.foreign == foreign


def test_what_was_not_made_is_nothing(run: Run) -> None:
    for name in ("train/metrics.json", "train/losses.csv", "sweep/table.parquet"):
        (run.folder / "results" / name).unlink()
    found = run.evidence
    assert (found.training, found.losses, found.sweep, found.sweep_base, found.effects) == ({}, {}, [], {}, {})
    assert found.head_training == {}


def test_a_loss_that_is_no_number_is_nan(run: Run) -> None:
    (run.folder / "results/train/losses.csv").write_text("step,total\n1,0.5\n2,oops\n3,\n")
    losses = run.evidence.losses
    assert losses["step"] == [1, 2, 3]
    assert losses["total"][0] == 0.5
    assert all(value != value for value in losses["total"][1:])


def test_the_first_result_decides_whether_a_query_hit(run: Run) -> None:
    firsts = {name: rows[0] for name, rows in run.evidence.ranking.items()}
    assert all(row["rank"] == 1 for row in firsts.values())
    assert run.evidence.first_hits == {name: float(row["correct"]) for name, row in firsts.items()}
    path = run.folder / "results/evaluate/ranking.parquet"
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert set(run.evidence.first_hits.values()) == {0.0}


def test_scores_of_another_index_are_refused_and_their_own_are_not(run: Run) -> None:
    folder = run.folder / "results/evaluate"
    names = [path.name for path in folder.iterdir()]
    seal_folder(folder, names, {"index": index_digest()})
    assert Evidence(run.params, run.store, run.job).scores["search"]
    seal_folder(folder, names, {"index": "0" * 64})
    with pytest.raises(DamagedError, match=r"was made from index 0{10}, but data/index is index \w{10}: .*two runs"):
        Evidence(run.params, run.store, run.job)
    shutil.rmtree(folder)
    Evidence(run.params, run.store, run.job)  # what is not there is no mixture
