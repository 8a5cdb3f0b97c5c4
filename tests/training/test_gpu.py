"""Heads on a CUDA GPU against the same heads on the CPU, and training there in every precision."""

import pytest
import torch

from diffps.schedule import SampleOrder, TrainingConfig
from diffps.training import HeadTrainer, train_heads
from tests.heads.scenes import scenes
from tests.heads.scenes import searcher as head
from tests.training.conftest import SCENES, TAPS, RandomSource, searcher, target

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]
GPU = torch.device("cuda")
LIKE = {"float32": 1e-6, "bfloat16": 0.4, "float16": 0.05}  # of the loss


def test_maps_and_embeddings_are_those_of_the_cpu() -> None:
    batch = scenes(4)
    here, there = head().eval(), head().eval().to(GPU)
    moved = {name: feature.to(GPU) for name, feature in batch.features.items()}
    own, other = here.intermediates(batch.features), there.intermediates(moved)
    for name in own:
        torch.testing.assert_close(other[name].cpu(), own[name], rtol=1e-3, atol=1e-3)
    boxes = [target.boxes for target in batch.targets]
    pairs = zip(here.embed(batch.features, boxes), there.embed(moved, [b.to(GPU) for b in boxes]), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-3)
    assert all(found.scores.min() >= 0 for found in there.detect(moved, score_threshold=0.0))


@pytest.mark.parametrize("precision", list(LIKE))
def test_training_stays_near_float32(precision: str) -> None:
    exact, found = losses("float32"), losses(precision)
    assert found == pytest.approx(exact, rel=LIKE[precision])


def losses(precision: str) -> list[float]:
    """Of the first four steps."""
    config = TrainingConfig(epochs=1, milestones=(), lr=1e-5, precision=precision, seed=1)
    order = SampleOrder(SCENES, 2, data_seed=1, flip=True)
    trainer = HeadTrainer(lambda: searcher(config), TAPS.names, config, order.batches_per_epoch, GPU)
    steps = train_heads({"head": trainer}, RandomSource(), order, target)
    return [results["head"].total for results in steps]
