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
from stages.config_data import ExtractConfig
from stages.features.upkeep import explain, repairs
from stages.forecasts.speed import Speed
from stages.forecasts.store import StorePlan, plan_store
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


def damage(store: FeatureStore, change: bytes | None = None) -> None:
    """One byte of the shard of tap@int8 flipped; with ``change`` other content."""
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data if change is None else change)


def test_verify_names_the_damage_and_the_command(store: FeatureStore) -> None:
    assert "nothing damaged" in run("verify").stdout
    damage(store)
    found = run("verify", "--set", "encode.checkpoint=none")
    assert found.exit_code == 1
    assert "folder/000.jpg" in found.stdout
    given = f"--params {PARAMS} --set runtime.store=store --set encode.checkpoint=none"
    assert f"to repair: diffps cache verify {given} --repair && diffps extract {given}\n" in found.stdout
    repaired = run("verify", "--set", "encode.checkpoint=none", "--repair").stdout
    assert f"1 shards now count as missing; `diffps extract {given}` writes" in repaired
    assert write(store, [spec("float16"), spec("int8")], ROWS) == [0]
    assert verify(store.root, store.arrays()) == []


def test_repairs_are_the_commands_whose_parameters_make_the_array() -> None:
    extract = ExtractConfig(taps=("mid-vit-out",))

    def wanted(section: ExtractConfig) -> list[ArraySpec]:
        return [spec(section.encoding)]

    assert repairs(extract, wanted, [spec("int8")]) == ([["extract"]], [])
    changed = [["extract", "--set", "extract.encoding=float16"], ["extract"]]
    assert repairs(extract, wanted, [spec("int8"), spec("float16")]) == (changed, [])


def test_verify_names_no_command_for_what_other_parameters_made(store: FeatureStore) -> None:
    damage(store, b"")
    lines = run("verify").stdout.splitlines()  # builtin:streets makes none of these arrays
    assert lines[-2].startswith(f"{spec().path}: {PARAMS} makes this under no encoding or head; run again")
    assert lines[-1] == f"to repair: diffps cache verify --params {PARAMS} --set runtime.store=store --repair"
    assert run("verify", "--repair").stdout.endswith("1 shards now count as missing\n")


def test_verify_names_the_stage_without_a_checkpoint(store: FeatureStore) -> None:
    damage(store, b"")
    given = f"--params {PARAMS} --set runtime.store=store --set encode.checkpoint=none"
    found = run("verify", "--set", "encode.checkpoint=none").stdout
    assert f"--repair && diffps extract {given}\n" in found
    assert "under no encoding" not in found


def test_explain_names_the_fields_of_two_arrays(store: FeatureStore) -> None:
    done = run("explain", spec("int8").path, spec("float16").path)
    assert 'encoding.name: "int8" != "float16"' in done.stdout
    assert "are equal" in run("explain", spec().path, spec().path).stdout
    assert "pass.unet 1234" in run("explain", spec().path).stdout


def test_explain_says_why_something_would_be_extracted(store: FeatureStore) -> None:
    other = spec("float16", recipe={"unet": "5678", "prompt": "person"})
    first, second = explain([spec("int8"), other, spec(tap="new")], store)
    assert 'recipe.pass.unet: "5678" != "1234"' in first
    assert "has no new@int8" in second
    assert "differs from what is there" in run("explain").stdout or "the store has no" in run("explain").stdout


def test_gc_asks_first(store: FeatureStore) -> None:
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
    assert store.arrays() == []
    assert "nothing to delete" in gc().stdout


def test_export_and_stats(store: FeatureStore) -> None:
    assert "6 files" in run("export", spec().path, "--to", "out").stdout
    assert np.load(Path("out") / ROWS[2][0] / "tap@int8.npy").shape == spec().shape
    found = run("stats", spec().path, "--to", "stats.npz").stdout
    assert "6 images of 20 x 18 x 12" in found
    assert "99.0% of the variance" in found
    assert np.load("stats.npz")["mean"].shape == (12,)


