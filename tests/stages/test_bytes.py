"""One answer to how many bytes an image costs: whoever forecasts or tells it, against the files really written."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from cache import ArraySpec
from cache.budget import DiskRates
from cache.shards import index_bytes
from diffps.taps import standard_taps
from pipeline.cli import app
from stages import encode, extract, sweep, train
from stages.features.opening import open_store
from stages.features.reading import Reading
from stages.forecasts.size import Sizes, budget, feature_bytes
from stages.forecasts.store import plan_store
from stages.job import QuietJob
from stages.page.cost import measure_cost
from stages.page.evidence import Evidence
from stages.text import size
from tests.world import STORE, Project, small_params

ENCODINGS = ("float16", "int8", "bitround:7", "project:8")
IMAGES = {"train": 8, "test": 6}
SHARD = 3
PARAMS = small_params()
# bitround:n is compressed, so what a plan says of it is an estimate: random weights' features take up to 5 % more, and
# Blosc's own header, which shows on grids of a few positions.
MORE, HEADER = 0.05, 64


@pytest.fixture(scope="module", params=ENCODINGS)
def project(request: pytest.FixtureRequest, encoded: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The drawn world extracted under one encoding alone, with maps of one attention head."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Project.copy_of(encoded, tmp_path_factory.mktemp("bytes") / "project", monkeypatch)
        made.change(extract={"encoding": request.param, "head": 1}, sweep={"file": "one.yaml"})
        Path("one.yaml").write_text("variants: {one: {}}")
        made.run(extract)
        yield made


def written(spec: ArraySpec) -> list[Path]:
    """The array's shards."""
    folders = [STORE / "features.zarr" / f"{spec.path}{suffix}" / "c" for suffix in spec.parts()]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file()]


def bytes_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def is_estimate(spec: ArraySpec) -> bool:
    return spec.encoding.name.startswith("bitround")


def test_an_array_knows_what_one_image_takes(project: Project) -> None:
    specs = project.plan().arrays()
    assert len(specs) == 3 * 5  # moments, three taps and a map of train, train mirrored, and test
    for spec in specs:
        paths, images = written(spec), IMAGES[spec.group.split]
        assert len(paths) == -(-images // SHARD) * len(spec.parts())
        chunks = bytes_of(paths) - len(paths) * index_bytes(SHARD)
        expected = images * spec.image_bytes
        slack = expected * MORE + images * HEADER if is_estimate(spec) else 0
        assert chunks == pytest.approx(expected, rel=0, abs=slack), spec.path


def test_every_command_and_the_page_say_the_same(project: Project) -> None:
    params, runtime, job = project.params(), project.runtime, QuietJob()
    reading = Reading.of(params.train, params.extract)
    specs = {spec.path: spec for spec in project.plan().arrays()}
    by_name = project.plan().specs("train", "identity", 0)
    image = sum(by_name[name].image_bytes for name in reading.names)

    def planned(steps: set[int | None]) -> int:
        """Shards of all arrays at these timesteps, as their files are."""
        arrays = [spec for spec in specs.values() if spec.group.timestep in steps]
        expected = sum(
            IMAGES[spec.group.split] * spec.image_bytes + len(written(spec)) * index_bytes(SHARD) for spec in arrays
        )
        if not any(map(is_estimate, arrays)):
            assert bytes_of([path for spec in arrays for path in written(spec)]) == expected
        return expected

    store = plan_store(params, SHARD, 10**12, None, DiskRates(1.0, 1.0))
    assert store.budget.nbytes == planned({None, 0})
    assert store.image_bytes == image
    assert f"training reads {size(image)} of an image" in CliRunner().invoke(app, ["cache", "plan"]).output
    assert f"moments, {size(planned({None}))} where" in encode.dry_run(params, runtime, job)
    assert f"-> {size(planned({0}))} in" in extract.dry_run(params, runtime, job)
    assert f"reads {size(image)} an image" in train.dry_run(params, runtime, job)
    assert f"reads {size(image)} an image" in sweep.dry_run(params, runtime, job)
    told = measure_cost(Evidence(params, open_store(str(STORE)), job)).nbytes
    assert told == sum(IMAGES[spec.group.split] * spec.image_bytes for spec in specs.values())


@given(
    sides=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    encoding=st.one_of(
        st.sampled_from(["float16", "int8"]),
        st.integers(1, 10).map(lambda bits: f"bitround:{bits}"),
        st.integers(1, 320).map(lambda channels: f"project:{channels}"),
    ),
    head=st.one_of(st.just("mean"), st.integers(0, 4)),
    flip=st.sampled_from(["cached", "feature", "none"]),
)
def test_what_training_reads_is_part_of_what_is_stored(
    sides: tuple[int, int], encoding: str, head: Any, flip: Any
) -> None:
    canvas = (64 * sides[0], 64 * sides[1])
    encode_, extract_ = replace(PARAMS.encode, canvas=canvas), replace(PARAMS.extract, encoding=encoding, head=head)
    reading, sizes = Reading.of(replace(PARAMS.train, flip=flip), extract_), Sizes(standard_taps(), 4)
    whole = budget({"train": 1, "test": 1}, encode_, extract_, SHARD, sizes)
    read = feature_bytes(reading, encode_, sizes)
    for split in ("train", "test"):
        for view in reading.views(split):
            stored = {
                array.spec.name: array.spec.image_bytes
                for array in whole.arrays
                if (array.spec.group.split, array.spec.group.view, array.spec.group.timestep) == (split, view, 0)
            }
            assert {reading.stored(name): nbytes for name, nbytes in read.items()}.items() <= stored.items()
