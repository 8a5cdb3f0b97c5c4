"""What holds of every family of priors, through the stages: cached equals live under every encoding, workers agree,
sizes and operations are known without weights."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from diffps.backbone.builtin.topology import make_random
from diffps.datasets.tables import read_scenes
from diffps.features import Ref
from stages import encode, extract, index
from stages.forecasts.operations import operations
from stages.forecasts.size import budget, image_counts, passes_only, sizes_of
from stages.job import QuietJob
from stages.params import Params, override
from stages.places import INDEX
from tests.backbone.dit import write_pixart, write_sd3
from tests.backbone.sdxl import write_sdxl
from tests.backbone.test_clip import write_model
from tests.backbone.test_timm import SMALL, write_folder
from tests.stages.test_other_priors import RUNTIME, make_params, source
from tests.world import Listener, files_below

ENCODINGS = ("float16", "int8", "bitround:7", "project:8")
MAPS = {"words": ["person"], "prompt": "a person"}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A small random model: ``make`` writes it into a folder, from a built-in checkpoint, and gives its name.

    ``taps`` lie on one grid; the map's word guides proposals.
    """

    make: Callable[[Path, Path], str]
    taps: tuple[str, ...]
    word_map: str | None = None
    parts: tuple[str, ...]


FAMILIES = {
    "vit": Family(
        make=lambda base, folder: f"timm:{write_folder(folder, 'vit_small_patch16_dinov3', {**SMALL, 'img_size': 64})}",
        taps=("vit-block01-q", "vit-norm"),
        parts=("model",),
    ),
    "cnn": Family(
        make=lambda base, folder: f"timm:{write_folder(folder, 'resnet10t', {})}",
        taps=("cnn-stage3-block00-out",),
        parts=("model",),
    ),
    "clip": Family(
        make=lambda base, folder: f"clip:{write_model(folder, 'clip')}",
        taps=("vit-block01-v", "vit-block02-out"),
        word_map="vit-text-map",
        parts=("model",),
    ),
    "siglip": Family(
        make=lambda base, folder: f"clip:{write_model(folder, 'siglip')}",
        taps=("vit-block01-v", "vit-norm"),
        word_map="vit-text-map",
        parts=("model",),
    ),
    "sdxl": Family(
        make=lambda base, folder: str(write_sdxl(base, folder)),
        taps=("up-level1-repeat0-vit-block0-self-k", "up-level1-repeat1-res-out"),
        word_map="up-level1-repeat0-vit-block0-cross-map",
        parts=("VAE", "UNet"),
    ),
    "pixart": Family(
        make=lambda base, folder: str(write_pixart(base, folder)),
        taps=("vit-block01-modulated", "vit-block02-self-k"),
        word_map="vit-block01-cross-map",
        parts=("VAE", "transformer"),
    ),
    "sd3": Family(
        make=lambda base, folder: str(write_sd3(base, folder)),
        taps=("joint-block01-img-modulated", "joint-block02-img-k"),
        word_map="joint-block01-map",
        parts=("VAE", "transformer"),
    ),
}


@dataclass(frozen=True)
class World:
    """Checkpoints by family, each made once it is asked for, below ``folder``."""

    folder: Path
    base: Path

    def checkpoint(self, name: str) -> str:
        if not (self.folder / name).exists():
            (self.folder / name).mkdir()
            (self.folder / f"{name}.txt").write_text(FAMILIES[name].make(self.base, self.folder / name))
        return (self.folder / f"{name}.txt").read_text()

    def params(self, name: str, **extract_keys: Any) -> Params:
        """The small demo on this prior, at a canvas that is no square."""
        family = FAMILIES[name]
        canvas = (64, 128)
        made = make_params(self.checkpoint(name), ("vit-norm",), canvas, name=name, **MAPS, **extract_keys)
        changes: dict[str, Any] = {
            "extract.taps": [*family.taps, *([family.word_map] if family.word_map else [])],
            "train.taps.level3": list(family.taps),
            "train.taps.detection": family.taps[-1],
        }
        if family.word_map:
            changes["train.taps.guidance"] = f"{family.word_map}.person"
            changes["train.model.dgrpn"] = {"delta": 2.0, "peak_window": 3, "neighbourhood": 5}
        return override(made, changes, "test")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A folder with the drawn streets indexed; the tests run in it."""
    made = World(tmp_path_factory.mktemp("models"), make_random(tmp_path_factory.mktemp("base") / "random"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("project"))
        index.run(made.params("vit"), RUNTIME, QuietJob())
        yield made


def both(params: Params, runtime: Any = RUNTIME, job: Any = None) -> None:
    for stage in (encode, extract):
        stage.run(params, runtime, job or QuietJob())


def features(params: Params, kind: str, names: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    """Of two training scenes, as they are and mirrored."""
    refs = [Ref(scene.scene_id, view) for scene in read_scenes(INDEX, "train")[:2] for view in ("identity", "hflip")]
    with source(params, kind) as opened:
        # A batch's tensors are good until the next one is asked for.
        stream = opened.stream([[ref] for ref in refs], list(names))
        return [{name: batch[name].dense().clone() for name in names} for batch in stream]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", FAMILIES)
def test_cached_equals_live_to_the_last_bit(world: World, name: str, encoding: str) -> None:
    params, family = world.params(name, encoding=encoding), FAMILIES[name]
    both(params)
    names = [*family.taps, *([f"{family.word_map}.person"] if family.word_map else [])]
    cached, live = (features(params, kind, names) for kind in ("cached", "live"))
    assert len(cached) == 4
    for one, other in zip(cached, live, strict=True):
        assert all(torch.equal(one[each], other[each]) for each in names)
    assert not torch.equal(cached[0][names[0]], cached[1][names[0]])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_two_workers_write_the_same_bytes_and_another_run_nothing(world: World, name: str) -> None:
    params = world.params(name)
    stores = [
        replace(RUNTIME, store=f"data/{name}-{store}", scheduler=scheduler)
        for store, scheduler in (("a", ""), ("b", "local:2"))
    ]
    for runtime in stores:
        both(params, runtime)
    one, other = (files_below(Path(runtime.store) / "features.zarr") for runtime in stores)
    assert one
    assert one == other
    job = Listener()
    extract.run(params, stores[0], job)
    assert job.lines == ["extract: nothing is missing"]


@pytest.mark.parametrize(
    "name", [name if name in ("vit", "sd3") else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_sizes_and_operations_need_no_weights(world: World, name: str, tmp_path: Path) -> None:
    params = world.params(name)
    prefix, _, folder = params.encode.checkpoint.rpartition(":")
    shutil.copytree(folder, tmp_path / "bare")
    for file in (tmp_path / "bare").rglob("*.safetensors"):
        save_file({}, file)
    checkpoint = f"{prefix}:{tmp_path / 'bare'}" if prefix else str(tmp_path / "bare")
    bare = override(params, {"encode.checkpoint": checkpoint}, "test")
    sizes = sizes_of(bare.encode, bare.extract)
    assert sizes == sizes_of(params.encode, params.extract)
    planned = passes_only(budget(image_counts(params.index), bare.encode, bare.extract, RUNTIME.shard, sizes))
    grid = sum(64 * 128 // tap.stride**2 * tap.channels for tap in map(sizes.taps.__getitem__, FAMILIES[name].taps))
    assert grid * (2 * 8 + 6) <= planned.nbytes < 3 * grid * (2 * 8 + 6)
    (line,) = operations(bare.encode, bare.extract)
    assert all(f"{part} " in line for part in FAMILIES[name].parts)
    assert [line] == list(operations(params.encode, params.extract))
