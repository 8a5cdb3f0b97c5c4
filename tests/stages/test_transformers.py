"""Transformers of diffusion through the stages: cached equals live, runs go on, workers agree, what is said before."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from diffps.backbone.builtin.topology import make_random
from diffps.datasets.tables import read_scenes
from diffps.errors import CheckpointError, ConfigError
from diffps.features import Ref
from stages import doctor, encode, extract, index, probe, train
from stages.features.words import read_words
from stages.job import QuietJob
from stages.params import Params, override
from stages.places import EXTRACTED, INDEX, PROBE
from tests.backbone.dit import T5_WIDTH, write_pixart, write_sd3
from tests.stages.test_other_priors import RUNTIME, make_params, source
from tests.world import Listener

CANVAS = (64, 128)
TAPS = {
    "pixart": ("vit-block01-modulated", "vit-block02-self-k", "vit-block01-cross-map"),
    "sd3": ("joint-block01-img-modulated", "joint-block02-img-k", "joint-block01-map"),
}
FAMILIES = tuple(TAPS)
ONE_OF_THEM = (pytest.param("pixart", marks=pytest.mark.slow), "sd3")  # by default: they differ below the stages


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    base = make_random(tmp_path_factory.mktemp("base") / "random")
    return {
        "pixart": str(write_pixart(base, tmp_path_factory.mktemp("pixart"))),
        "sd3": str(write_sd3(base, tmp_path_factory.mktemp("sd3"))),
    }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, str]) -> Iterator[Path]:
    """A folder with the drawn streets indexed and encoded; the tests run in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        folder = tmp_path_factory.mktemp("project")
        monkeypatch.chdir(folder)
        index.run(params_of("sd3", checkpoints), RUNTIME, QuietJob())
        encode.run(params_of("sd3", checkpoints), RUNTIME, QuietJob())
        yield folder


def params_of(family: str, checkpoints: dict[str, str], **extract_keys: object) -> Params:
    """A pass over both families' own taps, its word map guiding proposals, T5 embedding the words of SFAN."""
    first, second, word_map = TAPS[family]
    params = make_params(checkpoints[family], (first, second), CANVAS, words=["person"], name=family, **extract_keys)
    changes = {
        "encode.text_encoder": 1 if family == "pixart" else 3,
        "extract.taps": [first, second, word_map],
        "extract.timesteps": [250],
        "train.timestep": 250,
        "train.taps.guidance": f"{word_map}.person",
        "train.model.dgrpn": {"delta": 2.0, "peak_window": 3, "neighbourhood": 5},
        "train.model.sfan": {},
    }
    return override(params, changes, "test")


@pytest.mark.parametrize("family", FAMILIES)
def test_cached_equals_live_to_the_last_bit(here: Path, checkpoints: dict[str, str], family: str) -> None:
    params = params_of(family, checkpoints)
    for stage in (encode, extract):
        stage.run(params, RUNTIME, QuietJob())
    first, second, word_map = TAPS[family]
    names = [first, second, f"{word_map}.person"]
    refs = [Ref(scene.scene_id, view) for scene in read_scenes(INDEX, "train")[:2] for view in ("identity", "hflip")]
    batches, found = [[ref] for ref in refs], []
    for kind in ("cached", "live"):
        with source(params, kind) as opened:
            assert opened.shapes[first] == (4, 8, 32)
            assert opened.shapes[names[2]] == (4, 8, 1)
            # A batch's tensors are good until the next one is asked for.
            found.append(
                [{name: batch[name].dense().clone() for name in names} for batch in opened.stream(batches, names)]
            )
    for one, other in zip(*found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in names)
    assert not torch.equal(found[0][0][first], found[0][1][first])


@pytest.mark.parametrize("family", ONE_OF_THEM)
def test_a_run_goes_on_where_it_was_and_the_head_reads_words(
    here: Path, checkpoints: dict[str, str], family: str
) -> None:
    params = params_of(family, checkpoints)
    encode.run(params, RUNTIME, QuietJob())
    assert read_words(params.encode.words).shape == (4, T5_WIDTH)
    extract.run(params, RUNTIME, QuietJob())
    job = Listener()
    for stage in (encode, extract):
        stage.run(params, RUNTIME, job)
    assert job.lines == ["encode: nothing is missing", "extract: nothing is missing"]
    manifests = {path: path.read_bytes() for path in EXTRACTED.rglob(f"{family}/*/*.json")}
    assert manifests
    taps = [*params.extract.taps, params.extract.taps[0].replace("01", "00")]
    more = override(params, {"extract.taps": taps}, "test")
    extract.run(more, RUNTIME, QuietJob())
    assert all(path.read_bytes() == data for path, data in manifests.items())
    shutil.copytree(checkpoints[family], "moved", dirs_exist_ok=True)
    extract.run(override(params, {"encode.checkpoint": "moved"}, "test"), RUNTIME, job)
    assert job.lines[2:] == ["extract: nothing is missing"]
    shutil.rmtree("moved")
    train.run(params, RUNTIME, QuietJob())
    assert "transformer " in Path("results/train/head/README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_doctor_knows_digests_taps_and_operations(here: Path, checkpoints: dict[str, str], family: str) -> None:
    params, job = params_of(family, checkpoints), Listener()
    doctor.run(params, RUNTIME, job)
    assert any("digests: transformer " in line for line in job.lines)
    assert job.lines[-2] == "  every tap of extract.taps is there"
    assert re.fullmatch(r"  operations: .* TFLOP an image at one timestep \(VAE .*, transformer .*\)", job.lines[-1])


@pytest.mark.parametrize("family", ONE_OF_THEM)
def test_the_probe_ranks_taps_and_has_no_control_where_the_control_lacks_them(
    here: Path, checkpoints: dict[str, str], family: str
) -> None:
    first, second, _ = TAPS[family]
    keys = ["scenes: 4", "timesteps: [250]", f"taps: [{first}, {second}]", "budgets: [0.1]", "folds: 2", "width: 40"]
    Path("probe.yaml").write_text("\n".join([*keys, "resamples: 100"]))
    params = override(params_of(family, checkpoints), {"probe.file": "probe.yaml"}, "test")
    probe.run(params, RUNTIME, QuietJob())
    rows = pq.read_table(PROBE / "table.parquet").to_pylist()
    assert {row["name"] for row in rows if row["kind"] == "tap"} == {first, second}
    assert {row["checkpoint"] for row in rows} == {checkpoints[family]}


@pytest.mark.parametrize("stage", [encode, extract, doctor])
def test_without_t5_one_line_is_said_before_anything_runs(
    here: Path, checkpoints: dict[str, str], tmp_path: Path, stage: object
) -> None:
    shutil.copytree(checkpoints["sd3"], tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/text_encoder_3")
    params = override(params_of("sd3", checkpoints), {"encode.checkpoint": str(tmp_path / "copy")}, "test")
    job = Listener()
    with pytest.raises(CheckpointError, match="text_encoder_3/ is missing in .*: T5, the text encoder") as raised:
        stage.run(params, RUNTIME, job)  # type: ignore[attr-defined]
    assert "\n" not in str(raised.value)
    assert all("extract:" not in line and "encode:" not in line for line in job.lines)


def test_what_the_positions_do_not_reach_is_refused(here: Path, checkpoints: dict[str, str]) -> None:
    params = override(params_of("sd3", checkpoints), {"encode.canvas": [64, 384]}, "test")
    with pytest.raises(ConfigError, match="has positions up to 320 pixels a side"):
        extract.run(params, RUNTIME, QuietJob())
