"""What cannot be read from as a prior: one line, before a byte is written."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from safetensors.torch import save_file

from diffps.backbone.builtin.topology import make_random
from diffps.errors import DiffPSError
from stages import extract, index
from stages.job import QuietJob
from stages.params import override
from tests.backbone.dit import write_pixart, write_sd3
from tests.stages.test_other_priors import CNN, RUNTIME, make_params
from tests.world import files_below

VIT = ("vit-block01-out",)
Case = tuple[str, tuple[str, ...], tuple[int, int], str]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import timm

    folder = tmp_path_factory.mktemp("models")
    save_file(timm.create_model("resnet10t", num_classes=0).state_dict(), folder / "resnet10t.safetensors")
    base = make_random(folder / "base")
    write_pixart(base, folder / "pixart")
    write_sd3(base, folder / "sd3")
    shutil.copytree(folder / "sd3", folder / "without-t5")
    shutil.rmtree(folder / "without-t5/text_encoder_3")
    shutil.copytree(folder / "pixart", folder / "mixed")
    name = "transformer/diffusion_pytorch_model.safetensors"
    shutil.copy(folder / "sd3" / name, folder / "mixed" / name)
    shutil.copytree(folder / "sd3", folder / "wider")
    config = folder / "wider/transformer/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "caption_projection_dim": 40}))
    (folder / "kind").mkdir()
    (folder / "kind/config.json").write_text('{"model_type": "bert"}')
    return folder


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("project")
        monkeypatch.chdir(folder)
        index.run(make_params(f"timm:resnet10t@{models / 'resnet10t.safetensors'}", CNN), RUNTIME, QuietJob())
        yield folder


CASES: dict[str, Case] = {
    "an unknown name": ("timm:vit_smal_patch16_224", VIT, (96, 160), "the nearest is 'vit_small_patch16_224'"),
    "an unknown tag": ("timm:resnet50.a1_in2k", CNN, (96, 160), "no weights 'a1_in2k' of resnet50; the nearest"),
    "no such file": ("timm:resnet50@nothing.safetensors", CNN, (128, 128), "no such file as nothing.safetensors"),
    "weights of another ViT": (
        "timm:vit_tiny_patch16_224@{}/resnet10t.safetensors",
        VIT,
        (96, 160),
        "not the weights of vit_tiny_patch16_224: cls_token is missing",
    ),
    "weights of another CNN": (
        "timm:resnet14t@{}/resnet10t.safetensors",
        ("cnn-stage2-block00-out",),
        (128, 128),
        "not the weights of resnet14t: layer1.0.conv1.weight is .64, 64, 3, 3., expected .64, 64, 1, 1.",
    ),
    "a canvas that 14 does not divide": (
        "timm:vit_small_patch14_dinov2",
        VIT,
        (1280, 1280),
        "canvas height 1280: must be a positive multiple of 14; nearest are 1274 and 1288",
    ),
    "a tap of another family": (
        "timm:resnet10t@{}/resnet10t.safetensors",
        VIT,
        (128, 128),
        "no such tap in this model; the nearest is 'cnn-stage",
    ),
    "a model of another kind": ("clip:{}/kind", VIT, (96, 160), "a model of type 'bert'; expected CLIP or SigLIP"),
    "no T5": ("{}/without-t5", ("joint-block00-img-q",), (64, 64), "text_encoder_3/ is missing in .*: T5"),
    "another transformer's weights": (
        "{}/mixed",
        VIT,
        (64, 64),
        "holds a diffusion transformer .*; expected the weights of a pixart",
    ),
    "a transformer of another width": ("{}/wider", ("joint-block00-img-q",), (64, 64), "have another shape than"),
    "a canvas beyond the positions": ("{}/sd3", ("joint-block00-img-q",), (64, 384), "positions up to 320 pixels"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_a_prior_is_one_line_before_anything_is_written(here: Path, models: Path, case: str) -> None:
    name, taps, canvas, message = CASES[case]
    made = make_params(name.format(models), VIT, (128, 128))
    changes = {
        "encode.canvas": list(canvas),
        "extract.taps": list(taps),
        "train.taps.level3": [taps[-1]],
        "train.taps.detection": taps[-1],
    }
    params = override(made, changes, "test")
    before = files_below(Path())
    with pytest.raises(DiffPSError, match=message) as raised:
        extract.run(params, RUNTIME, QuietJob())
    assert "\n" not in str(raised.value)
    assert files_below(Path()) == before


class Hub(BaseHTTPRequestHandler):
    """Says of every repository what its name says."""

    def do_GET(self) -> None:
        status, code = (403, "GatedRepo") if "gated" in self.path else (404, "RepoNotFound")
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Nothing on the test's own streams."""


ASK = """
import sys
from diffps.backbone.families import load_prior
from diffps.errors import CheckpointError
for name in sys.argv[1:]:
    try:
        load_prior(name)
        print("found", name)
    except CheckpointError as error:
        print(error)
"""


def test_a_gated_and_a_missing_repository_are_one_line_each(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads where the hub is when it is imported."""
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    names = ["owner/gated", "clip:owner/gated", "owner/missing", "clip:owner/missing"]
    own = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    try:
        command = [sys.executable, "-c", ASK, *names]
        root = Path(__file__).parents[2]
        done = subprocess.run(command, env={**os.environ, **own}, cwd=root, capture_output=True, text=True, check=True)
    finally:
        server.shutdown()
        server.server_close()
    lines = done.stdout.splitlines()
    assert len(lines) == len(names), done.stdout + done.stderr
    assert all("wants its terms accepted on huggingface.co and `hf auth login`" in line for line in lines[:2])
    assert all("no such repository on the hub, or a private one (401/404)" in line for line in lines[2:])
