"""Sweeps on the made-up index and features, and as the command runs them on the drawn world."""

import csv
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file

from cache.errors import CacheError, DamagedError, LockedError
from cache.files import write_json
from cache.lock import StoreLock
from diffps.errors import CheckpointError, ConfigError, DivergedError
from diffps.metrics.paired import paired_difference
from diffps.records import Split
from stages import sweep, train
from stages.forecasts.memory import head_bytes, split_by_memory
from stages.head.identity import CODE, SCORING, digest_of_code
from stages.job import Job, QuietJob, Runtime, StoppedError
from stages.params import Params
from stages.places import SWEEP, TRAIN
from stages.sweeps import variants
from stages.sweeps.effects import effects_content
from stages.sweeps.execute import train_round
from stages.sweeps.results import result_of, table_rows, write_result, write_table
from stages.sweeps.rounds import plan_rounds, shared_reading
from stages.sweeps.variants import LONGEST, MOST, Variant, describe_changes, read_variants
from stages.together import content
from tests.world import (
    CPU,
    FLOAT16,
    ROOT,
    Project,
    SmallSource,
    StoppingJob,
    equal,
    rename_persons,
    small_params,
    train_small,
    weights,
)

MIXED = """
base: {epochs: 1}
variants:
  full: {}
  structure: {model.dgrpn: null, model.sfan: null}
  longer: {epochs: 2, accumulate: 3}
  fewer-taps: {taps.level1: [], taps.level3: [up-level3-repeat0-vit-block0-self-k]}
  other-seed: {seed: 9, model.msfrn: null}
"""


class Sources:
    """Opens the same features for whoever asks, and notes each opening."""

    def __init__(self) -> None:
        self.opened: list[tuple[Split, SmallSource]] = []

    def __call__(self, split: Split) -> SmallSource:
        self.opened.append((split, SmallSource()))
        return self.opened[-1][1]

    def batches(self, split: Split) -> list[int]:
        return [source.given for name, source in self.opened if name == split and source.given]


@pytest.fixture
def sources(here: Path) -> Sources:
    return Sources()


def run(params: Params, sources: Sources, job: Job | None = None) -> None:
    """What is missing of a sweep, in rounds of features that are handed in."""
    variants = read_variants(params)
    for group in plan_rounds([variant for variant in variants if result_of(variant) is None]):
        train_round(group, sources, CPU, job or QuietJob(), lambda: write_table(variants, variants[0].params.train))


RUNTIME = Runtime(device="cpu", threads=1)


def sweep_params(text: str, changes: dict | None = None):
    Path("sweep.yaml").write_text(text)
    return small_params({"sweep.file": "sweep.yaml", **(changes or {})})


def variants_of(text: str, changes: dict | None = None) -> list[Variant]:
    return read_variants(sweep_params(text, changes))


