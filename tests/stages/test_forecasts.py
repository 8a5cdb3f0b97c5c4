"""What is said before anything runs: what would fit, what sweep and training take, counted anew from their parts."""

import re
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cache import FeatureStore, GroupKey
from cache.budget import DiskRates
from diffps.errors import DatasetError
from diffps.heads.costs import costs
from pipeline.config import load_params
from stages.features.words import read_words
from stages.forecasts import memory, speed
from stages.forecasts.memory import free_memory, head_bytes, split_by_memory
from stages.forecasts.size import feature_bytes, feature_shapes, image_counts, sizes_of
from stages.forecasts.store import StorePlan, plan_store, what_fits
from stages.forecasts.sweep import Measured, _Round
from stages.forecasts.training import forecast_training
from stages.head.data import training_set
from stages.head.model import new_model
from stages.job import Runtime
from stages.params import Params
from stages.places import INDEX
from stages.sweeps.rounds import plan_rounds
from stages.sweeps.variants import read_variants
from stages.text import duration, size
from tests.architecture.repository import ROOT
from tests.cache.builders import feature, images, spec
from tests.world import small_params

CPU = Runtime(device="cpu", threads=1)
NO_FLIPS = ["encode.views=[identity]", "train.flip=feature"]
SMALLER = {"encoding int8": ["extract.encoding=int8"], "no flips (train.flip feature)": NO_FLIPS}
SMALLER |= {"encoding int8, no flips": ["extract.encoding=int8", *NO_FLIPS]}
SMALLER |= {
    "encoding project:64": ["extract.encoding=project:64"],
    "encoding project:64, no flips": ["extract.encoding=project:64", *NO_FLIPS],
}
SHARD = 100


def of_files(*changes: str) -> Params:
    wide = ["encode.canvas=[640,1280]", "extract.encoding=float16", "extract.transcode=[]", "encode.checkpoint=none"]
    return load_params(ROOT / "params.yaml", [*wide, *changes])[0]


def stored(*changes: str) -> int:
    return plan_store(of_files(*changes), SHARD, 10**15, None, DiskRates(1.0, 1.0)).budget.nbytes


def test_what_fits_is_every_change_that_makes_it_smaller_with_its_bytes() -> None:
    """0.8, 0.6 and 0.4 of 640 x 1280, in multiples of 64."""
    canvases = {"canvas 512 x 1024": "[512,1024]", "canvas 384 x 768": "[384,768]", "canvas 256 x 512": "[256,512]"}
    expected = {label: stored(*changes) for label, changes in SMALLER.items()}
    expected |= {label: stored(f"encode.canvas={canvas}") for label, canvas in canvases.items()}
    assert what_fits(of_files(), SHARD, 10**15) == list(expected.items())
    least = expected["encoding project:64"]
    fitting = [(label, nbytes) for label, nbytes in expected.items() if nbytes <= least]
    assert what_fits(of_files(), SHARD, least) == fitting
    assert fitting[0][1] == least
    assert what_fits(of_files(), SHARD, min(expected.values()) - 1) == []


def test_taps_and_timesteps_that_training_does_not_read_can_go() -> None:
    more = [*of_files().extract.taps, "mid-vit-out"]
    several = of_files("extract.timesteps=[0,50]", f"extract.taps=[{','.join(more)}]")
    found = dict(what_fits(several, SHARD, 10**15))
    assert found["only the taps train reads"] == stored("extract.timesteps=[0,50]")
    assert found["only train.timestep"] == stored(f"extract.taps=[{','.join(more)}]")


def test_images_are_those_drawn_published_or_indexed(here: Path) -> None:
    streets = of_files("index.streets.train_scenes=7", "index.streets.test_scenes=5").index
    assert image_counts(streets) == {"train": 7, "test": 5}
    assert image_counts(of_files("index.dataset=prw").index) == {"train": 5704, "test": 6112}
    assert image_counts(of_files("index.dataset=cuhk-sysu").index) == {"train": 11206, "test": 6978}
    (INDEX / "report.json").write_text('{"dataset": "prw"}')
    assert image_counts(of_files("index.dataset=prw").index) == {"train": 8, "test": 6}
    assert image_counts(of_files("index.dataset=cuhk-sysu").index)["test"] == 6978
    with pytest.raises(DatasetError, match="index.dataset coco: its size is known once `diffps index` has run"):
        image_counts(of_files("index.dataset=coco").index)


def test_a_batch_that_does_not_fit_is_halved_until_it_does() -> None:
    ran: list[int] = []

    def run(batch: int) -> None:
        if batch > least:
            raise torch.OutOfMemoryError
        ran.append(batch)

    for least, given, rounds in ((3, 8, 2), (8, 8, 1), (1, 2, 4)):
        ran.clear()
        began = time.perf_counter()
        each = speed._seconds_each(run, given)
        assert 0 <= each <= (time.perf_counter() - began) / max(rounds, 1)
        fits = given if given <= least else max(half for half in (4, 2, 1) if half <= least)
        assert ran == [fits] * (1 + rounds)
    least = 0
    with pytest.raises(torch.OutOfMemoryError):
        speed._seconds_each(run, 4)


