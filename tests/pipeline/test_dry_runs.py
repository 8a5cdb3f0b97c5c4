"""What `--dry-run` says through the command line, against counts made another way."""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from cache.sealed import write_tensors
from diffps.features import FeatureShape
from diffps.model import PersonSearcher
from pipeline.cli import main
from pipeline.config import load_params
from stages import index, train
from stages.head.data import training_set
from stages.head.model import new_model
from stages.job import QuietJob, Runtime
from stages.params import Params, override
from stages.places import INDEX, WORDS
from tests.world import write_params

LATENT = 128 // 8
# Side and channels of builtin:random's taps on a canvas of 128, by level: what diffusers' documentation says of the
# topology (each level halves the side) and the checkpoint's own widths.
SIDES = {"level1": 4, "level2": 8, "level3": 16}
CHANNELS = {"level1": 96, "level2": 64, "level3": 32}
CHECKSUM = 4
POSITIONS_PER_SCALE = 256  # int8 keeps a float16 scale for each channel and so many positions


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("project")
    write_params(path)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(path)
        index.run(*load_params(path / "params.yaml"), QuietJob())
    (path / "data/encode").mkdir()  # the words, which encode writes: four embeddings of builtin:random's width
    write_tensors(path / WORDS, save({"embeddings": torch.linspace(-1, 1, 4 * 64).reshape(4, 64)}))
    return path


