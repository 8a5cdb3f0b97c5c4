"""Losses can be followed while heads are trained: in a file that grows by whole lines, and in trackers' own files."""

import csv
import json
import random
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffps.errors import ConfigError
from diffps.training import StepResult
from stages.head.loop import train_head
from stages.head.watching import CURVE_ROWS, LossFile, tracked
from stages.job import QuietJob
from stages.places import TRAIN
from tests.world import SmallSource, head_run, small_params, train_small

LOSSES = ("rpn_cls", "reid")


def steps(count: int) -> list[StepResult]:
    rng = random.Random(0)
    return [
        StepResult(n, n // 7, 0.1 / (1 + n), rng.random(), {name: rng.random() for name in LOSSES}, rng.random())
        for n in range(count)
    ]


@given(data=st.data(), total=st.integers(1, 3 * CURVE_ROWS))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_continued_anywhere_the_file_is_that_of_an_uninterrupted_training(
    tmp_path: Path, data: st.DataObject, total: int
) -> None:
    history, path = steps(total), tmp_path / "losses.csv"
    whole = LossFile(path, total)
    whole.end(history)
    expected = path.read_bytes()
    assert expected.count(b"\n") <= CURVE_ROWS + 1
    saved = data.draw(st.integers(0, total))
    killed = data.draw(st.integers(saved, total))
    first = LossFile(path, total)
    first.begin([])
    for result in history[:killed]:
        first.add(result)
    grown = path.read_bytes() if path.exists() else b""
    assert expected.startswith(grown)
    with path.open("ab") as file:  # a line that a power cut tore
        file.write(b"17,2,0.")
    again = LossFile(path, total)
    again.begin(history[:saved])
    assert expected.startswith(path.read_bytes() if path.exists() else b"")
    for result in history[saved:]:
        again.add(result)
    again.end(history)
    assert path.read_bytes() == expected


def test_a_row_is_the_mean_of_its_steps_and_says_the_last_of_them(tmp_path: Path) -> None:
    """Two steps a row as soon as a row each would be one too many; a norm that is not known is left out."""
    history = [
        StepResult(n, n // 4, 0.5 / (1 + n), 4.0 + n, {"rpn_cls": 1.0 + n, "reid": 3.0}, None if n % 2 else 2.0 + n)
        for n in range(CURVE_ROWS + 1)
    ]
    path = tmp_path / "losses.csv"
    LossFile(path, CURVE_ROWS).end(history[:CURVE_ROWS])
    whole = path.read_text().splitlines()
    assert whole[:4] == [
        "step,epoch,lr,total,rpn_cls,reid,grad_norm",
        "0,0,0.5,4,1,3,2",
        "1,0,0.25,5,2,3",
        "2,0,0.166667,6,3,3,4",
    ]
    assert len(whole) == CURVE_ROWS + 1
    LossFile(path, CURVE_ROWS + 1).end(history)
    halved = path.read_text().splitlines()
    assert len(halved) == CURVE_ROWS // 2 + 2
    assert halved[1:3] == ["1,0,0.25,4.5,1.5,3,2", "3,0,0.125,6.5,3.5,3,4"]
    assert halved[-1].startswith("1000,250,")
    assert CURVE_ROWS == 1000


def test_the_file_grows_while_the_head_is_trained(here: Path) -> None:
    rows: list[int] = []

    def watch(name: str, result: StepResult) -> None:
        with (TRAIN / "losses.csv").open() as file:
            rows.append(len(list(csv.DictReader(file))))
        assert (TRAIN / "losses.csv").read_bytes().endswith(b"\n")

    source = SmallSource()
    train_head(head_run(small_params(), source), source, QuietJob(), watch=watch)
    assert rows == list(range(1, len(rows) + 1))
    assert len(rows) > 2


def test_the_loss_stands_beside_the_progress(here: Path) -> None:
    notes: list[str] = []

    class Job(QuietJob):
        def advance(self, done: int = 1, nbytes: int = 0, note: str = "") -> None:
            notes.append(note)

        def track(self, label: str, total: int, unit: str) -> "Job":  # type: ignore[override]
            return self

        def __enter__(self) -> "Job":
            return self

        def __exit__(self, *error: object) -> None:
            pass

    train_small(small_params(), SmallSource(), Job())
    with (TRAIN / "losses.csv").open() as file:
        totals = [float(row["total"]) for row in csv.DictReader(file)]
    assert notes == [f"loss {total:.4g}" for total in totals]


def test_tensorboard_is_shown_every_step_and_nothing_twice(here: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    history = steps(5)
    with tracked("tensorboard", {"": TRAIN}) as watch:
        for result in history[:4]:
            watch("", result)
    with tracked("tensorboard", {"": TRAIN}) as watch:  # from a checkpoint after two steps
        for result in history[2:]:
            watch("", result)
    found = accumulator.EventAccumulator(str(TRAIN / "tensorboard")).Reload()
    shown = {"loss/total": [r.total for r in history], "lr": [r.lr for r in history]}
    shown |= {f"loss/{name}": [r.losses[name] for r in history] for name in LOSSES}
    assert set(found.Tags()["scalars"]) == set(shown)
    for name, values in shown.items():
        events = found.Scalars(name)
        assert [event.step for event in events] == list(range(5))
        assert [event.value for event in events] == pytest.approx(values)


def test_dvclive_is_shown_every_step(here: Path) -> None:
    pytest.importorskip("dvclive")
    history = steps(4)
    with tracked("dvclive", {"a": Path("a"), "b": Path("b")}) as watch:
        for result in history:
            watch("a", result)
    assert not Path("b").exists()
    with Path("a/dvclive/plots/metrics/loss/reid.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [float(row["reid"]) for row in rows] == pytest.approx([result.losses["reid"] for result in history])
    assert all(int(one["step"]) + 1 == int(next_["step"]) for one, next_ in pairwise(rows))
    assert json.loads(Path("a/dvclive/metrics.json").read_text())["loss"]["total"] == history[-1].total


def test_a_tracker_that_is_not_installed_is_said_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dvclive.live", None)
    with pytest.raises(ConfigError, match=r"runtime.tracker dvclive: .*pip install"), tracked("dvclive", {}):
        pass


def test_no_tracker_writes_nothing(here: Path) -> None:
    with tracked("", {"": TRAIN}) as watch:
        watch("", steps(1)[0])
    assert not TRAIN.exists()