def test_a_round_of_a_sweep_is_read_once_and_computed_head_by_head(here: Path) -> None:
    text = "variants:\n  one: {}\n  longer: {epochs: 3, model.sfan: null}\n  other: {seed: 4}\n"
    Path("sweep.yaml").write_text(text)
    (group,) = plan_rounds(read_variants(small_params({"sweep.file": "sweep.yaml"})))
    one, longer, _ = group
    measured: Measured = {
        repr((train.model, train.taps, train.precision, train.batch)): (nbytes, seconds)
        for train, nbytes, seconds in ((one.params.train, 100, 0.25), (longer.params.train, 7, 2.0))
    }
    found = _Round(group, CPU, measured)
    train, encode = one.params.train, one.params.encode
    batches = training_set(train, encode.frame, INDEX).order.batches_per_epoch
    epochs = train.epochs
    assert found.seconds == 2 * epochs * batches * 0.25 + 3 * batches * 2.0
    assert found.disk == 100 + 7 + 100
    own = sum(feature_bytes(one.reading, encode, sizes_of(encode, one.params.extract)).values())
    assert found.image == own
    assert found.read == own * max(epochs, 3) * batches * train.batch
    assert found.alone == own * (2 * epochs + 3) * batches * train.batch
    assert len(measured) == 2


def test_what_a_training_takes_is_the_sum_of_its_parts(here: Path) -> None:
    params = small_params()
    train, encode, extract = params.train, params.encode, params.extract
    lines = forecast_training(train, encode, extract, CPU).splitlines()
    Path("sweep.yaml").write_text("variants: {one: {}}")
    (one,) = read_variants(small_params({"sweep.file": "sweep.yaml"}))
    own, activations = head_bytes(one)
    sizes = sizes_of(encode, extract)
    data = training_set(train, encode.frame, INDEX)
    shapes = feature_shapes(one.reading, encode, sizes)
    features = 4 * train.batch * sum(h * w * c for h, w, c in shapes.values())
    steps = train.epochs * data.order.batches_per_epoch
    image = sum(feature_bytes(one.reading, encode, sizes).values())
    assert lines[0] == f"train: 8 scenes (0 more held out), {data.identities} identities"
    memory = f"{size(own)} model and optimiser, {size(activations - features)} activations, {size(features)} features"
    assert f"  memory: {memory} of a batch of {train.batch}" in lines
    assert re.fullmatch(rf"  time: {steps} steps of \S+ s: .* \(measured on cpu\)", lines[-3])
    reads = (
        f"  reads {size(image)} an image, {size(image * train.batch)} a step, {size(steps * train.batch * image)} in"
    )
    assert lines[-2].startswith(reads)
    assert lines[-1] == f"  writes results/train: checkpoint {size(own * 0.75)}, head {size(own * 0.25)}"
    parts = costs(new_model(train, encode.frame, shapes, read_words(encode.words), data.identities), train.batch)
    for part, line in zip(parts, lines[2:], strict=False):
        name, parameters, flops, megabytes = line.split()[0], *line.split()[-3:]
        assert part[0].startswith(name)
        assert int(parameters.replace(",", "")) == part.parameters
        assert float(flops) == pytest.approx(part.forward_flops / train.batch / 1e9, abs=6e-4)
        assert float(megabytes) == pytest.approx(part.activation_bytes / train.batch / 1e6, abs=6e-2)
    assert own == 16 * sum(part.parameters for part in parts)


def test_a_round_is_cut_where_it_no_longer_fits_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def variant(model: str, number: int) -> Any:
        return SimpleNamespace(params=SimpleNamespace(train=SimpleNamespace(model=model, taps="taps")), number=number)

    sizes, asked = {"small": (8, 10), "large": (20, 40)}, list[int]()

    def head_bytes(variant: Any) -> tuple[int, int]:
        asked.append(variant.number)
        return sizes[variant.params.train.model]

    monkeypatch.setattr(memory, "head_bytes", head_bytes)

    def parts(models: str, held: int) -> list[list[int]]:
        """Of a round of small and large heads where so many bytes may be held."""
        variants = [variant({"s": "small", "l": "large"}[model], number) for number, model in enumerate(models)]
        free = next(free for free in range(held, 3 * held) if 0.8 * free >= held)
        return [[each.number for each in part] for part in split_by_memory(variants, CPU, free)]

    assert parts("ssss", 26) == [[0, 1], [2, 3]]  # weights of two, activations of one
    assert parts("ssss", 24) == [[0], [1], [2], [3]]
    assert asked == [0, 0]  # heads of one structure are counted once
    assert parts("sss", 34) == [[0, 1, 2]]
    assert parts("lss", 76) == [[0, 1, 2]]  # 20 + 8 + 8 and the largest activations, 40
    assert parts("ssl", 74) == [[0, 1], [2]]
    assert parts("lsss", 66) == [[0], [1, 2, 3]]
    assert parts("", 10) == []