@pytest.fixture
def params(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(folder)
    return load_params(Path("params.yaml"))[0]


@pytest.fixture
def say(params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`diffps STAGE --dry-run ...`; what it printed. Nothing may have been written."""

    def call(stage: str, *arguments: str) -> str:
        def files() -> set[Path]:
            return {path for path in Path().rglob("*") if path.is_file() and "models" not in path.parts}

        before = files()
        monkeypatch.setattr(sys, "argv", ["diffps", stage, "--dry-run", *arguments])
        with pytest.raises(SystemExit) as done:
            main()
        assert not done.value.code
        assert files() == before
        return capsys.readouterr().out

    return call


def number(pattern: str, text: str) -> float:
    found = re.search(pattern.replace("#", r"([\d.,]+(?:e[+-]?\d+)?)"), text)
    assert found is not None, f"{pattern!r} in {text}"
    return float(found[1].replace(",", ""))


def nbytes(pattern: str, text: str) -> float:
    """``#`` in the pattern stands for a size with its unit."""
    found = re.search(pattern.replace("#", r"([\d.,]+) ([kMG]?B)"), text)
    assert found is not None, f"{pattern!r} in {text}"
    return float(found[1].replace(",", "")) * {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}[found[2]]


def shapes(params: Params) -> dict[str, FeatureShape]:
    found = {}
    for name in params.train.taps.names:
        level = name.split("-")[1]
        side, channels = SIDES[level], CHANNELS[level]
        found[name] = FeatureShape(side, side, 1 if name.endswith(".person") else channels)
    return found


def stored_bytes(params: Params) -> int:
    """Of one image's features that the head reads: int8 with float16 scales, maps in float32, a checksum for each."""
    total = 0
    for name, (height, width, channels) in shapes(params).items():
        positions = height * width
        if name.endswith(".person"):
            total += positions * 4 + CHECKSUM
        else:
            total += positions * channels + math.ceil(positions / POSITIONS_PER_SCALE) * channels * 2 + 2 * CHECKSUM
    return total


def parameters(params: Params) -> int:
    identities = training_set(params.train, params.encode.frame, INDEX).identities
    return sum(parameter.numel() for parameter in model_of(params, identities).parameters())


def model_of(params: Params, identities: int) -> PersonSearcher:
    words = torch.linspace(-1, 1, 4 * 64).reshape(4, 64)
    return new_model(params.train, params.encode.frame, shapes(params), words, identities)


def test_index_names_the_dataset(say: Callable[..., str]) -> None:
    assert "streets at data/streets (is there)" in say("index")
    assert "prw at nowhere (is MISSING)" in say("index", "--set", "index.dataset=prw", "--set", "index.root=nowhere")


def test_encode_counts_images_and_bytes(say: Callable[..., str]) -> None:
    text = say("encode")
    assert "14 images, 22 with views" in text  # 8 training scenes in two views, 6 test scenes
    assert nbytes(r"moments, #", text) == pytest.approx(22 * LATENT * LATENT * 8 * 4, rel=0.01)


def test_extract_names_what_it_would_keep(say: Callable[..., str], params: Params) -> None:
    text = say("extract", "--set", "extract.timesteps=[0, 50]", "--set", "extract.encoding=float16")
    assert "8 taps and maps at t = 0, 50 under 'person' as float16" in text
    kept = sum(
        (SIDES[level] * SIDES[level]) * (4 if tap.endswith("map") else 2 * CHANNELS[level])
        for tap in params.extract.taps
        for level in [tap.split("-")[1]]
    )
    assert nbytes(r"-> # in", text) == pytest.approx(22 * 2 * kept, rel=0.01)
    assert number(r"in # files", text) < 22 * 2 * 8  # shards hold several images


def test_train_counts_parameters_steps_bytes_and_memory(say: Callable[..., str], params: Params) -> None:
    text = say("train", "--set", "train.epochs=3")
    count = parameters(params)
    assert number(r"all +#", text) == count
    assert sum(number(rf"  {part} +#", text) for part in ("dgrpn", "msfrn", "reid_head", "box_head")) <= count
    assert number(r"# steps", text) == 3 * 8 // params.train.batch
    assert nbytes(r"memory: # model and optimiser", text) == pytest.approx(16 * count, rel=0.01)
    assert nbytes(r"head #", text) == pytest.approx(4 * count, rel=0.01)
    assert nbytes(r"checkpoint #", text) == pytest.approx(12 * count, rel=0.01)
    step = params.train.batch * stored_bytes(params)
    assert nbytes(r"an image, # a step", text) == pytest.approx(step, rel=0.01)
    assert nbytes(r"reads # an image", text) == pytest.approx(stored_bytes(params), rel=0.01)
    assert nbytes(r"a step, # in all", text) == pytest.approx(3 * 8 // params.train.batch * step, rel=0.01)
    assert "measured on cpu" in text


def _no_gpu_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory.")


def _no_memory(*_: object, **__: object) -> None:
    torch.empty(10**15)


@pytest.mark.parametrize("step", [_no_gpu_memory, _no_memory])
def test_train_tells_the_costs_of_a_step_that_does_not_fit(
    say: Callable[..., str], params: Params, monkeypatch: pytest.MonkeyPatch, step: Callable[..., None]
) -> None:
    monkeypatch.setattr("diffps.training.HeadTrainer.step", step)
    text = say("train")
    assert "time: not measured, a step does not fit in memory here" in text
    assert number(r"all +#", text) == parameters(params)
    assert nbytes(r"an image, # a step", text) == pytest.approx(params.train.batch * stored_bytes(params), rel=0.01)
    assert "keeps pace" not in text


def test_train_hides_no_other_failure(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("shapes differ")

    monkeypatch.setattr("diffps.training.HeadTrainer.step", fail)
    with pytest.raises(RuntimeError, match="shapes differ"):
        train.dry_run(params, Runtime(), QuietJob())


def test_train_live_reads_no_store(say: Callable[..., str]) -> None:
    text = say("train", "--set", "train.source=live")
    assert "(measured on cpu); head only; the backbone comes on top" in text
    assert "reads" not in text
    assert "disk" not in text


def test_train_counts_flops(say: Callable[..., str], params: Params) -> None:
    """Of the box head, whose operations can be counted by hand: a multiplication and an addition for every weight and
    place it is used at."""
    samples = 4096  # so many that three decimals of a GFLOP say something
    model = model_of(params, 4)
    flops = 0

    def count(module: torch.nn.Module, given: object, out: torch.Tensor) -> None:
        nonlocal flops
        places = out.shape[2] * out.shape[3] if out.ndim == 4 else 1
        flops += 2 * sum(w.numel() for w in module.parameters() if w.ndim > 1) * places * samples

    for module in model.box_head.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        model.eval().box_head(torch.zeros(1, params.train.model.channels, 16, 16), [torch.tensor([[0.0, 0, 64, 64]])])
    said = number(r"box_head +[\d,]+ +#", say("train", "--set", f"train.model.box.samples={samples}"))
    assert said == pytest.approx(flops / 1e9, rel=0.05)


def test_sweep_counts_rounds_and_bytes(say: Callable[..., str], params: Params) -> None:
    text = say("sweep")
    assert "2 variants, 0 done already" in text
    assert "round 1: full, no-dgrpn" in text
    assert "round 2" not in text
    images = 8 * params.train.epochs
    assert nbytes(r"an image, # once", text) == pytest.approx(images * stored_bytes(params), rel=0.01)
    full = parameters(params)
    without = parameters(override(params, {"train.model.dgrpn": None}, "tests"))
    assert nbytes(r"# in results/sweep", text) == pytest.approx(16 * (full + without), rel=0.01)


def test_evaluate_counts_scenes_and_queries(say: Callable[..., str]) -> None:
    text = say("evaluate", "--set", "evaluate.gallery=cross_camera")
    assert "6 test scenes (cached features), 4 queries, gallery cross_camera" in text


@pytest.mark.parametrize("stage", ["report", "pretrain"])
def test_the_rest_says_where_it_would_write(say: Callable[..., str], stage: str) -> None:
    assert {"report": "results/report", "pretrain": "models/streets"}[stage] in say(stage)
