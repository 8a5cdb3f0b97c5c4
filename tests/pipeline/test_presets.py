"""What the headers of the presets claim, computed."""

import re
from dataclasses import asdict, fields
from math import ceil
from pathlib import Path

import pytest

from diffps.heads.config import ModelConfig, OIMConfig
from diffps.schedule import TrainingConfig
from diffps.taps import standard_taps
from pipeline.config import load_params
from stages.params import Params

ROOT = Path(__file__).parents[2]
# The published numbers of images: training, test.
IMAGES = {"prw": (5704, 6112), "cuhk-sysu": (11206, 6978)}


def bytes_per_view(params: Params) -> int:
    """int8 features with their scales, float32 maps and moments of one image."""
    height, width = params.encode.canvas
    total = (height // 8) * (width // 8) * 8 * 4
    for name in params.extract.names:
        tap = standard_taps()[name.partition(".")[0]]
        positions = (height // tap.stride) * (width // tap.stride)
        if tap.kind == "grid":
            total += positions * tap.channels + ceil(positions / 256) * tap.channels * 2
        else:
            total += positions * 4
    return total


@pytest.mark.parametrize("name", IMAGES)
def test_the_size_in_the_header_is_the_size(name: str) -> None:
    path = ROOT / "presets" / f"{name}.yaml"
    params, _ = load_params(path)
    assert params.extract.encoding == "int8"
    train, test = IMAGES[name]
    size = bytes_per_view(params) * (train * len(params.encode.views) + test) / 1e9
    stated = re.search(r"Store: ([\d,]+) GB", path.read_text())
    assert stated
    assert float(stated.group(1).replace(",", "")) == pytest.approx(size, abs=0.6)


@pytest.mark.parametrize("name", IMAGES)
def test_the_papers_model_is_the_default_one(name: str) -> None:
    params, _ = load_params(ROOT / "presets" / f"{name}.yaml")
    paper = ModelConfig()
    model = params.train.model
    for part in ("channels", "head", "dgrpn", "msfrn", "sfan", "rpn", "box", "reid", "embedding", "head_channels"):
        assert getattr(model, part) == getattr(paper, part)
    assert model.oim == OIMConfig(queue=500 if name == "prw" else 5000, momentum=0.5, scale=30.0)


@pytest.mark.parametrize("name", IMAGES)
def test_the_papers_training(name: str) -> None:
    config = load_params(ROOT / "presets" / f"{name}.yaml")[0].train
    assert (config.lr, config.epochs, config.batch, config.accumulate, config.seed) == (1e-4, 30, 5, 1, 1)
    assert (config.milestones, config.decay) == ((8, 14), 0.1)
    assert (config.warmup_epochs, config.warmup_start) == (1.0, 0.001)
    assert (config.clip, config.precision) == (10.0, "float16")
    assert asdict(config.weights) == {"rpn_cls": 1, "rpn_reg": 1, "prop_cls": 1, "prop_reg": 10, "reid": 2}
    assert config.init == ("v2" if name == "prw" else "v1")
    assert (config.flip, config.holdout, config.scenes, config.checkpoint) == ("cached", 0.0, None, "last")


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_first_weights_are_those_released_for_the_data_set(path: Path) -> None:
    params, _ = load_params(path)
    assert params.train.init == {"prw": "v2", "cuhk-sysu": "v1", "streets": "v1"}[params.index.dataset]


def test_the_default_training_is_the_papers_but_for_precision() -> None:
    config = load_params(ROOT / "presets" / "cuhk-sysu.yaml")[0].train
    paper = {field.name: getattr(config, field.name) for field in fields(TrainingConfig)}
    assert TrainingConfig(**{**paper, "precision": "float32"}) == TrainingConfig()
