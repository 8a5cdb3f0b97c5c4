"""Batches of one size, worked ahead, and how many images they have."""

import threading
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cache import Encoded, SkippedImage
from diffps.backbone.latents import NoiseKey
from diffps.features import Ref
from diffps.geometry import Canvas
from stages.features.backbone import PassRunner, unet_batch, vae_batch
from stages.features.bases import BASIS_IMAGES, BASIS_POSITIONS, BasisFit, basis_sample
from stages.features.batches import ahead, chunks, padded
from stages.features.live import LiveSource
from stages.features.shards import Skipped
from stages.job import Runtime


def test_work_goes_so_far_ahead_and_comes_in_order() -> None:
    taken: list[int] = []

    def items() -> Any:
        for number in range(6):
            taken.append(number)
            yield number

    results = ahead(lambda number: 10 * number, items(), threads=2, depth=3)
    assert next(results) == 0
    assert taken == [0, 1, 2, 3]  # as many ahead as asked, and one for the one that was given out
    assert list(results) == [10, 20, 30, 40, 50]
    assert list(ahead(str, [1, 2], threads=1, depth=5)) == ["1", "2"]
    assert list(ahead(str, [], threads=1, depth=1)) == []


def test_what_nobody_waits_for_is_not_begun() -> None:
    began, go = list[int](), threading.Event()

    def work(number: int) -> int:
        began.append(number)
        assert number == 0 or go.wait(10)
        return number

    results = ahead(work, range(5), threads=1, depth=4)
    next(results)
    threading.Timer(0.05, go.set).start()
    results.close()  # type: ignore[attr-defined]
    assert len(began) <= 2


def test_chunks_and_padding_have_one_size() -> None:
    assert list(chunks("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(chunks([1, 2], 2)) == [[1, 2]]
    assert list(chunks([], 2)) == []
    one, two = torch.tensor([1.0, 2.0], dtype=torch.float64), torch.tensor([3.0, 4.0], dtype=torch.float64)
    found = padded([one, two], 4)
    assert found is not None
    assert found.tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert found.dtype == torch.float64
    alone = padded([one], 1)
    assert alone is not None
    assert alone.tolist() == [[1, 2]]
    assert padded([], 4) is None


def test_a_batch_is_what_was_asked_for_or_what_the_device_takes_well() -> None:
    assert (unet_batch(Runtime(), "cpu"), unet_batch(Runtime(shard=9), "cuda")) == (4, 9)
    assert (unet_batch(Runtime(batch=3), "cpu"), unet_batch(Runtime(batch=3), "cuda")) == (3, 3)
    assert vae_batch(Canvas(64, 64), "cpu") == 1
    assert [vae_batch(Canvas(*side), "cuda") for side in ((1024, 512), (1024, 1024), (2048, 2048))] == [4, 2, 1]


def scene(number: int, split: str) -> Any:
    return SimpleNamespace(scene_id=number, split=split)


def test_a_basis_is_fitted_on_a_seeded_sample_of_the_training_images() -> None:
    assert (BASIS_IMAGES, BASIS_POSITIONS) == (64, 1024)
    scenes = [scene(number, "test" if number % 5 == 0 else "train") for number in range(100)]
    chosen = [each.scene_id for each in basis_sample(scenes, 1)]
    assert len(chosen) == len(set(chosen)) == 64
    assert chosen == sorted(chosen) == [each.scene_id for each in basis_sample(scenes, 1)]
    assert all(number % 5 for number in chosen)
    assert chosen != [each.scene_id for each in basis_sample(scenes, 2)]
    few = [scene(number, "test") for number in range(3)]
    assert basis_sample(few, 1) == few


def test_positions_are_drawn_from_the_seed_and_all_of_a_small_image_count() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 30, 3)).astype(np.float32) * [3, 2, 1]
    bases = []
    for seed in (1, 1, 2):
        fit = BasisFit(seed)
        fit.add(rows)
        bases.append(fit.basis("project:2"))
    assert bases[0].vectors.shape == (3, 2) or bases[0].vectors.shape == (2, 3)
    np.testing.assert_array_equal(bases[0].mean, bases[1].mean)
    assert (bases[0].mean != bases[2].mean).any()  # 1024 of 1200 positions
    fit = BasisFit(3)
    small = rows[:10, :10]
    fit.add(small)
    np.testing.assert_allclose(fit.basis("project:1").mean, small.reshape(-1, 3).mean(0), rtol=1e-4, atol=1e-5)


def test_a_pass_fills_its_places_and_gives_back_what_was_asked() -> None:
    given: list[Any] = []

    def features(moments: torch.Tensor, timestep: int, keys: Any) -> dict[str, torch.Tensor]:
        given.append((moments.tolist(), timestep, keys))
        return {"tap": moments.to(torch.bfloat16) * 2, "map": moments + 1}

    runner = PassRunner.__new__(PassRunner)
    runner._pass = SimpleNamespace(features=features)  # type: ignore[assignment]
    keys = [NoiseKey("ab", "hflip"), NoiseKey("cd", "identity")]
    images = [(key, np.array([number], np.float32)) for number, key in enumerate(keys, 1)]
    rows = list(runner.features(images, 50, 3))
    assert given == [([[1.0], [2.0], [0.0]], 50, [*keys, NoiseKey("", "identity")])]
    assert [{name: value.tolist() for name, value in row.items()} for row in rows] == [
        {"tap": [2.0], "map": [2.0]},
        {"tap": [4.0], "map": [3.0]},
    ]
    assert (rows[0]["tap"].dtype, rows[0]["map"].dtype) == (np.float16, np.float32)
    assert (runner.tensors([], 50, 3), list(runner.features([], 50, 3)), len(given)) == ({}, [], 1)


class Counted(LiveSource):
    """Computes the number an image is called by; ``asked``: what each pass of the backbone was given."""

    def __init__(self, batch: int, skip: bool = False) -> None:
        self._batch, self._skip_unreadable, self.asked = batch, skip, list[list[str]]()
        self._bases = {"tap": None}
        self._scenes: Any = [SimpleNamespace(scene_id=name) for name in "abc"]
        self._images: Any = SimpleNamespace(is_readable=lambda scene: scene.scene_id == "b")

    def _compute(self, refs: Any, names: Any) -> Any:
        self.asked.append([ref.scene_id for ref in refs])
        for ref in refs:
            yield {name: Encoded(np.full((1, 1, 1, 1), float(ref.scene_id), np.float32), None) for name in names}


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_live_features_fill_the_backbone_s_batches_whatever_a_head_s_batch_is(size: int) -> None:
    source = Counted(2)
    numbers = [str(number) for number in range(5)]
    batches = [[Ref(name) for name in chunk] for chunk in chunks(numbers, size)]
    found = [feature["tap"].values.flatten().tolist() for feature in source.stream(batches, ["tap"])]
    assert found == [list(map(float, chunk)) for chunk in chunks(numbers, size)]
    assert source.asked == [["0", "1"], ["2", "3"], ["4"]]


def test_files_are_looked_through_where_some_may_be_left_out() -> None:
    assert Counted(2).skipped() == frozenset()
    assert Counted(2, skip=True).skipped() == {"a", "c"}


def test_an_image_that_cannot_be_read_is_named_before_anything_is_computed() -> None:
    source = LiveSource.__new__(LiveSource)
    source._latents = SimpleNamespace(keyed=lambda refs: iter([Skipped("torn")]))  # type: ignore[assignment]
    with pytest.raises(SkippedImage, match=r"^scene 'a': torn$"):
        list(source._compute([Ref("a")], ["tap"]))
