"""``diffps cache`` as a user sees it: over a small store, without a backbone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cache import ArraySpec, FeatureStore
from cache.verify import verify
from pipeline.cache_commands import app
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


def test_verify_names_the_damage_and_the_command(store: FeatureStore) -> None:
    assert "nothing damaged" in run("verify").stdout
    (file,) = (path for path in (store.root / "features.zarr" / spec().path / "c/0").rglob("*") if path.is_file())
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    found = run("verify")
    assert found.exit_code == 1
    assert "folder/000.jpg" in found.stdout
    assert "diffps cache verify --repair && diffps extract" in found.stdout
    assert "1 shards now count as missing" in run("verify", "--repair").stdout
    assert write(store, [spec("float16"), spec("int8")], ROWS) == [0]
    assert verify(store.root, store.arrays()) == []


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
    monkeypatch.setattr("stages.storage.wanted_arrays", lambda params, root: wanted)
    lines = run("explain").stdout.splitlines()
    assert len(lines) == 2
    assert 'recipe.pass.unet: "5678" != "1234"' in lines[0]
    assert "has no new@int8" in lines[1]


def test_gc_asks_first(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.storage.wanted_arrays", lambda params, root: [spec("int8")])
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
    from cache.budget import DiskRates

    monkeypatch.setattr("cache.budget.measure_disk", lambda root: DiskRates(1e9, 2e9))
    lines = run("plan", "--rate", "2", "--disk", "400MB", "--set", "encode.checkpoint=none").stdout
    assert "500 passes" in lines
    assert "DOES NOT FIT" in lines
    assert "break-even: after" in lines
    assert "on 400 MB would fit:" in lines
    assert "encoding project:64" in lines
    monkeypatch.setattr("cache.budget.measure_disk", lambda root: DiskRates(1e9, 1e3))
    assert "do not cache" in run("plan", "--rate", "50", "--set", "encode.checkpoint=none").stdout


@pytest.mark.parametrize("size", ["5", "GB", "5 parsecs"])
def test_a_size_that_is_none_is_refused(store: FeatureStore, size: str) -> None:
    assert run("plan", "--disk", size).exit_code == 2
