"""What a run left is what is read: no byte of it changes, and no files of two runs are mixed, without being told."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.errors import CacheError, DamagedError
from cache.files import write_bytes
from diffps.errors import ConfigError
from stages import evaluate, extract, probe, report, sweep, train, verify
from stages.features.opening import open_store
from stages.head.calibrated import keep_calibrations
from stages.job import QuietJob
from stages.places import EVALUATE, FIGURES, SWEEP, TRAIN
from stages.together import add
from tests.world import FLOAT16, STORE, Listener, Project

HEAD = TRAIN / "head"
# Read by people and by DVC alone; a digest stands beside each all the same, but these have none.
UNSEALED = {"log.jsonl", "lock.json"}
PROBE_FILE = """
scenes: 8
timesteps: [0]
taps: [down-level1-repeat0-vit-out]
budgets: [0.1]
control: null
width: 8
boxes: 4
folds: 2
resamples: 100
"""


@pytest.fixture
def project(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project.copy_of(whole, tmp_path / "project", monkeypatch)
    made.change(extract=FLOAT16, sweep={"file": "one.yaml"})
    return made


def left_behind() -> list[Path]:
    """Files outside the store, the dataset and what is no result."""
    found = [path for top in ("data", "results") for path in Path(top).rglob("*") if path.is_file()]
    apart = (STORE, Path("data/streets"))
    found = [path for path in found if path.name not in UNSEALED and path.stat().st_size]  # locks are empty
    return sorted(path for path in found if not any(map(path.is_relative_to, apart)))


def flip(path: Path, bits: random.Random) -> bytes:
    """Flip one bit; gives the content before."""
    whole = path.read_bytes()
    place = bits.randrange(len(whole))
    path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bits.randrange(8))]) + whole[place + 1 :])
    return whole


def flips(times: int) -> tuple[int, list[str]]:
    """(named, files whose change nobody told of) of flips evenly over all that a run leaves."""
    bits, named, passed = random.Random(0), 0, []
    paths = left_behind()
    checks = [*verify.results(HEAD), *verify.manifests(open_store(str(STORE)).check)]
    for number in range(times):
        path = paths[number % len(paths)]
        before, told = flip(path, bits), list[str]()
        changed = path.read_bytes()
        for place, check in checks:
            if not path.is_relative_to(place):  # only to save time
                continue
            try:
                check()
            except CacheError as error:
                told.append(str(error))
        path.write_bytes(before)
        if any(str(path) in line and "\n" not in line for line in told):
            named += 1
        elif not told and path.suffix == ".json" and b"".join(changed.split()) == b"".join(before.split()):
            named += 1  # white space of a manifest says nothing
        else:
            passed.append(f"{path}: {told}")
    return named, passed


def test_two_hundred_flips_are_named(project: Project) -> None:
    names = {path.name for path in left_behind()}
    assert {"words.safetensors", "report.json", "detections.parquet", "embeddings.npy", "state.safetensors"} <= names
    assert {"index.html", "table.csv", "result.json", "known-files.parquet", "base.json", "store.json"} <= names
    named, passed = flips(200)
    assert passed == []
    assert named == 200


@pytest.mark.slow
def test_a_thousand_flips_are_named(project: Project) -> None:
    """In what a run leaves, and a probe, figures and a calibration beside it."""
    Path("probe.yaml").write_text(PROBE_FILE)
    project.run(probe, probe={"file": "probe.yaml"})
    write_bytes(FIGURES / "ranking.png", Path("results/report/index.html").read_bytes()[:2000])
    add(FIGURES, ["ranking.png"], "figure")
    keep_calibrations(HEAD, [], {"people": "test"})
    names = {path.name for path in left_behind()}
    assert {"fit-00000.npz", "sums.npz", "summary.txt", "head-calibration.json", "ranking.png"} <= names
    named, passed = flips(1000)
    assert passed == []
    assert named == 1000


READERS = {
    "data/index/images.parquet": (extract, train, evaluate, report),
    "data/index/report.json": (extract,),
    "data/encode/words.safetensors": (train,),
    "results/train/checkpoint/state.safetensors": (train,),
    "results/train/head/model.safetensors": (evaluate, report),
    "results/train/head/README.md": (evaluate,),
    "results/train/losses.csv": (report,),
    "results/evaluate/metrics.json": (report,),
    "results/evaluate/per_query.parquet": (report,),
    "results/sweep/table.parquet": (report,),
}


@pytest.mark.parametrize("name", READERS)
def test_whoever_reads_a_changed_file_names_it(project: Project, name: str) -> None:
    flip(Path(name), random.Random(1))
    for stage in READERS[name]:
        with pytest.raises(CacheError, match=name):
            project.run(stage)


def test_verify_looks_at_everything_and_writes_nothing(project: Project) -> None:
    before, heard = project.files("."), Listener()
    verify.run(HEAD, project.runtime, heard)
    assert "verify: " in heard.lines[-1]
    assert not any("no digests" in line for line in heard.lines)
    assert project.files(".") == before
    flip(Path("results/evaluate/coco.json"), random.Random(2))
    with pytest.raises(DamagedError, match="1 files are not what was written"):
        verify.run(HEAD, project.runtime, heard)
    assert "results/evaluate/coco.json: does not match its digest" in heard.lines[-1]


def other_run(project: Project, tmp_path: Path) -> Path:
    """Results of the same project with another seed."""
    kept = tmp_path / "other"
    shutil.copytree("results", tmp_path / "mine")
    project.run(train, evaluate, train={"seed": 7}, evaluate={"gt_boxes": True})
    shutil.copytree("results", kept)
    shutil.rmtree("results")
    shutil.copytree(tmp_path / "mine", "results")
    return kept


def test_files_of_two_runs_are_refused_and_both_are_named(project: Project, tmp_path: Path) -> None:
    other = other_run(project, tmp_path)
    mixtures: list[tuple[str, Callable[[], object]]] = [
        (
            r"per_query.parquet: does not match .* \(it is \w{10}, listed is \w{10}\), so it is of another run",
            lambda: shutil.copy(other / "evaluate/per_query.parquet", EVALUATE),
        ),
        (
            r"results/evaluate: was made from head \w{10}, but results/train/head is head \w{10}: they are of two runs",
            lambda: (shutil.rmtree(HEAD), shutil.copytree(other / "train/head", HEAD)),
        ),
        (
            r"results/train: was made from head \w{10}, but results/train/head is head \w{10}",
            lambda: (shutil.rmtree(HEAD), shutil.copytree(other / "train/head", HEAD), shutil.rmtree(EVALUATE)),
        ),
    ]
    for message, mix in mixtures:
        mix()
        with pytest.raises(DamagedError, match=message):
            project.run(report)
        for name in ("train", "evaluate"):
            shutil.rmtree(f"results/{name}", ignore_errors=True)
            shutil.copytree(tmp_path / "mine" / name, f"results/{name}")
    project.run(report)


def test_words_that_encode_did_not_embed_are_refused(project: Project) -> None:
    with pytest.raises(ConfigError, match=r"words.safetensors: is of the words .*'head'.* are \['a', 'b'\]"):
        project.run(train, encode={"words": ["a", "b"]})


def test_an_evaluation_that_was_killed_half_way_is_not_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from stages.search import evaluation

    def killed(*_: object) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(evaluation, "finish", killed)
    with pytest.raises(RuntimeError, match="killed"):
        project.run(evaluate)
    monkeypatch.undo()
    monkeypatch.chdir(project.folder)
    with pytest.raises(DamagedError, match=r"results/evaluate/\S+: is not in digests\.json.*`diffps evaluate` makes"):
        project.run(report)
    project.run(evaluate, report)


def test_a_sweep_refuses_scores_of_another_head(project: Project) -> None:
    project.run(train, train={"seed": 7})
    (folder,) = SWEEP.glob("heads/*")
    shutil.rmtree(folder / "head")
    shutil.copytree(HEAD, folder / "head")
    Path("one.yaml").write_text("variants: {one: {}, two: {lr: 0.0002}}")
    with pytest.raises(DamagedError, match=r"evaluate: was made from head \w{10}, but .*/head is head \w{10}"):
        project.run(sweep)


def test_nothing_to_do_takes_no_lock_and_writes_nothing(project: Project) -> None:
    """Extract, train, evaluate, sweep and report over a store that can only be read."""
    before = project.files("data/features")
    stamps = {path: path.stat().st_mtime_ns for path in STORE.rglob("*")}
    project.run(extract, train, evaluate, sweep, report, job=QuietJob())
    assert project.files("data/features") == before
    assert {path: path.stat().st_mtime_ns for path in STORE.rglob("*")} == stamps
