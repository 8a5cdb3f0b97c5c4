"""Vectorised instance matching against one sample at a time."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from diffps.heads.config import OIMConfig
from diffps.heads.oim import BACKGROUND, OIM
from diffps.records import UNLABELLED
from tests.heads import reference

IDENTITIES, QUEUE, SIZE = 4, 3, 5
# Duplicates of an identity, more unlabelled persons than the queue is long, and empty batches all occur.
BATCHES = st.lists(st.lists(st.integers(BACKGROUND, IDENTITIES - 1), max_size=9), min_size=1, max_size=6)


def unit_rows(count: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(count, SIZE, generator=torch.Generator().manual_seed(seed)), dim=1)


@given(batches=BATCHES, momentum=st.sampled_from([0.0, 0.5, 0.9]), queue=st.sampled_from([0, 1, QUEUE]))
def test_steps_against_a_scalar_loop(batches: list[list[int]], momentum: float, queue: int) -> None:
    ours = OIM(OIMConfig(queue=queue, momentum=momentum), IDENTITIES, SIZE)
    plain = reference.OIM(IDENTITIES, queue, SIZE, momentum, 30.0)
    for step, labels in enumerate(batches):
        embeddings = unit_rows(len(labels), step)
        loss = ours(embeddings, torch.tensor(labels, dtype=torch.int64))
        ours.update()
        np.testing.assert_allclose(loss.item(), plain.loss(embeddings.double().numpy(), labels), atol=1e-4)
        plain.update(embeddings.double().numpy(), labels)
        np.testing.assert_allclose(ours.table, plain.table, atol=1e-5)
        np.testing.assert_allclose(ours.queue, plain.queue, atol=1e-5)
        assert int(ours.head) == plain.head


def test_gradient_is_that_of_the_memory_before_the_update() -> None:
    torch.manual_seed(0)
    oim = OIM(OIMConfig(queue=QUEUE), IDENTITIES, SIZE)
    oim(unit_rows(6, 0), torch.tensor([0, 1, 2, 3, -1, -1]))
    oim.update()
    embeddings, labels = unit_rows(3, 1).requires_grad_(), torch.tensor([2, BACKGROUND, 2])
    memory = torch.cat([oim.table, oim.queue]).double()
    plain = embeddings.detach().double().requires_grad_()
    F.cross_entropy(30 * plain[[0, 2]] @ memory.T, labels[[0, 2]]).backward()
    oim(embeddings, labels).backward()
    oim.update()
    torch.testing.assert_close(embeddings.grad.double(), plain.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labels", [[], [UNLABELLED, BACKGROUND], [BACKGROUND]])
def test_without_a_labelled_person_the_loss_and_its_gradient_are_zero(labels: list[int]) -> None:
    oim = OIM(OIMConfig(queue=QUEUE), IDENTITIES, SIZE)
    embeddings = unit_rows(len(labels), 0).requires_grad_()
    loss = oim(embeddings, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert loss == 0
    assert not embeddings.grad.any()


def test_duplicates_enter_in_sample_order() -> None:
    oim = OIM(OIMConfig(queue=0), IDENTITIES, SIZE)
    first, second = unit_rows(2, 0)
    oim(torch.stack([first, second]), torch.tensor([1, 1]))
    oim.update()
    expected = F.normalize(0.5 * F.normalize(0.5 * first, dim=0) + 0.5 * second, dim=0)
    torch.testing.assert_close(oim.table[1], expected)


def test_half_precision_embeddings_are_matched_in_full() -> None:
    oim = OIM(OIMConfig(queue=QUEUE), IDENTITIES, SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        loss = oim(unit_rows(2, 0).bfloat16(), torch.tensor([0, 1]))
    assert loss.dtype == torch.float32
    oim.update()
    assert oim.table.dtype == torch.float32
    torch.testing.assert_close(oim.table[:2].norm(dim=1), torch.ones(2))


def test_update_without_a_forward_does_nothing() -> None:
    oim = OIM(OIMConfig(queue=QUEUE), IDENTITIES, SIZE)
    oim.update()
    assert not oim.table.any()


def test_memory_is_part_of_the_state() -> None:
    assert set(OIM(OIMConfig(queue=QUEUE), IDENTITIES, SIZE).state_dict()) == {"table", "queue", "head"}