def table() -> list[dict[str, str]]:
    with Path("results/sweep/table.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_head_of_a_sweep_is_the_head_trained_alone_bit_by_bit(sources: Sources) -> None:
    params = sweep_params(MIXED)
    run(params, sources)
    variants = read_variants(params)
    # One reading of the training split for all, as long as the longest head; one of the gallery.
    assert sources.batches("train") == [8]
    assert len(sources.batches("test")) == 1
    for variant in variants:
        train_small(variant.params, SmallSource())
        assert equal(weights(), weights(variant.folder)), variant.name
    rows = table()
    assert [row["variant"] for row in rows] == [variant.name for variant in variants]
    assert {row["status"] for row in rows} == {"done"}
    assert all(0 <= float(row["map"]) <= 1 for row in rows)
    assert rows[0]["map_diff"] == ""
    assert all(row["map_diff"] and row["se_over"] == "queries" for row in rows[1:])
    assert json.loads(Path("results/sweep/metrics.json").read_text()).keys() == {v.name for v in variants}
    assert "| mAP |" in (variants[0].folder / "head" / "README.md").read_text()


def test_run_again_trains_nothing_and_a_later_variant_trains_alone(sources: Sources) -> None:
    run(sweep_params("variants: {a: {epochs: 1}}"), sources)
    before = len(sources.opened)
    run(sweep_params("variants: {a: {epochs: 1}}"), sources)
    assert len(sources.opened) == before
    first = weights(read_variants(sweep_params("variants: {a: {epochs: 1}}"))[0].folder)
    both = sweep_params("variants: {a: {epochs: 1}, b: {epochs: 1, seed: 3}}")
    run(both, sources)
    a, b = read_variants(both)
    assert equal(first, weights(a.folder))
    assert not equal(first, weights(b.folder))
    assert sources.batches("train") == [4, 4]


def test_other_queries_in_the_index_are_scored_with_the_same_head(sources: Sources) -> None:
    params = sweep_params("variants: {a: {epochs: 1}}")
    run(params, sources)
    path = Path("data/index/queries.parquet")
    pq.write_table(pq.read_table(path).slice(0, 3), path)
    run(params, sources)
    assert sources.batches("train") == [4]
    assert len(sources.batches("test")) == 2
    result = result_of(read_variants(params)[0])
    assert result is not None
    assert result["scores"]["search"]["queries"] == 3


@pytest.mark.parametrize("digest", ["other", None])
def test_other_scoring_code_scores_the_same_head_again(sources: Sources, digest: str | None) -> None:
    """None: a result from before it was recorded."""
    params = sweep_params("variants: {a: {epochs: 1}}")
    run(params, sources)
    path = read_variants(params)[0].folder / "result.json"
    result = json.loads(path.read_text())
    del result["of"]["scoring"]
    result["of"] |= {} if digest is None else {"scoring": digest}
    path.write_text(json.dumps(result))
    assert result_of(read_variants(params)[0]) is None
    run(params, sources)
    assert sources.batches("train") == [4]
    assert len(sources.batches("test")) == 2
    assert result_of(read_variants(params)[0]) is not None


def test_a_result_that_says_nothing_of_its_making_is_none(sources: Sources) -> None:
    (variant,) = variants_of("variants: {a: {epochs: 1}}")
    write_json(variant.folder / "result.json", {"status": "done"})
    assert result_of(variant) is None


@pytest.mark.parametrize(
    ("changed", "trains", "scores"),
    [
        ("diffps/metrics/search.py", False, True),
        ("stages/search/evaluation.py", False, True),
        ("stages/search/inference.py", False, True),
        ("stages/search/scoring.py", False, True),
        ("diffps/heads/oim.py", True, False),
        ("diffps/training.py", True, False),
        ("diffps/figures/curves.py", False, False),
    ],
)
def test_code_that_scores_is_told_from_code_that_trains(
    tmp_path: Path, changed: str, trains: bool, scores: bool
) -> None:
    for folder in ("diffps", "stages"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    before = [digest_of_code(patterns, tmp_path) for patterns in (CODE, SCORING)]
    with (tmp_path / changed).open("a") as file:
        file.write("#")
    after = [digest_of_code(patterns, tmp_path) for patterns in (CODE, SCORING)]
    assert [old != new for old, new in zip(before, after, strict=True)] == [trains, scores]


def test_stopped_and_run_again_it_continues(sources: Sources) -> None:
    text = "variants: {a: {epochs: 1}, b: {epochs: 1, seed: 2, accumulate: 3}}"
    with pytest.raises(StoppedError):
        run(sweep_params(text), sources, StoppingJob(2))
    run(sweep_params(text), sources)
    for variant in variants_of(text):
        train_small(variant.params, SmallSource())
        assert equal(weights(), weights(variant.folder)), variant.name


def test_a_diverging_head_is_reported_and_the_others_go_on(sources: Sources) -> None:
    text = "variants: {calm: {epochs: 1}, wild: {epochs: 1, lr: 1.0e+30, clip: 1.0e+30, warmup_epochs: 0.0}}"
    run(sweep_params(text), sources)
    calm, wild = table()
    assert calm["status"] == "done"
    assert wild["status"] == "diverged"
    assert "training diverged at batch 0" in wild["error"]
    assert "c" in wild["error"]


def test_seeds_are_averaged_and_paired(sources: Sources) -> None:
    run(sweep_params("variants: {a: {epochs: 1}, b: {epochs: 1, lr: 0.01}}\ngrid: {seed: [1, 2]}"), sources)
    rows = {row["variant"]: row for row in table()}
    assert rows.keys() == {"a-seed1", "a-seed2", "b-seed1", "b-seed2"}
    maps = [float(rows[f"b-seed{seed}"]["map"]) - float(rows[f"a-seed{seed}"]["map"]) for seed in (1, 2)]
    assert rows["b-seed1"]["se_over"] == "seeds"
    assert float(rows["b-seed1"]["map_diff"]) == pytest.approx(sum(maps) / 2)
    assert float(rows["b-seed1"]["map_diff_se"]) == pytest.approx(abs(maps[0] - maps[1]) / 2)
    assert float(rows["a-seed1"]["map_mean"]) == pytest.approx(
        np.mean([float(rows[f"a-seed{seed}"]["map"]) for seed in (1, 2)])
    )
    ours = [float(rows[f"a-seed{seed}"]["map"]) for seed in (1, 2)]
    assert float(rows["a-seed1"]["map_se"]) == pytest.approx(abs(ours[0] - ours[1]) / 2)
    effects = json.loads(Path("results/sweep/effects.json").read_text())
    assert effects["source"] == "seeds"
    assert effects["degrees"] == 2
    (effect,) = effects["effects"]
    assert (effect["factor"], effect["level"]) == ("lr", "0.01")
    assert effect["change"] == pytest.approx(sum(maps) / 2)


def test_one_seed_says_what_its_errors_count_and_how_far_trainings_scatter(sources: Sources) -> None:
    text = "variants: {a: {epochs: 1}, b: {epochs: 1, lr: 0.01}}"
    run(sweep_params(text), sources)
    assert {row["map_se"] for row in table()} == {""}
    effects = json.loads(Path("results/sweep/effects.json").read_text())
    assert effects["source"] == "none"
    said = "errors over queries do not count the scatter from run to run, 4.0 points between trainings of the demo."
    assert effects["basis"].endswith(said)
    assert effects["text"].endswith(said)
    assert effects["effects"][0]["error"] is None

    a, b = variants_of(text)
    card = (a.folder / "head" / "README.md").read_text()
    assert "Not evaluated" not in card
    assert "mAP" in card
    in_the_way = SWEEP / "effects.json"
    in_the_way.unlink()
    in_the_way.mkdir()
    with pytest.raises((OSError, CacheError)):
        write_table([a, b], a.params.train)
    with pytest.raises(DamagedError, match="results/sweep/table.csv: .*`diffps sweep`"):
        content(SWEEP / "table.csv", "sweep")  # begun anew, and not finished
    in_the_way.rmdir()
    shutil.rmtree(a.folder / "head")
    shutil.copytree(b.folder / "head", a.folder / "head")
    with pytest.raises(DamagedError, match="evaluate: was made from head .*they are of two runs; `diffps sweep` makes"):
        write_table([a, b], a.params.train)


def test_a_head_of_another_initialisation_is_another_head(sources: Sources) -> None:
    text = "variants: {a: {epochs: 1, init: v1}}"
    run(sweep_params(text), sources)
    (own,), (other,) = variants_of(text), variants_of(text.replace("v1", "v2"))
    assert result_of(own) is not None
    assert result_of(other) is None
    run(sweep_params(text.replace("v1", "v2")), sources)
    train_small(other.params, SmallSource())
    assert equal(weights(), weights(other.folder))


def test_the_error_of_one_seed_is_over_queries() -> None:
    a, b = {"q": 0.5, "r": 0.1, "s": 0.3}, {"q": 0.6, "r": 0.4, "s": 0.3}
    found = paired_difference([(a, b)])
    assert found["map_diff"] == pytest.approx(0.4 / 3)
    assert found["map_diff_se"] == pytest.approx(np.std([0.1, 0.3, 0.0], ddof=1) / np.sqrt(3))
    assert found["se_over"] == "queries"


def names(rounds: Sequence[Sequence[Variant]]) -> list[list[str]]:
    return [[variant.name for variant in group] for group in rounds]


def test_rounds_share_what_must_be_equal(sources: Sources) -> None:
    text = """
variants:
  a: {}
  model: {model.sfan: null, lr: 0.01, epochs: 1, precision: bfloat16}
  batch: {batch: 4}
  order: {data_seed: 5}
  mirrored: {flip: feature}
  coded: {extract.encoding: float16}
"""
    assert names(plan_rounds(variants_of(text))) == [["a", "model"], ["batch"], ["order"], ["mirrored"], ["coded"]]


def test_taps_that_overlap_too_little_are_read_apart(sources: Sources) -> None:
    text = """
variants:
  v: {taps.level1: [], taps.level2: [], taps.level3: [up-level3-repeat0-vit-block0-self-v]}
  q: {taps.level1: [], taps.level2: [], taps.level3: [up-level3-repeat0-vit-block0-self-q]}
"""
    assert names(plan_rounds(variants_of(text))) == [["v"], ["q"]]
    assert names(plan_rounds(variants_of(text.replace("variants:", "variants:\n  all: {}")))) == [["all", "v", "q"]]
    assert names(plan_rounds(variants_of(text + "  all: {}"))) == [["v", "q", "all"]]  # by their first, as listed
    v, q = variants_of(text)
    assert shared_reading([v, q]).names == tuple(dict.fromkeys([*v.reading.names, *q.reading.names]))
    assert shared_reading([v, q]).timestep == v.reading.timestep


def test_memory_decides_how_many_share_a_round(sources: Sources) -> None:
    variants = variants_of("grid: {seed: [1, 2, 3, 4, 5]}")
    own, activations = head_bytes(variants[0])
    fits = int((3.5 * own + activations) / 0.8)
    assert [len(part) for part in split_by_memory(variants, RUNTIME, fits)] == [3, 2]
    assert [len(part) for part in split_by_memory(variants, RUNTIME, 1)] == [1] * 5


def test_sections_may_be_written_as_mappings(sources: Sources) -> None:
    text = """
base: {model: {dgrpn: null}}
variants:
  nested: {model: {sfan: null}}
  dotted: {model.sfan: null, seed: 5}
  on-again: {model: {dgrpn: {tau: 0.5}}}
  on-too: {model.dgrpn.tau: 0.25}
"""
    nested, dotted, again, too = variants_of(text)
    assert nested.params.train.model == dotted.params.train.model
    assert nested.changes == {"model.sfan": None}
    assert small_params({"train.model.dgrpn": None, "train.model.sfan": None}).train.model == nested.params.train.model
    assert [getattr(variant.params.train.model.dgrpn, "tau", None) for variant in (again, too)] == [0.5, 0.25]


def test_variants_do_not_change_what_they_share(sources: Sources) -> None:
    text = "base: {model.dgrpn: {}}\nvariants: {other: {model.dgrpn.tau: 0.5}, default: {}}"
    other, default = read_variants(sweep_params(text, {"train.model.dgrpn": None}))
    assert other.params.train.model.dgrpn != default.params.train.model.dgrpn


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "variants: {a: {modle.sfan: null}}",
            r"variant a: train\.modle\.sfan is not a parameter; nearest: train\.model",
        ),
        ("variants: {a: {lr: fast}}", r"variant a: train\.lr: .*'fast'"),
        ("variants: {a: {lr: -1.0}}", "variant a: .*lr -1.0"),
        ("variants: {a: {extract.prompt: dog}}", r"extract\.prompt cannot be varied"),
        ("variants: {a: {timestep: 7}, b: {timestep: 9}}", r"a, b read timesteps.*diffps extract --set .*\[0,7,9\]"),
        ("variants: {a: {seed: 2}, b: {seed: 2}}", "a and b are the same settings"),
        ("variants: {a/b: {}}", "a/b"),
        ("variant: {a: {}}", "variant is not known; a sweep file has base, variants, grid"),
        ("grid: {seed: 3}", r"grid\.seed: expected a list"),
        ("variants: [a]", "expected a mapping"),
        ("variants: {a: {lr: 0.1}}\ngrid: {lr: [0.2]}", r"sweep\.yaml: variant a-lr=0\.2: lr and grid\.lr contradict"),
        (
            "variants: {a: {model.dgrpn: null, model.dgrpn.tau: 0.5}}",
            r"sweep\.yaml: variant a: model\.dgrpn and model\.dgrpn\.tau contradict",
        ),
        (
            "variants: {a: {model: {sfan: null}, model.sfan: {}}}",
            r"sweep\.yaml: variant a: model\.sfan and model\.sfan contradict",
        ),
        ("base: {model.dgrpn: null, model.dgrpn.tau: 0.5}", r"sweep\.yaml: base: model\.dgrpn and"),
        ("variants: {a: {timestep: '50'}}", r"sweep\.yaml: variant a: train\.timestep: .*'50'"),
        ("variants: {a: {timestep: x}}", r"sweep\.yaml: variant a: train\.timestep: .*'x'"),
        ("variants: {a: {timestep: null}}", r"sweep\.yaml: variant a: train\.timestep: .*None"),
        ("variants: {a: {timestep: [1]}}", r"sweep\.yaml: variant a: train\.timestep: .*\[1\]"),
        ("variants: {a: {timestep: true}}", r"sweep\.yaml: variant a: train\.timestep: .*True"),
        ("variants: {a: {5: 1}}", r"sweep\.yaml: variant a: train\.5 is not a parameter"),
        ("grid: {5: [1]}", r"sweep\.yaml: variant 5=1: train\.5 is not a parameter"),
        ("grid: {seed: [2020-01-01]}", r"sweep\.yaml: variant seed2020-01-01: "),
        ("variants: {a: {lr: .inf}}", r"sweep\.yaml: variant a: lr: must be a finite number, found inf"),
        ("variants: {a: {extract.encoding: nope}}", r"sweep\.yaml: variant a: extract\.encoding: .*'nope'"),
        ("variants:\n  a: {}\n  a: {}", r'sweep\.yaml, line 3: not valid YAML: found duplicate key "a"'),
        ("a: [", r"sweep\.yaml, line 1: not valid YAML"),
    ],
)
def test_a_mistake_in_the_file_is_named(sources: Sources, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        variants_of(text)
    assert "\n" not in str(caught.value)


def test_a_head_is_called_by_its_variant_and_its_point_of_the_grid(sources: Sources) -> None:
    text = "variants: {a: {}}\ngrid: {model.sfan: [null, {}], flip: [none, feature], seed: [1, 2]}"
    found = variants_of(text)
    assert [variant.name for variant in found[:3]] == [
        "a-sfan=off-flip=none-seed1",
        "a-sfan=off-flip=none-seed2",
        "a-sfan=off-flip=feature-seed1",
    ]
    assert found[0].group == found[1].group == "a-sfan=off-flip=none"
    assert found[0].changes == {"model.sfan": None, "flip": "none", "seed": 1}
    assert found[0].folder.name.startswith("a-sfan=off-flip=none-seed1-")
    assert len(found[0].folder.name) == len("a-sfan=off-flip=none-seed1-") + 6
    assert [variant.name for variant in variants_of("base: {epochs: 1}")] == ["base"]
    assert describe_changes(found[0].changes) == "model.sfan=null, flip=none, seed=1"
    assert describe_changes({}) == "as in params"


def test_a_sweep_has_as_many_heads_as_there_may_be(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "MOST", 4)
    assert len(variants_of("variants: {a: {}, b: {lr: 0.1}}\ngrid: {seed: [1, 2]}")) == 4
    with pytest.raises(ConfigError, match=r"asks for 6 heads, more than 4"):
        variants_of("variants: {a: {}, b: {lr: 0.1}}\ngrid: {seed: [1, 2, 3]}")


def test_a_sweep_has_so_many_heads_and_names_so_long_and_no_more(sources: Sources) -> None:
    (long,) = variants_of(f"variants: {{{'n' * LONGEST}: {{}}}}")
    assert len(long.name) == LONGEST == 200
    with pytest.raises(ConfigError, match=rf"variant {'n' * 40}\.\.\.: its name is longer than 200 letters$"):
        variants_of(f"variants: {{{'n' * (LONGEST + 1)}: {{}}}}")
    seeds = ", ".join(map(str, range(MOST // 2 + 1)))
    with pytest.raises(ConfigError, match=r"asks for 1,002 heads, more than 1,000; name fewer variants or values$"):
        variants_of(f"variants: {{a: {{}}, b: {{lr: 0.1}}}}\ngrid: {{seed: [{seeds}]}}")
    with pytest.raises(ConfigError, match=r"grid\.seed: expected a list of values, found \[\]$"):
        variants_of("grid: {seed: []}")
    with pytest.raises(ConfigError, match=r"two variants are called a-seed1$"):
        variants_of("variants: {a: {}}\ngrid: {seed: [1, '1']}")


def test_the_row_of_a_head_says_how_far_it_is_and_what_it_reads(sources: Sources) -> None:
    a, b, c, d = variants_of("variants: {a: {epochs: 3}, b: {seed: 5}, c: {seed: 6}, d: {seed: 7}}")
    (a.folder / "checkpoint").mkdir(parents=True)
    (b.folder / "head").mkdir(parents=True)
    write_result(d, {"status": "diverged", "error": "at batch 0"})
    rows = table_rows([a, b, c, d])
    assert [row["status"] for row in rows] == ["training", "trained", "waiting", "diverged"]
    assert [row["error"] for row in rows] == [None, None, None, "at batch 0"]
    first = {name: value for name, value in rows[0].items() if value is not None}
    assert first == {
        "variant": "a",
        "group": "a",
        "status": "training",
        "changes": "epochs=3",
        "seed": a.params.train.seed,
        "timestep": 0,
        "encoding": "int8",
        "taps": ", ".join(a.params.train.taps.names),
        "epochs": 3,
        "folder": str(a.folder),
    }
    assert effects_content([]) == {}


def test_a_file_that_is_no_text_is_named(sources: Sources) -> None:
    params = sweep_params("")
    Path("sweep.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: not UTF-8 text at byte 0"):
        read_variants(params)


def test_a_missing_file_names_those_there_are(sources: Sources) -> None:
    Path("other.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"nothing\.yaml.*other\.yaml"):
        read_variants(small_params({"sweep.file": "nothing.yaml"}))


def test_a_folder_is_trained_into_by_one_process(small: Project) -> None:
    with StoreLock(TRAIN / "checkpoint/lock.json"), pytest.raises(LockedError, match=r"results/train.*process \d+"):
        small.run(train, extract=FLOAT16)
    with StoreLock(SWEEP / "lock.json"), pytest.raises(LockedError, match="results/sweep"):
        small.run(sweep, extract=FLOAT16)


def test_the_command_trains_what_is_missing_and_nothing_twice(small: Project) -> None:
    sections: dict[str, Any] = {"extract": FLOAT16, "evaluate": {"baseline": False}, "sweep": {"file": "own.yaml"}}
    Path("own.yaml").write_text("variants: {a: {}, wild: {lr: 1.0e+30, clip: 1.0e+30, warmup_epochs: 0.0}}")
    said = small.run(sweep, **sections)
    assert [row["status"] for row in table()] == ["done", "diverged"]
    assert said[0] == "own.yaml: 2 variants, 2 to train in 1 round"
    assert [line.partition("-")[0] for line in said[1:3]] == ["results/sweep/heads/a", "results/sweep/heads/wild"]
    assert [line.rpartition(": ")[2] for line in said[1:3]] == ["training starts"] * 2
    assert "diverged at batch 0 of epoch 0" in said[3]
    assert said[4] == "results/sweep/table.csv: 2 variants, 1 diverged"
    assert [line.split()[0] for line in said[5:7]] == ["variant", "a"]
    before = small.files("results/sweep/heads")
    assert small.run(sweep, **sections) == ["own.yaml: 2 variants, 0 to train in 0 rounds", *said[4:]]
    assert small.files("results/sweep/heads") == before
    Path("own.yaml").write_text("variants: {a: {}, b: {seed: 3}}")
    small.run(sweep, **sections)
    after = small.files("results/sweep/heads")
    assert {name: after[name] for name in before} == before
    assert [row["status"] for row in table()] == ["done", "done"]
    (a, _) = read_variants(small.params(**sections))
    started, written = small.run(train, **sections)
    assert started == "results/train: training starts"
    assert re.fullmatch(r"results/train/head: written; mean loss of the last epoch \d+\.\d{4}", written)
    assert small.run(train, **sections) == ["results/train: finished (4 of 4 batches done)", written]
    assert equal(weights(), weights(a.folder))


def test_the_command_fails_where_no_head_is_left(small: Project) -> None:
    Path("own.yaml").write_text("variants: {wild: {lr: 1.0e+30, clip: 1.0e+30, warmup_epochs: 0.0}}")
    with pytest.raises(DivergedError, match=r"own\.yaml: every variant diverged"):
        small.run(sweep, extract=FLOAT16, sweep={"file": "own.yaml"})
    assert [row["status"] for row in table()] == ["diverged"]


def test_what_is_not_stored_is_named_before_anything_is_trained(small: Project) -> None:
    Path("own.yaml").write_text("variants: {stored: {}, lacking: {extract.encoding: int8}}")
    with pytest.raises(ConfigError, match=r"variants lacking \(timestep 0, encoding int8\): .*diffps extract"):
        small.run(sweep, extract=FLOAT16, sweep={"file": "own.yaml"})
    assert not (SWEEP / "heads").exists()


def test_where_the_second_alone_has_nobody_to_search_for_nothing_is_trained(sources: Sources) -> None:
    rename_persons(range(8))  # each is seen once
    text = "base: {epochs: 1, holdout: 0.3}\nvariants: {last: {}, best: {checkpoint: best}}"
    with pytest.raises(ConfigError, match=r"train\.holdout: none of the .* two scenes"):
        run(sweep_params(text), sources)
    assert sources.batches("train") == []
    assert not any((variant.folder / "head").exists() for variant in variants_of(text))


def test_first_weights_that_cannot_be_had_are_named_before_anything_is_trained(small: Project) -> None:
    Path("own.yaml").write_text("variants: {a: {}, b: {batch: 3, model.head_weights: nothing.pth}}")
    with pytest.raises(CheckpointError, match=r"head_weights nothing\.pth: no such file"):
        small.run(sweep, extract=FLOAT16, sweep={"file": "own.yaml"})
    assert not (SWEEP / "heads").exists()


def test_every_preset_is_valid(sources: Sources) -> None:
    root = ROOT / "presets" / "sweeps"
    shutil.copytree(ROOT / "presets", "presets")  # variants may name params files
    allowing = {
        "extract.timesteps": [0, 50, 100, 200, 300, 500, 800],
        "extract.prompt": "person head shirts pants shoes",
        "extract.words": ["person", "head", "shirts", "pants", "shoes"],
    }
    found = {
        path.stem: read_variants(small_params({"sweep.file": str(path), **allowing})) for path in root.glob("*.yaml")
    }
    rounds = {name: len(plan_rounds(variants)) for name, variants in found.items()}
    assert rounds == {
        "demo": 3, "modules": 1, "timesteps": 7, "taps": 1, "words": 1, "encodings": 5, "flip": 3, "seeds": 1,
        "priors": 7, "temperature": 1,
    }  # fmt: skip


def test_the_module_sweep_crosses_all_switches_with_three_seeds(sources: Sources) -> None:
    path = Path(__file__).parents[2] / "presets" / "sweeps" / "modules.yaml"
    modules = [v for v in read_variants(small_params({"sweep.file": str(path)})) if v.group != "shared"]
    switches = [(v.params.train.model, v.params.train.seed) for v in modules]
    points = {(m.dgrpn is None, m.msfrn is None, m.sfan is None, seed) for m, seed in switches}
    assert len(points) == len(modules) == 8 * 3


@pytest.mark.parametrize("name", ["modules", "taps", "timesteps", "words", "encodings", "temperature"])
def test_comparisons_have_three_seeds_of_every_variant(name: str) -> None:
    content = YAML(typ="safe", pure=True).load(ROOT / "presets" / "sweeps" / f"{name}.yaml")
    assert content["grid"]["seed"] == [1, 2, 3]
    assert not any("seed" in changes for changes in content.get("variants", {}).values())


def test_final_weights_are_those_on_disk(sources: Sources) -> None:
    run(sweep_params("variants: {a: {epochs: 1}}"), sources)
    folder = variants_of("variants: {a: {epochs: 1}}")[0].folder
    state = load_file(folder / "checkpoint" / "state.safetensors")
    assert all(torch.equal(tensor, state[f"model.{name}"]) for name, tensor in weights(folder).items())