def test_free_memory_is_what_linux_calls_available(monkeypatch: pytest.MonkeyPatch) -> None:
    class Meminfo(type(Path())):  # type: ignore[misc]
        def is_file(self) -> bool:
            return bool(lines)

        def read_text(self, *_: object, **__: object) -> str:
            return "\n".join(lines)

    monkeypatch.setattr(memory, "Path", Meminfo)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 1000}.__getitem__)
    lines = ["MemTotal:  9 kB", "MemAvailable:   5 kB"]
    assert free_memory(torch.device("cpu")) == 5 * 1024
    for lines in ([], ["MemTotal:  9 kB"]):  # noqa: B007 - which Meminfo reads
        assert free_memory(torch.device("cpu")) == 4096 * 500
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    assert free_memory(torch.device("cuda")) == 7


def test_receipts_tell_the_seconds_of_an_image_and_of_a_pass(tmp_path: Path) -> None:
    def write(name: str, timestep: int | None, view: str, count: int, seconds: float) -> None:
        store = FeatureStore(tmp_path / name)
        array = spec("float32", shape=(2, 2, 1), key=GroupKey("train", view, "p", timestep))  # type: ignore[arg-type]
        with store.writer([array], images(count), shard=8) as writer:
            for task in writer.pending():
                with writer.shard(task) as sink:
                    for digest in task.digests:
                        sink.append({array.name: feature(digest, array)})
                    sink.info = {"seconds": seconds}

    assert speed.recorded_speed(tmp_path / "none") is None
    write("untold", 0, "identity", 4, 0.0)
    assert speed.recorded_speed(tmp_path / "untold") is None
    write("images", 0, "identity", 4, 6.0)
    assert speed.recorded_speed(tmp_path / "images") == speed.Speed(0.0, 1.5)
    write("moments", None, "identity", 4, 2.0)
    assert speed.recorded_speed(tmp_path / "moments") is None
    for timestep, seconds in ((None, 2.0), (0, 6.0), (50, 2.0)):
        write("both", timestep, "identity", 4, seconds)
    assert speed.recorded_speed(tmp_path / "both") == speed.Speed(0.5, 1.0)
    write("both", 0, "hflip", 4, 0.0)  # of which nothing is known
    assert speed.recorded_speed(tmp_path / "both") == speed.Speed(0.5, 1.0)


def test_a_plan_lists_its_groups_and_says_whether_they_fit() -> None:
    def lines(plan: StorePlan) -> list[str]:
        return list(plan.lines())

    plan = plan_store(of_files("index.dataset=prw"), SHARD, 10**15, None, DiskRates(2e6, 1e6))
    views, nbytes = {"train": ("identity", "hflip"), "test": ("identity",)}, plan.budget.nbytes
    groups = [(array.spec.group.path, array.images) for array in plan.budget.arrays]
    told = [line.split() for line in lines(plan)[: len(dict(groups))]]
    assert [(words[0], int(words[1])) for words in told] == list(dict(groups).items())
    for words in told:
        own = sum(array.nbytes(SHARD) for array in plan.budget.arrays if array.spec.group.path == words[0])
        assert " ".join(words[3:]) == f"{size(own)} {size(own / int(words[1]))} an image"
    passes = 2 * 5704 + 6112
    assert sum(len(each) for each in views.values()) * 2 == len(told)
    all_line, free, reads, disk, hours = lines(plan)[len(told) :]
    assert all_line.split()[:2] == ["all", str(passes)]
    assert all_line.endswith(f"{size(nbytes):>10}  {plan.budget.files} files")
    assert free == "free: 1e+03 TB (fits)"
    assert reads == f"training reads {size(plan.image_bytes)} of an image"
    rates = f"writes {size(plan.disk.write)}/s, reads {size(plan.disk.read)}/s"
    assert disk == f"disk: {rates}; all of it in {duration(nbytes / plan.disk.read)}"
    assert hours.startswith("hours: no rate known")
    assert f"free: {size(nbytes)} (fits)" in lines(replace(plan, free=nbytes))
    assert f"free: {size(nbytes - 1)} (DOES NOT FIT)" in lines(replace(plan, free=nbytes - 1))
    alone = lines(replace(plan, speed=speed.Speed(None, 2.0)))
    assert alone[-2].endswith("(0.5 images a second, VAE and UNet together)")  # as many passes as images
