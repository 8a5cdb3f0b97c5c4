"""``diffps cache`` as a user sees it: over a small store, without a backbone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cache import ArraySpec, FeatureStore
from cache.budget import DiskRates
from cache.verify import verify
from pipeline.cache_commands import app
from pipeline.config import load_params
from stages.forecasts.store import Speed, plan
from stages.job import QuietJob
from tests.cache.builders import images, spec, write

ROWS = images(6)
PARAMS = Path(__file__).resolve().parents[2] / "presets" / "demo.yaml"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    store = FeatureStore(tmp_path / "store")
    write(store, [spec("float16"), spec("int8")], ROWS)
    return store


def run(*arguments: str, **options: Any) -> Result:
    settings = ["--params", str(PARAMS), "--set", "runtime.store=store"]
    return CliRunner().invoke(app, [arguments[0], *settings, *arguments[1:]], catch_exceptions=False, **options)


def test_status_lists_arrays(store: FeatureStore) -> None:
    done = run("status")
    assert done.exit_code == 0
    assert spec().group.path in done.stdout
    assert "tap@int8" in done.stdout
    assert "6 done, 0 missing, 0 skipped" in done.stdout
    assert "unet 1234" in done.stdout


def test_status_of_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "no store here yet" in run("status").stdout
    assert "no store here yet" in run("verify").stdout


def test_verify_names_the_damage_and_the_command(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.features.arrays.wanted_arrays", lambda params, root: [spec("int8")])
    assert "nothing damaged" in run("verify").stdout
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    found = run("verify")
    assert found.exit_code == 1
    assert "folder/000.jpg" in found.stdout
    given = f"--params {PARAMS} --set runtime.store=store"
    assert f"to repair: diffps cache verify {given} --repair && diffps extract {given}\n" in found.stdout
    assert f"1 shards now count as missing; `diffps extract {given}` writes" in run("verify", "--repair").stdout
    assert write(store, [spec("float16"), spec("int8")], ROWS) == [0]
    assert verify(store.root, store.arrays()) == []


def test_verify_names_no_command_for_what_other_parameters_made(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    file.write_bytes(b"")
    monkeypatch.setattr(
        "stages.features.arrays.wanted_arrays", lambda params, root: [spec("int8", recipe={"unet": "5678"})]
    )
    lines = run("verify").stdout.splitlines()
    assert lines[-2].startswith(f"{spec().path}: {PARAMS} makes this under no encoding or head; run again")
    assert lines[-1] == f"to repair: diffps cache verify --params {PARAMS} --set runtime.store=store --repair"
    assert run("verify", "--repair").stdout.endswith("1 shards now count as missing\n")


def test_verify_names_the_stage_without_a_checkpoint(store: FeatureStore) -> None:
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    file.write_bytes(b"")
    given = f"--params {PARAMS} --set runtime.store=store --set encode.checkpoint=none"
    found = run("verify", "--set", "encode.checkpoint=none").stdout
    assert f"--repair && diffps extract {given}\n" in found
    assert "under no encoding" not in found


def test_explain_names_the_fields_of_two_arrays(store: FeatureStore) -> None:
    done = run("explain", spec("int8").path, spec("float16").path)
    assert 'encoding.name: "int8" != "float16"' in done.stdout
    assert "are equal" in run("explain", spec().path, spec().path).stdout
    assert "pass.unet 1234" in run("explain", spec().path).stdout


def test_explain_says_why_something_would_be_extracted(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: list[ArraySpec] = [
        spec("int8"),
        spec("float16", recipe={"unet": "5678", "prompt": "person"}),
        spec(tap="new"),
    ]
    monkeypatch.setattr("stages.features.arrays.wanted_arrays", lambda params, root: wanted)
    lines = run("explain").stdout.splitlines()
    assert len(lines) == 2
    assert 'recipe.pass.unet: "5678" != "1234"' in lines[0]
    assert "has no new@int8" in lines[1]


def test_gc_asks_first(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.features.arrays.wanted_arrays", lambda params, root: [spec("int8")])
    params = store.root.parent / "mine.yaml"
    params.write_text(PARAMS.read_text().replace("store: data/features", "store: store"))
    assert "store: store" in params.read_text()

    def gc(*arguments: str, answer: str = "") -> Result:
        return CliRunner().invoke(app, ["gc", "--params", str(params), *arguments], input=answer)

    refused = gc(answer="n\n")
    assert "tap@float16" in refused.stdout
    assert refused.exit_code == 1
    assert len(store.arrays()) == 2
    assert "freed" in gc("--yes").stdout
    assert store.arrays() == [spec("int8")]
    assert "nothing to delete" in gc().stdout


def test_export_and_stats(store: FeatureStore) -> None:
    assert "6 files" in run("export", spec().path, "--to", "out").stdout
    assert np.load(Path("out") / ROWS[2][0] / "tap@int8.npy").shape == spec().shape
    found = run("stats", spec().path, "--to", "stats.npz").stdout
    assert "6 images of 20 x 18 x 12" in found
    assert "99.0% of the variance" in found
    assert np.load("stats.npz")["mean"].shape == (12,)


def test_plan_says_what_it_costs_and_what_would_fit(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.budget.measure_disk", lambda root: DiskRates(1e9, 2e9))
    lines = run("plan", "--rate", "2", "--disk", "400MB", "--set", "encode.checkpoint=none").stdout
    assert "500 passes" in lines
    assert "DOES NOT FIT" in lines
    assert "break-even: after" in lines
    assert "on 400 MB would fit:" in lines
    assert "encoding project:64" in lines
    monkeypatch.setattr("cache.budget.measure_disk", lambda root: DiskRates(1e9, 1e3))
    assert "do not cache" in run("plan", "--rate", "50", "--set", "encode.checkpoint=none").stdout


FREE_DISK = DiskRates(1e30, 1e30)


@pytest.mark.parametrize(
    ("changes", "rate", "said"),
    [
        # 200 training images in two views and 100 test images: 500 through the VAE (2 s), 500 a timestep through the
        # UNet (1 s); an epoch computed anew is 200 x 3 s.
        ([], "0", ("25 min (VAE 2 s an image, UNet 1 s a pass)", "after 2.5 epochs of 200 images, 0.50 trainings")),
        (["extract.timesteps=[0,100,200,300]"], "0", ("50 min (VAE", "after 5.0 epochs of 200 images, 1.00 trainings")),
        (["encode.views=[identity]", "train.flip=feature"], "0", ("15 min (VAE", "after 1.5 epochs of 200 images")),
        (["train.scenes=100"], "0", ("25 min (VAE", "after 5.0 epochs of 100 images, 1.00 trainings")),
        ([], "0.5", ("17 min (0.5 images a second, VAE and UNet together)", "after 2.5 epochs")),
        (["extract.timesteps=[0,100,200,300]"], "0.5", ("67 min (0.5", "at every timestep)", "after 10.0 epochs")),
    ],
)
def test_plan_counts_views_timesteps_and_the_test_split(
    store: FeatureStore, monkeypatch: pytest.MonkeyPatch, changes: list[str], rate: str, said: tuple[str, ...]
) -> None:
    monkeypatch.setattr("cache.budget.measure_disk", lambda root: FREE_DISK)
    monkeypatch.setattr("stages.forecasts.store.recorded_speed", lambda root: Speed(2.0, 1.0))
    options = [text for change in changes for text in ("--set", change)]
    lines = run("plan", "--rate", rate, "--set", "encode.checkpoint=none", *options).stdout
    for words in said:
        assert words in lines


def test_plan_counts_the_disk(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.budget.measure_disk", lambda root: FREE_DISK)
    params = load_params(PARAMS, ["encode.checkpoint=none", "extract.timesteps=[0,100,200,300]"])
    found = plan(params, QuietJob(), None, False, None)
    assert list(found.lines())[-1].startswith("hours: no rate known")
    # Writing takes 200 s beside the 3000 s of computing, reading an epoch 200 s against 600 s.
    disk = DiskRates(found.budget.nbytes / 200, 1000.0)
    *_, filled, pays = replace(found, speed=Speed(2.0, 1.0), disk=disk, image_bytes=1000).lines()
    assert filled.startswith("encode and extract: 53 min ")
    assert pays.startswith("break-even: after 8.0 epochs")
    assert pays.endswith("3.0 times as fast")
    *_, never = replace(found, speed=Speed(2.0, 1.0), disk=disk, image_bytes=3000).lines()
    assert "never" in never
    *_, none = replace(found, speed=Speed(2.0, 1.0), images=0).lines()
    assert none == "break-even: there are no training images"


def test_plan_counts_what_training_reads_of_an_image(store: FeatureStore) -> None:
    """One view, one timestep, and none of the taps that are only kept."""
    changes = ["encode.checkpoint=none", "encode.canvas=[64,64]", "extract.encoding=float16"]
    before = plan(load_params(PARAMS, changes), QuietJob(), 1.0, False, None).image_bytes
    more = ["extract.timesteps=[0,100]", f"extract.taps={[*load_params(PARAMS).extract.taps, 'mid-vit-out']}"]
    assert plan(load_params(PARAMS, [*changes, *more]), QuietJob(), 1.0, False, None).image_bytes == before


@pytest.mark.parametrize("size", ["5", "GB", "5 parsecs", "infGB", "nanGB", "-5GB", "0GB", "1e400TB"])
def test_a_size_that_is_none_is_refused(store: FeatureStore, size: str) -> None:
    done = run("plan", "--disk", size)
    assert done.exit_code == 2
    assert f"{size}: expected a size such as 500GB or 2TB" in done.output


@pytest.mark.parametrize("rate", ["-3", "nan", "inf"])
def test_a_rate_that_is_none_is_refused(store: FeatureStore, rate: str) -> None:
    done = run("plan", "--rate", rate)
    assert done.exit_code == 2
    assert f"{rate}: expected images per second, such as 0.5" in done.output
