import json
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffps.heads.config import ModelConfig
from stages.page.provenance import provenance_section, without_paths
from tests.page.conftest import SMALL, Run, save_head


def write_log(run: Run, stage: str, *overrides: str, start: float = 1_790_000_000.0, seconds: float = 12.0) -> None:
    events = [
        {"time": start, "event": "run", "command": stage, "params": "/home/anna/params.yaml", "overrides": overrides},
        {"time": start - 3600, "event": "finished", "seconds": seconds},  # the clock was set back meanwhile
        {"time": start + 99, "event": "run", "command": stage, "overrides": []},
    ]
    path = run.folder / "results" / stage / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '["run"]\n{"time": 1, "ev')


def test_stages_have_their_date_their_time_and_their_command(run: Run) -> None:
    write_log(run, "evaluate", "evaluate.gallery=all", "index.root=/home/anna/prw")
    section = provenance_section(run.evidence)
    rows = {row[0]: [str(cell) for cell in row] for row in section.tables[0].rows}
    assert rows["evaluate"][1:3] == ["2026-09-21 13:13 UTC", "12 s"]
    assert "--set evaluate.gallery=all" in rows["evaluate"][3]
    assert rows["encode"][2] == rows["extract"][2] == "9 s"  # two receipts of 4.5 seconds
    assert rows["train"][2] == "31 s"
    assert rows["index"][1:3] == ["None", "–"]


def test_digests_versions_and_machine_are_told(run: Run) -> None:
    save_head(run, ModelConfig(**SMALL, msfrn=None, sfan=None))
    facts = provenance_section(run.evidence).facts
    assert facts["Checkpoint"] == "builtin:random"
    assert len(facts["Head"]) == 12
    assert "Python 3" in facts["Versions"]
    assert "torch" in facts["Versions"]
    assert "core" in facts["Page made on"]


def test_nothing_on_the_page_leads_to_a_person_or_a_path(run: Run) -> None:
    run.change("encode", checkpoint="/home/anna/models/sd")
    run.change("index", root=str(run.folder / "images"))
    for stage in ("index", "evaluate"):
        write_log(run, stage, "index.root=/home/anna/prw", "encode.checkpoint='../bert/sd'", "train.lr=0.1")
    save_head(run, ModelConfig(**SMALL, msfrn=None, sfan=None), {"training": asdict(run.params.train) | {"lr": 0.3}})
    run.report()
    html = (run.folder / "results/report/index.html").read_text()
    for secret in ("anna", "bert", str(run.folder), str(Path.home()), "params.yaml"):
        assert secret not in html
    assert "--set train.lr=0.1" in html


@pytest.mark.parametrize(
    "text", ["float16, int8", "1/2 of 3 km/h", "stabilityai/stable-diffusion-2-1", "presets/a.yaml"]
)
def test_what_is_no_path_of_the_machine_stays(text: str) -> None:
    assert without_paths(text) == text


@given(
    st.sampled_from(["/home/{}/x", "~/{}", "../{}/data", "C:\\Users\\{}", "~x/{}"]),
    st.sampled_from(["{}", "key={}", "a '{}' b", "was '{}' and is 3", "[{}, 1]"]),
)
def test_paths_of_the_machine_go_wherever_they_stand(path: str, around: str) -> None:
    assert "anna" not in without_paths(around.format(path.format("anna")))


def test_another_encoding_in_the_same_store_is_not_counted(run: Run) -> None:
    run.report()
    before = (run.folder / "results/report/index.html").read_text()
    for path in (run.folder / "data/manifests/extract").rglob("*@int8.json"):
        other = json.loads(path.read_text().replace("@int8", "@float16"))
        path.with_name(path.name.replace("int8", "float16")).write_text(json.dumps(other))
    run.report()
    assert (run.folder / "results/report/index.html").read_text() == before


def test_what_is_doubtful_about_the_data_stands_on_the_page(run: Run) -> None:
    finding = {"kind": "doubtful", "reason": "lie outside", "of": "boxes", "count": 2, "total": 40, "example": "a.csv"}
    run.write("data/index/report.json", {"dataset": "prw", "test": {"boxes": 24}, "findings": [finding]})
    run.report()
    html = (run.folder / "results/report/index.html").read_text()
    assert "2 of 40 boxes (5.0 %) lie outside; first: a.csv" in html
    run.write("data/index/report.json", {"dataset": "prw", "test": {"boxes": 24}, "findings": []})
    run.report()
    assert "contradicts anything else" in (run.folder / "results/report/index.html").read_text()


def test_a_sweep_of_other_parameters_says_so(run: Run) -> None:
    path = run.folder / "results/sweep/table.parquet"
    table = pq.read_table(path)
    base = json.loads(json.dumps(asdict(run.params.train)))
    for lr, outdated in ((base["lr"], False), (0.123, True)):
        pq.write_table(table.replace_schema_metadata({"train": json.dumps(base | {"lr": lr})}), path)
        run.report()
        html = (run.folder / "results/report/index.html").read_text()
        assert ("changes of other parameters" in html) == outdated
    assert "train.lr was 0.123" in html
