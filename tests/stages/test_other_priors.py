"""Priors without a VAE through the stages: nothing to encode, cached equals live, person search from end to end."""

import csv
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML

from diffps.backbone.builtin.topology import make_random
from diffps.datasets.tables import read_scenes
from diffps.errors import CheckpointError, ConfigError, UnknownTapError
from diffps.features import Feature, Ref
from stages import encode, evaluate, extract, index, sweep, train
from stages.features.reading import Reading
from stages.features.source import open_source
from stages.features.words import read_words
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime
from stages.params import Params, override
from stages.places import ENCODED, EXTRACTED, INDEX, SWEEP, WORDS
from stages.typed import build
from tests.backbone.lite0 import imagenet_lite0
from tests.backbone.sdxl import TEXT, write_sdxl
from tests.backbone.test_clip import write_model
from tests.backbone.test_timm import SMALL, write_folder
from tests.world import Listener, raw_params

VIT = ("vit-block01-q", "vit-block02-ffn-inner", "vit-norm")
CNN = ("cnn-stage5-block02-out", "cnn-stage3-block01-out", "cnn-stage2-block01-out")  # strides 16, 8, 4
RUNTIME = Runtime(device="cpu", threads=1, batch=2, vae_batch=2, shard=4)


def make_params(checkpoint: str, taps: tuple[str, ...], canvas: tuple[int, int] = (96, 160), **extra: Any) -> Params:
    """The small demo on another prior: all taps on one level where their grids are one, else one a level."""
    one = not taps[0].startswith("cnn")
    levels = {"level1": [], "level2": [], "level3": list(taps)} if one else {}
    if not one:
        levels = {"level1": [taps[0]], "level2": [taps[1]], "level3": [taps[2]]}
    raw = raw_params(
        {
            "encode": {"checkpoint": checkpoint, "canvas": list(canvas) if one else [128, 192]},
            "extract": {"taps": list(taps), "words": [], **extra},
            "train": {
                "taps": {"detection": taps[-1], "guidance": None, **levels},
                "model": {"dgrpn": None, "sfan": None},
            },
        }
    )
    raw["train"]["taps"].update(levels)
    raw.pop("runtime")
    known = {name: raw[name] for name in Params.__dataclass_fields__}
    return build(Params, known, "tests")


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("vit")
    return f"timm:{write_folder(folder, 'vit_small_patch16_dinov3', {**SMALL, 'img_size': 64})}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, vit: str) -> Iterator[Path]:
    """A folder with the drawn streets indexed; the tests run in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("project")
        monkeypatch.chdir(folder)
        index.run(make_params(vit, VIT), RUNTIME, QuietJob())
        yield folder


def source(params: Params, kind: Any) -> Any:
    reading = Reading.of(params.train, params.extract)
    images = ImageFolder.of(params.index)
    return open_source(
        reading, "train", kind, encode=params.encode, extract=params.extract, images=images, runtime=RUNTIME
    )


def test_encode_has_nothing_to_store_and_says_so(here: Path, vit: str) -> None:
    job = Listener()
    WORDS.parent.mkdir(parents=True, exist_ok=True)
    WORDS.write_bytes(b"of another prior")
    encode.run(make_params(vit, VIT), RUNTIME, job)
    assert any("reads images as they are, so there are no moments to store" in line for line in job.lines)
    assert not WORDS.exists()
    assert ENCODED.is_dir()
    assert "no moments" in encode.dry_run(make_params(vit, VIT), RUNTIME, job)


def _kept(feature: Feature) -> tuple[torch.Tensor, torch.Tensor]:
    return feature.values.clone(), feature.dense().clone()


@pytest.mark.parametrize("encoding", ["float16", "int8", "bitround:7", "project:8"])
def test_cached_equals_live_to_the_last_bit(here: Path, vit: str, encoding: str) -> None:
    params = make_params(vit, VIT, encoding=encoding, name=encoding.replace(":", ""))
    extract.run(params, RUNTIME, QuietJob())
    scenes = read_scenes(INDEX, "train")
    batches = [[Ref(scene.scene_id, view)] for scene in scenes[:3] for view in ("identity", "hflip")]
    found: list[list[dict[str, tuple[torch.Tensor, torch.Tensor]]]] = []
    for kind in ("cached", "live"):
        with source(params, kind) as opened:
            assert opened.shapes["vit-norm"] == (6, 10, 48)
            # A batch's tensors are good until the next one is asked for.
            found.append([{name: _kept(batch[name]) for name in VIT} for batch in opened.stream(batches, list(VIT))])
    assert len(found[0]) == len(batches)
    for one, other in zip(*found, strict=True):
        for name in VIT:
            assert all(torch.equal(a, b) for a, b in zip(one[name], other[name], strict=True)), name
    assert not torch.equal(found[0][0]["vit-norm"][0], found[0][1]["vit-norm"][0])


def test_run_again_nothing_is_computed_and_one_more_tap_adds_only_that(here: Path, vit: str) -> None:
    params = make_params(vit, VIT, name="again")
    extract.run(params, RUNTIME, QuietJob())
    job = Listener()
    extract.run(params, RUNTIME, job)
    assert "extract: nothing is missing" in job.lines
    manifests = {path: path.read_bytes() for path in EXTRACTED.rglob("again/*/*.json")}
    extract.run(make_params(vit, (*VIT, "vit-block00-attn-out"), name="again"), RUNTIME, QuietJob())
    assert all(path.read_bytes() == data for path, data in manifests.items())


def test_another_encoding_is_made_from_what_is_stored(here: Path, vit: str) -> None:
    params = make_params(vit, VIT, encoding="float16", transcode=["int8"], name="transcoded", dtype="bfloat16")
    extract.run(params, RUNTIME, QuietJob())
    job = Listener()
    extract.run(make_params(vit, VIT, encoding="int8", name="transcoded", dtype="bfloat16"), RUNTIME, job)
    assert job.lines == ["extract: nothing is missing"]


def test_the_same_weights_elsewhere_continue_the_store(here: Path, vit: str, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(vit.removeprefix("timm:"), tmp_path / "moved")
    extract.run(make_params(vit, VIT, name="moved"), RUNTIME, QuietJob())
    job = Listener()
    extract.run(make_params(f"timm:{tmp_path / 'moved'}", VIT, name="moved"), RUNTIME, job)
    assert "extract: nothing is missing" in job.lines


def test_sdxl_is_encoded_extracted_and_read_like_any_diffusion_model(here: Path, tmp_path: Path) -> None:
    folder = write_sdxl(make_random(tmp_path / "base"), tmp_path / "sdxl")
    key, word_map = "up-level1-repeat0-vit-block0-self-k", "up-level1-repeat0-vit-block0-cross-map"
    params = make_params(str(folder), (key,), (64, 128), name="sdxl", words=["person"], encoding="float16")
    changes = {
        "encode.text_encoder": 2,
        "extract.taps": [key, word_map],
        "train.taps.detection": key,
        "train.taps.guidance": f"{word_map}.person",
    }
    params = override(params, changes, "test")
    for stage in (encode, extract):
        stage.run(params, RUNTIME, QuietJob())
    assert read_words(params.encode.words).shape == (4, TEXT[1])
    job = Listener()
    for stage in (encode, extract):
        stage.run(params, RUNTIME, job)
    assert job.lines == ["encode: nothing is missing", "extract: nothing is missing"]
    batches = [[Ref(scene.scene_id)] for scene in read_scenes(INDEX, "train")[:2]]
    found = []
    for kind in ("cached", "live"):
        with source(params, kind) as opened:
            assert opened.shapes[key] == (4, 8, 16)
            names = [key, f"{word_map}.person"]
            found.append([{name: _kept(batch[name]) for name in names} for batch in opened.stream(batches, names)])
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True))


def test_one_sweep_compares_passes_of_several_priors(here: Path, vit: str, tmp_path: Path) -> None:
    other = make_params(imagenet_lite0(tmp_path), CNN, name="other")
    params = make_params(vit, ("vit-block01-q", "vit-norm"), name="compared")
    file = tmp_path / "other.yaml"
    with file.open("w") as stream:
        YAML().dump(json.loads(json.dumps(asdict(other))), stream)
    (tmp_path / "priors.yaml").write_text(f"variants:\n  vit: {{}}\n  cnn: {{params: {file}}}\n")
    params = override(params, {"sweep.file": str(tmp_path / "priors.yaml")}, "test")
    with pytest.raises(ConfigError, match="variants cnn"):
        extract.run(params, RUNTIME, QuietJob())
        sweep.run(params, RUNTIME, QuietJob())
    extract.run(other, RUNTIME, QuietJob())
    sweep.run(params, RUNTIME, QuietJob())
    rows = list(csv.DictReader((SWEEP / "table.csv").read_text().splitlines()))
    assert [(row["variant"], row["status"]) for row in rows] == [("vit", "done"), ("cnn", "done")]
    assert "params=other" in rows[1]["changes"]
    sweep.dry_run(params, RUNTIME, QuietJob())
    same = override(params, {"extract.name": "other"}, "test")
    with pytest.raises(ConfigError, match="calls its pass other too"):
        sweep.run(same, RUNTIME, QuietJob())


def test_what_does_not_go_with_the_prior_is_said_before_anything_runs(here: Path, vit: str) -> None:
    params = make_params(vit, VIT)
    with pytest.raises(
        ConfigError, match="train.model.sfan: timm:.* has no text to compare with; set train.model.sfan"
    ):
        override(params, {"train.model.sfan": {}}, "test")
    with pytest.raises(ConfigError, match="train.model.dgrpn: needs a map in train.taps.guidance"):
        override(params, {"train.model.dgrpn": {}}, "test")
    with pytest.raises(ConfigError, match="multiple of 16; nearest are 96 and 112"):
        extract.dry_run(replace(params, encode=replace(params.encode, canvas=(100, 160))), RUNTIME, QuietJob())
    with pytest.raises(UnknownTapError, match="nearest is 'vit-block02-"):
        extract.dry_run(make_params(vit, ("vit-block07-out",)), RUNTIME, QuietJob())
    with pytest.raises(CheckpointError, match="timm has no model 'vit_smoll'"):
        extract.dry_run(make_params("timm:vit_smoll", VIT), RUNTIME, QuietJob())
    with pytest.raises(ConfigError, match="extract.timesteps 5: .* has none but 0"):
        changed = replace(params.extract, timesteps=(0, 5))
        extract.run(replace(params, extract=changed), RUNTIME, QuietJob())


def test_a_real_prior_from_the_index_to_the_scores(here: Path, tmp_path: Path) -> None:
    params = make_params(imagenet_lite0(tmp_path), CNN, name="lite0")
    for stage in (encode, extract, train, evaluate):
        stage.run(params, RUNTIME, QuietJob())
    scores = json.loads(Path("results/evaluate/metrics.json").read_text())
    assert 0 <= scores["search"]["map"] <= 100
    assert scores["search"]["queries"] > 0


def test_word_maps_of_clip_guide_proposals_and_its_texts_sfan(here: Path, tmp_path: Path) -> None:
    checkpoint = f"clip:{write_model(tmp_path, 'siglip')}"
    params = make_params(checkpoint, ("vit-block01-v", "vit-norm"), name="siglip", words=["person"])
    guided = {
        "extract.taps": ["vit-block01-v", "vit-norm", "vit-text-map"],
        "train.taps.detection": "vit-norm",
        "train.taps.guidance": "vit-text-map.person",
        "train.taps.level3": ["vit-block01-v"],
        "train.model.dgrpn": {"delta": 2.0, "peak_window": 3, "neighbourhood": 5},
        "train.model.sfan": {},
    }
    params = override(params, guided, "test")
    for stage in (encode, extract, train):
        stage.run(params, RUNTIME, QuietJob())
    assert read_words(params.encode.words).shape == (4, 48)
    with source(params, "cached") as opened:
        assert opened.shapes["vit-text-map.person"] == (6, 10, 1)
    card = Path("results/train/head/README.md").read_text()
    assert "(vision " in card
    assert "text " in card
