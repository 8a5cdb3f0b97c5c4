"""What DVC shows of experiments, and what travels with `dvc push`."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline.project import Project

MAIN = {"map", "top1", "top5", "detection_ap", "detection_recall", "chance_map", "baseline_map", "loss", "seconds"}


def test_metrics_are_the_main_scores_alone(finished: Project) -> None:
    found = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)
    (of_all,) = found.values()
    numbers: dict[str, float] = {}
    for entry in of_all["data"].values():
        numbers |= entry["data"]
    assert set(numbers) <= MAIN
    assert len(numbers) >= 7
    assert all(isinstance(value, float | int) for value in numbers.values())
    scores = json.loads((finished.root / "results/evaluate/metrics.json").read_text())
    assert numbers["map"] == scores["search"]["map"]
    assert numbers["chance_map"] == scores["chance"]["map"]


def test_plots_have_axes_and_titles(finished: Project) -> None:
    found = json.loads(finished.run("dvc", "plots", "show", "--json").stdout)["data"]
    specifications = {path: plot["content"] for path, (plot, *_) in found.items()}
    text = json.dumps(specifications)
    for title in ("Loss while training", "Right answers by rank", "Variants of the sweep"):
        assert title in text
    for path, field in {"losses.csv": "step", "precision.csv": "rank", "table.csv": "map_mean"}.items():
        assert any(path in name and f'"{field}"' in json.dumps(each) for name, each in specifications.items())


def test_precision_by_rank_agrees_with_the_scores(finished: Project) -> None:
    with (finished.root / "results/evaluate/precision.csv").open() as file:
        rows = list(csv.DictReader(file))
    search = json.loads((finished.root / "results/evaluate/metrics.json").read_text())["search"]
    found = [float(row["found"]) for row in rows]
    assert found == sorted(found)
    assert abs(found[0] - search["top1"]) < 1e-6
    assert abs(found[4] - search["top5"]) < 1e-6


@pytest.mark.slow
def test_results_travel_and_features_do_not(project: Project, tmp_path: Path) -> None:
    project.run("dvc", "remote", "add", "-d", "shelf", str(tmp_path / "shelf"))
    project.run("dvc", "push")
    project.commit()
    clone = project.clone(tmp_path / "colleague")
    clone.run("dvc", "pull")
    for name in ("results/train/head", "results/evaluate", "results/sweep", "data/manifests", "data/inputs"):
        ours, theirs = ({p.relative_to(c.root): p for p in (c.root / name).rglob("*.json")} for c in (project, clone))
        assert theirs
        assert {path: file.read_bytes() for path, file in theirs.items()} == {p: ours[p].read_bytes() for p in theirs}
    # Nothing of the store: whoever needs features is told in one line what makes them and what that costs.
    assert not (clone.root / "data/features").exists()
    for command in ("train", "evaluate"):
        done = clone.run("diffps", command, "--set", "train.lr=0.0005", check=False)
        assert done.returncode == 2
        (line,) = (line for line in done.stderr.splitlines() if line.startswith("diffps: "))
        assert "`diffps extract`" in line
        assert "diffps cache plan" in line
    assert "MB" in clone.run("diffps", "cache", "plan").stdout


@pytest.mark.slow
def test_experiments_are_compared_in_few_columns(project: Project) -> None:
    shutil.copytree(project.root / "results", project.root.parent / "before")
    project.run("dvc", "exp", "run", "--set-param", "report.title=Another")
    header = next(csv.reader(io.StringIO(project.run("dvc", "exp", "show", "--csv").stdout)))
    assert MAIN - {"top5"} <= set(header)
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    metrics = [name for entry in shown[0]["data"]["metrics"].values() for name in entry["data"]]
    assert len(metrics) < 12
