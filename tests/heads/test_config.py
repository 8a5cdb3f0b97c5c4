"""Configs refuse what cannot work, survive JSON, and load without torch."""

import json
import subprocess
import sys

import pytest

from diffps.errors import ConfigError
from diffps.heads.config import (
    BoxConfig,
    DGRPNConfig,
    EmbeddingConfig,
    ModelConfig,
    MSFRNConfig,
    OIMConfig,
    ReIDConfig,
    TapsConfig,
    model_from_json,
    taps_from_json,
    to_json,
)


def test_json_round_trip() -> None:
    config = ModelConfig(channels=64, head_channels=128, dgrpn=None, msfrn=MSFRNConfig(wavelet="db2"), sfan=None)
    assert model_from_json(json.loads(json.dumps(to_json(config)))) == config
    taps = TapsConfig(detection="d", guidance="m.person", level2=("b",), level3=("d", "e"))
    assert taps_from_json(json.loads(json.dumps(to_json(taps)))) == taps


def test_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown key chanels"):
        model_from_json({"chanels": 3})


def test_names_are_listed_once() -> None:
    taps = TapsConfig(detection="d", guidance="m", level1=("a",), level2=("b",), level3=("d", "e"))
    assert taps.names == ("d", "m", "a", "b", "e")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TapsConfig(detection="d", guidance="m", level3=()), "level3"),
        (lambda: TapsConfig(detection="d", guidance="m", level3=("e", "e")), "twice"),
        (lambda: DGRPNConfig(peak_window=4), "odd"),
        (lambda: DGRPNConfig(tau=1.0), "tau"),
        (lambda: BoxConfig(positive_iou=0.3, negative_iou=0.5), "negative_iou"),
        (lambda: ReIDConfig(samples=1), "reid.samples"),
        (lambda: EmbeddingConfig(size=8), "embedding.size 8"),
        (lambda: OIMConfig(momentum=1.0), "momentum"),
        (lambda: ModelConfig(head_channels=30), "multiple of 4"),
        (lambda: ModelConfig(reid=ReIDConfig(grid=(4, 4))), "reid.grid"),
    ],
)
def test_what_cannot_work_is_refused(build: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()


def test_loads_without_torch() -> None:
    code = "import sys, diffps.heads.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
