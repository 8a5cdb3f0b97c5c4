"""What the cache cost and saved, reckoned by hand; and what is said where something was not recorded."""

import json
from dataclasses import replace

import pytest

from stages.page.cost import Cost, cost_chart, measure_cost, seconds_of_groups
from tests.page.conftest import Run

# Filled in 130 s, of which 100 for training; an epoch computed anew takes 30 s and waits 10 s for the cache.
COST = Cost(nbytes=2_500_000, seconds=130.0, train_seconds=100.0, live_epoch=30.0, cached_epoch=10.0, epochs=8)


def test_filling_has_paid_once_the_epochs_gained_as_much() -> None:
    assert (COST.paid_after, COST.saved) == (5.0, 60.0)
    assert [(line.value, line.remark) for line in COST.headlines()] == [
        ("2.5 MB", "of what this head reads"),
        ("2 min 10 s", "once"),
        ("5.0", "epochs of training"),
    ]
    assert COST.text() == (
        "Computing one epoch’s features anew takes 30 s; from the cache training waits 10 s for them. "
        "Over 8 epochs of this head it saved 1 min 00 s."
    )
    chart = cost_chart(COST)
    assert chart is not None
    assert [(list(line.x), list(line.y)) for line in chart.lines] == [([0, 8], [100.0, 180.0]), ([0, 8], [0.0, 240.0])]
    assert chart.markers == ((5.0, "paid"),)
    assert chart.summary.startswith("After 8 epochs: 180 seconds from the cache, filling included; 240 seconds")


def test_a_short_training_is_still_short_of_it_and_its_chart_shows_where_it_pays() -> None:
    short = replace(COST, epochs=1)
    assert short.saved == -80.0
    assert short.text().endswith("Over 1 epoch of this head it is still short of breaking even by 1 min 20 s.")
    even = replace(COST, epochs=5)
    assert even.text().endswith("Over 5 epochs of this head it saved 0 s.")
    chart = cost_chart(short)
    assert chart is not None
    assert list(chart.lines[0].x) == [0, 8]  # half as far again as the five epochs


@pytest.mark.parametrize("cached", [30.0, 31.0])
def test_a_disk_as_slow_as_computing_never_pays(cached: float) -> None:
    slow = replace(COST, cached_epoch=cached, epochs=2)
    assert slow.paid_after is None
    assert slow.text().endswith("On this machine the cache does not pay: compute live.")
    chart = cost_chart(slow)
    assert chart is not None
    assert (chart.markers, list(chart.lines[0].x)) == ((), [0, 2])


@pytest.mark.parametrize("lacking", ["train_seconds", "live_epoch", "cached_epoch"])
def test_what_was_not_recorded_is_not_reckoned(lacking: str) -> None:
    found = replace(COST, **{lacking: None})
    assert (found.paid_after, found.saved, cost_chart(found)) == (None, None, None)
    assert found.headlines()[2].remark == "not measured"
    assert found.headlines()[2].value == "–"
    assert found.text() == "Times were not recorded for this store, so what it saved is not known."
    assert replace(COST, seconds=None).headlines()[1].value == "–"
    assert replace(COST, nbytes=0).text() == "Nothing is stored: this head read its features live."


def test_seconds_are_those_of_what_the_head_reads_by_stage_and_training_may_use_less_than_is_stored(run: Run) -> None:
    for split, seconds in (("train", 3.0), ("test", 7.0)):
        run.write(f"data/features/receipts/{split}/identity/bbbb/t0/0.0.json", {"info": {"seconds": seconds}})
    run.write("data/features/receipts/train/identity/bbbb/t0/1.0.json", {"info": {"seconds": 1.5}})
    facts = json.loads((run.folder / "results/train/metrics.json").read_text())
    run.write("results/train/metrics.json", facts | {"images": 2, "epochs": 4})
    evidence = run.evidence
    assert seconds_of_groups(evidence, "encode") == 4.5 + 4.5
    assert seconds_of_groups(evidence, "extract") == 3.0 + 1.5 + 7.0
    cost = measure_cost(evidence)
    assert (cost.nbytes, cost.seconds, cost.train_seconds) == (2_000_000, 20.5, 9.0)
    assert (cost.live_epoch, cost.cached_epoch, cost.epochs) == (3.0, pytest.approx(0.3), 4)
    run.change("train", source="live")
    assert measure_cost(run.evidence).cached_epoch is None
    run.write("results/train/metrics.json", {})
    cost = measure_cost(run.evidence)
    assert (cost.live_epoch, cost.cached_epoch, cost.epochs) == (9.0, None, 6)
    run.write("data/features/receipts/test/identity/bbbb/t0/1.0.json", {"info": {}})
    cost = measure_cost(run.evidence)
    assert (cost.seconds, cost.train_seconds) == (None, 9.0)


def test_a_chart_reaches_at_least_one_epoch() -> None:
    chart = cost_chart(replace(COST, epochs=0, cached_epoch=40.0))
    assert chart is not None
    assert list(chart.lines[0].x) == [0, 1]
