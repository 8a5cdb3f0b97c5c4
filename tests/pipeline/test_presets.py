"""What the headers of the presets claim, computed."""

import re
from math import ceil
from pathlib import Path

import pytest

from diffps.heads.config import ModelConfig
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
    params = load_params(path)
    assert params.extract.encoding == "int8"
    train, test = IMAGES[name]
    size = bytes_per_view(params) * (train * len(params.encode.views) + test) / 1e9
    stated = re.search(r"Store: ([\d,]+) GB", path.read_text())
    assert stated
    assert float(stated.group(1).replace(",", "")) == pytest.approx(size, abs=0.6)


@pytest.mark.parametrize("name", IMAGES)
def test_the_papers_model_is_the_default_one(name: str) -> None:
    params = load_params(ROOT / "presets" / f"{name}.yaml")
    paper = ModelConfig()
    model = params.train.model
    for part in ("channels", "head", "dgrpn", "msfrn", "sfan", "rpn", "box", "reid", "embedding", "head_channels"):
        assert getattr(model, part) == getattr(paper, part)
    assert (params.train.lr, params.train.epochs, params.train.milestones) == (1e-4, 30, (8, 14))
    assert params.train.init == ("normal" if name == "prw" else "xavier")
    assert model.oim.queue == (500 if name == "prw" else 5000)
