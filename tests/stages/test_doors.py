"""What doors say and hand on, where no model is needed to see it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cache.errors import RecipeError
from diffps.errors import ConfigError
from diffps.pretraining.config import PretrainConfig
from stages import cluster as clusters
from stages import doctor, find, index, pretrain, report, verify
from stages.cluster import for_workers, own_device
from stages.config_data import ExtractConfig
from stages.features.cached import check_made_under
from stages.features.known_weights import are_known, keep_known, local_files
from stages.features.source import skipped_scenes
from stages.job import QuietJob, Runtime
from stages.places import EVALUATE, INDEX, KNOWN_WEIGHTS, TRAIN
from tests.world import Listener, small_params

CPU = Runtime(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: ((number + 1) * 10**9, 80 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"card {number}")


def test_a_worker_takes_its_own_gpu_where_it_is_left_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    assert [own_device("auto", worker) for worker in (0, 1, 2, 3)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert own_device("auto", "tcp://elsewhere") == "auto"
    assert own_device("cpu", 1) == "cpu"
    assert own_device("cuda", 1) == "cuda"
    gpus(monkeypatch, 0)
    assert own_device("auto", 1) == "auto"


def test_workers_are_told_threads_and_the_store_of_the_checkout(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = for_workers(Runtime(scheduler="local:2", threads=3, store="data/x", batch=2))
    assert told == Runtime(scheduler="", threads=3, store=str(folder / "data/x"), batch=2)
    assert for_workers(Runtime()).threads == torch.get_num_threads()
    monkeypatch.setenv("DVC_ROOT", "/checkout")
    assert for_workers(Runtime()).store == "/checkout/data/features"


def test_a_scheduler_has_ten_seconds_to_answer() -> None:
    assert clusters.CONNECT_SECONDS == 10
    with clusters.cluster(Runtime()) as client:
        assert client is None


def test_the_doctor_names_every_gpu_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    params = small_params({"encode.dtype": "bfloat16"})
    lines = list(doctor._devices(params.encode, params.extract, CPU))
    assert lines[1:3] == ["  cuda:0: card 0, 1 of 80 GB free", "  cuda:1: card 1, 2 of 80 GB free"]
    assert lines[3:] == ["PROBLEM: encode.dtype bfloat16 is slow on a CPU; set encode.dtype=float32"]
    assert doctor.PROBE_BYTES == 64 * 2**20


def test_a_dry_run_of_pretraining_says_what_it_takes() -> None:
    config = PretrainConfig(scenes=1_500_000, vae_steps=7, steps=9, settle=1)
    assert pretrain.dry_run(config, CPU, QuietJob()) == (
        "pretrain: would draw 1500000 scenes (27000 MB of latents and masks in models/streets-work), train the VAE for "
        "7 and the UNet for 9 steps into models/streets: about an hour on two cores"
    )


@pytest.mark.parametrize("there", [True, False])
def test_a_backbone_that_is_there_is_measured_and_not_trained(monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    from stages.pretraining import measure, phases

    config, did, job = PretrainConfig(), list[Any](), Listener()
    monkeypatch.setattr(phases, "finished", lambda asked: asked is config and there)
    monkeypatch.setattr(phases, "train", lambda *arguments: did.append(arguments))
    monkeypatch.setattr(measure, "write_report", lambda *arguments: did.append(arguments))
    pretrain.run(config, CPU, job)
    measured = (config, phases.FOLDER, phases.WORK / "untrained", Path("results/pretrain"), job)
    assert did == ([] if there else [(config, job, torch.device("cpu"))]) + [measured]
    assert job.lines == (["models/streets is trained by this recipe"] if there else [])
    if there:
        assert pretrain.dry_run(config, CPU, job) == "pretrain: models/streets is there; would measure it"


def test_a_dry_run_of_the_report_says_what_is_there() -> None:
    (TRAIN / "metrics.json").parent.mkdir(parents=True)
    (TRAIN / "metrics.json").touch()
    said = report.dry_run(small_params({"report.queries": 5, "report.scenes": 4}), CPU, QuietJob())
    assert said == (
        f"report: 5 rankings and 4 scenes from {EVALUATE}/metrics.json (not yet), {TRAIN}/metrics.json (there), "
        f"{TRAIN}/losses.csv (not yet), results/sweep/table.parquet (not yet) -> results/report/index.html"
    )


def test_a_dry_run_of_the_index_says_where_its_images_come_from() -> None:
    def said(**changes: str) -> str:
        changed = small_params({f"index.{key}": value for key, value in changes.items()})
        return index.dry_run(changed, CPU, QuietJob())

    ends = f" -> {INDEX}/*.parquet, report.json"
    assert said(root="drawn") == f"index: streets at drawn (will be drawn){ends}"
    assert said(root="own", dataset="coco") == f"index: coco at own (is MISSING){ends}"
    Path("drawn").mkdir()
    assert said(root="drawn") == f"index: streets at drawn (is there){ends}"
    assert said(root="drawn", dataset="coco") == f"index: coco at drawn (is there){ends}"


def test_a_store_without_anything_is_what_was_written() -> None:
    job = Listener()
    head = Path("own/head")
    verify.run(head, CPU, job)
    assert job.lines == ["verify: 0 results and 0 B of the store are what was written"]
    for path in (TRAIN, TRAIN / "head", head):
        path.mkdir(parents=True)
    verify.run(head, CPU, job)
    unsealed = [f"{path}: has no digests, so nothing is known of it" for path in (TRAIN, head, TRAIN / "head")]
    assert job.lines[1:] == [*unsealed, "verify: 3 results and 0 B of the store are what was written"]


def test_a_search_is_asked_for_with_what_it_has_no_word_for() -> None:
    asked = find.SearchRequest(query=None, folder=None)
    assert (asked.box, asked.person, asked.also, asked.head) == (None, None, (), "results/train/head")
    assert (asked.revision, asked.checkpoint, asked.format) == (None, None, None)
    assert (asked.top, asked.promise, asked.keep_features, asked.anyway) == (20, 0.01, False, False)
    with pytest.raises(ConfigError, match="search: name the picture that shows the person, or --serve a page"):
        find.run(asked, CPU, QuietJob())
    keeping = find.SearchRequest(query=Path("a.jpg"), folder=None, keep_features=True)
    with pytest.raises(ConfigError, match="--keep-features: the test split's are in the store already; name a folder"):
        find.run(keeping, CPU, QuietJob())


def test_scenes_left_out_are_counted_and_the_first_named() -> None:
    job = Listener()
    source: Any = SimpleNamespace(skipped=lambda: frozenset({"b", "a", "c"}))
    assert skipped_scenes(source, job) == {"a", "b", "c"}
    assert job.lines == ["3 unreadable scenes are left out, as extraction skips them: a, ..."]
    assert skipped_scenes(SimpleNamespace(skipped=frozenset), job) == frozenset()  # type: ignore[arg-type]
    assert len(job.lines) == 1


def spec_of(**changes: Any) -> Any:
    start = {"canvas": [128, 128], "dtype": "float32"} | changes.pop("start", {})
    own = {"prompt": "person", "latent_rule": "mean", "dtype": "float32", "seed": 0} | changes
    return SimpleNamespace(recipe={"pass": {"latent": start, **own}})


def test_an_array_made_under_other_parameters_is_refused_by_the_first_that_differs() -> None:
    params, manifest = small_params({"encode.canvas": [128, 128], "extract.latent": "mean"}), Path("m.json")
    extract: ExtractConfig = params.extract
    assert extract.prompt == "person"
    check_made_under(params.encode, extract, spec_of(), manifest)
    for change, said in (
        ({"prompt": "dog"}, 'prompt: "person" != "dog"'),
        ({"seed": 1}, "seed: 0 != 1"),
        ({"start": {"dtype": "float16"}}, r'encode.dtype: "float32" != "float16"'),
        ({"start": {"canvas": [128, 64]}}, "encode.canvas"),
    ):
        with pytest.raises(RecipeError, match=f"^m.json: made under other params .*{said}.*; run `diffps extract`"):
            check_made_under(params.encode, extract, spec_of(**change), manifest)


def test_weight_files_are_known_by_size_time_and_place(folder: Path) -> None:
    (folder / "model/unet").mkdir(parents=True)
    (folder / "model/unet/a").write_bytes(b"123")
    (folder / "one").write_bytes(b"12345")
    found = local_files(["model", None, "", "hub/id", "clip:ViT@one", "timm:vit@model", "timm:vit"])
    told = [
        [str(path), size, path.stat().st_mtime_ns, path.stat().st_ino]
        for path, size in ((folder / "model/unet/a", 3), (folder / "one", 5), (folder / "model/unet/a", 3))
    ]
    assert found == told
    assert not are_known("p", found)
    keep_known("p", found)
    assert are_known("p", found)
    assert not are_known("p", found[:1])
    assert not are_known("q", found)
    keep_known("q", [])
    assert [path.name for path in KNOWN_WEIGHTS.iterdir()] == ["p.json"]
