"""Suppression that ends early, and proposals chosen with it, are torchvision's."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import nms

import diffps.suppression
from diffps.heads.config_rois import RPNConfig
from diffps.heads.detection import ProposalNetwork
from diffps.suppression import suppress


@given(
    seed=st.integers(0, 2**31),
    count=st.integers(0, 300),
    crowded=st.sampled_from([5.0, 50.0, 500.0]),
    overlap=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    most=st.sampled_from([0, 1, 7, 1000]),
    ties=st.booleans(),
)
def test_the_first_of_torchvisions(
    seed: int, count: int, crowded: float, overlap: float, most: int, ties: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * crowded
    boxes = torch.cat([corner, corner + 0.1 + 40 * torch.rand(count, 2, generator=generator)], dim=1)
    scores = torch.rand(count, generator=generator)
    if ties:  # saturated scores are equal: the earlier box comes first
        scores, boxes = scores.round(decimals=1), boxes.round()
        boxes[:, 2:] += 1
    assert torch.equal(suppress(boxes, scores, overlap, most), nms(boxes, scores, overlap)[:most])


@pytest.mark.parametrize("training", [True, False])
def test_proposals_are_those_of_torchvisions_network(training: bool) -> None:
    torch.manual_seed(0)
    config = RPNConfig(train_before_nms=400, train_after_nms=30, test_before_nms=200, test_after_nms=9)
    network = ProposalNetwork(config, 16, (128, 96)).train(training)
    with torch.no_grad():
        network.rpn.head.cls_logits.weight.mul_(100)
        network.rpn.head.bbox_pred.weight.mul_(30)  # some boxes leave the canvas, some vanish
    anchors = 16 * 12 * network.rpn.anchor_generator.num_anchors_per_location()[0]
    proposals = torch.rand(2, anchors, 2) * 120 - 10
    proposals = torch.cat([proposals, proposals + torch.rand(2, anchors, 2) * 60 - 2], dim=2)
    logits = 30 * torch.randn(2, anchors, 1)  # the largest are 1 after the sigmoid
    arguments = (proposals, logits, [(128, 96)] * 2, [anchors])
    ours = network.rpn.filter_proposals(*arguments)
    theirs = RegionProposalNetwork.filter_proposals(network.rpn, *arguments)
    for mine, other in zip((*ours[0], *ours[1]), (*theirs[0], *theirs[1]), strict=True):
        assert torch.equal(mine, other)
    assert max(map(len, ours[0])) == (30 if training else 9)


def test_a_gpu_has_torchvisions_own_and_a_cpu_looks_no_further_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []

    def found(*arguments: object) -> torch.Tensor:
        asked.append(arguments)
        return torch.arange(5)

    monkeypatch.setattr(diffps.suppression, "nms", found)
    boxes, scores = torch.tensor([[0.0, 0, 1, 1], [5, 5, 6, 6]]), torch.tensor([0.1, 0.2])
    assert suppress(boxes, scores, 0.5, 2).tolist() == [1, 0]
    assert not asked
    elsewhere: Any = SimpleNamespace(device=torch.device("cuda"))
    assert suppress(elsewhere, scores, 0.5, 3).tolist() == [0, 1, 2]
    assert asked == [(elsewhere, scores, 0.5)]