ONE_ENCODING = ("--set", "encode.checkpoint=none", "--set", "extract.encoding=int8", "--set", "extract.transcode=[]")


def test_plan_says_what_it_costs_and_what_would_fit(store: FeatureStore) -> None:
    lines = run("plan", "--rate", "2", "--disk", "400MB", *ONE_ENCODING).stdout
    assert "500 passes" in lines
    assert "DOES NOT FIT" in lines
    assert "break-even: after" in lines
    assert "on 400 MB would fit:" in lines
    assert "encoding project:64" in lines


FREE_DISK = DiskRates(1e30, 1e30)
RECORDED = Speed(2.0, 1.0)


def planned(changes: list[str], speed: Speed | None = RECORDED, disk: DiskRates = FREE_DISK) -> StorePlan:
    params, runtime = load_params(PARAMS, ["encode.checkpoint=none", "train.epochs=5", *changes])
    return plan_store(params, runtime.shard, 10**12, speed, disk)


@pytest.mark.parametrize(
    ("changes", "speed", "said"),
    [
        # 200 training images in two views and 100 test images: 500 through the VAE (2 s), 500 a timestep through the
        # UNet (1 s); an epoch computed anew is 200 x 3 s.
        ([], RECORDED, ("25 min 00 s (VAE 2 s an image, UNet 1 s a pass)", "after 2.5 epochs of 200 images, 0.50 ")),
        (["extract.timesteps=[0,100,200,300]"], RECORDED, ("50 min 00 s (VAE", "after 5.0 epochs of 200 images, 1.00")),
        (["encode.views=[identity]", "train.flip=feature"], RECORDED, ("15 min 00 s (VAE", "after 1.5 epochs of 200")),
        (["train.scenes=100"], RECORDED, ("25 min 00 s (VAE", "after 5.0 epochs of 100 images, 1.00 trainings")),
        ([], Speed(None, 2.0), ("16 min 40 s (0.5 images a second, VAE and UNet together)", "after 2.5 epochs")),
        (["extract.timesteps=[0,100,200,300]"], Speed(None, 2.0), ("1 h 07 min (0.5", "at every timestep)", "10.0 ep")),
    ],
)
def test_plan_counts_views_timesteps_and_the_test_split(changes: list[str], speed: Speed, said: list[str]) -> None:
    lines = "\n".join(planned(changes, speed).lines())
    for words in said:
        assert words in lines


def test_plan_counts_the_disk() -> None:
    found = planned(["extract.timesteps=[0,100,200,300]"], None)
    assert list(found.lines())[-1].startswith("hours: no rate known")
    # Writing takes 200 s beside the 3000 s of computing, reading an epoch 200 s against 600 s.
    disk = DiskRates(found.budget.nbytes / 200, 1000.0)
    *_, filled, pays = replace(found, speed=RECORDED, disk=disk, image_bytes=1000).lines()
    assert filled.startswith("encode and extract: 53 min ")
    assert pays.startswith("break-even: after 8.0 epochs")
    assert pays.endswith("3.0 times as fast")
    *_, never = replace(found, speed=RECORDED, disk=disk, image_bytes=3000).lines()
    assert "do not cache" in never
    *_, none = replace(found, speed=RECORDED, images=0).lines()
    assert none == "break-even: there are no training images"


def test_plan_counts_what_training_reads_of_an_image() -> None:
    """One view, one timestep, and none of the taps that are only kept."""
    changes = ["encode.canvas=[64,64]", "extract.encoding=float16"]
    taps = load_params(PARAMS)[0].extract.taps
    more = ["extract.timesteps=[0,100]", f"extract.taps={[*taps, 'mid-vit-out']}"]
    assert planned([*changes, *more]).image_bytes == planned(changes).image_bytes


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
