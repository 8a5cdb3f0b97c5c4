"""A sweep spread over two processes on drawn scenes, store and all, against the same sweep in this process."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from stages import encode, extract, index, sweep
from stages.job import QuietJob
from stages.params import Params, override
from stages.typed import build
from stages.variants import FOLDER, plan_passes, read_variants
from tests.tiny import tiny_raw

# Another batch size is another pass: two passes for two workers.
SWEEP = "variants: {two: {batch: 2}, four: {batch: 4}}"


@pytest.mark.slow
def test_two_processes_train_the_same_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweep.yaml").write_text(SWEEP)
    params = override(build(Params, tiny_raw(), "tests"), {"evaluate.baseline": False}, "tests")
    job = QuietJob(params.runtime)
    for stage in (index, encode, extract):
        stage.run(params, job)
    variants = read_variants(params)
    assert len(plan_passes(variants)) == 2
    sweep.run(params, QuietJob(replace(params.runtime, scheduler="local:2")))
    table = (FOLDER / "table.csv").read_text()
    spread = [load_file(variant.folder / "head" / "model.safetensors") for variant in variants]
    FOLDER.rename("spread")
    sweep.run(params, job)
    for variant, there in zip(variants, spread, strict=True):
        here = load_file(variant.folder / "head" / "model.safetensors")
        assert all((here[name] == tensor).all() for name, tensor in there.items())
    assert table.count("done") == 2
