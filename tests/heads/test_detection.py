"""RoI sampling, RoIAlign, box losses and what is left after thresholds and NMS."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from diffps.heads.config_rois import BoxConfig, RPNConfig
from diffps.heads.detection import BoxHead, ProposalNetwork
from diffps.heads.sampling import Target, cut_rois, sample_rois
from tests.heads import reference

CANVAS = (64, 96)
NOBODY = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def random_boxes(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([70.0, 40.0])
    return torch.cat([corner, corner + 3 + torch.rand(count, 2, generator=generator) * 21], dim=1)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (area - width * height)


@given(
    candidates=st.integers(0, 60),
    persons=st.integers(0, 5),
    samples=st.integers(2, 40),
    fraction=st.sampled_from([0.25, 0.5, 0.75]),
)
def test_samples_keep_the_positive_fraction(candidates: int, persons: int, samples: int, fraction: float) -> None:
    boxes = random_boxes(candidates)
    target = Target(random_boxes(persons, 1), torch.arange(persons))
    limits = {"positive_iou": 0.5, "negative_iou": 0.3}
    found = sample_rois(boxes, target, samples=samples, positive_fraction=fraction, **limits)
    for box, person in zip(found.boxes.numpy(), found.person.tolist(), strict=True):
        overlaps = [iou(box, other) for other in target.boxes.numpy()]
        if person >= 0:
            assert overlaps[person] == max(overlaps) >= 0.5 - 1e-6
        else:
            assert max(overlaps) < 0.3
    positives, negatives = int((found.person >= 0).sum()), int((found.person < 0).sum())
    most_positive = max(1, int(samples * fraction))
    assert positives <= most_positive
    assert negatives <= samples - most_positive
    # Equal shares of both sides, up to rounding down.
    assert abs(positives / most_positive - negatives / (samples - most_positive)) < max(
        1 / most_positive, 1 / (samples - most_positive)
    )


def test_an_image_without_persons_gives_no_samples() -> None:
    found = sample_rois(random_boxes(9), NOBODY, samples=8, positive_iou=0.5, negative_iou=0.5, positive_fraction=0.5)
    assert found.boxes.shape == (0, 4)
    assert found.person.shape == (0,)


def test_sampling_follows_the_global_generator() -> None:
    def draw() -> torch.Tensor:
        torch.manual_seed(7)
        target = Target(random_boxes(3, 1), torch.arange(3))
        return sample_rois(
            random_boxes(50), target, samples=10, positive_iou=0.5, negative_iou=0.3, positive_fraction=0.5
        ).boxes

    assert torch.equal(draw(), draw())


def test_roi_align() -> None:
    """Boxes that leave the map, tiny ones, and both images of a batch."""
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    boxes = [torch.cat([random_boxes(3), torch.tensor([[80.0, 50, 96, 64], [10, 10, 11, 10.5]])]), random_boxes(2, 5)]
    ours = cut_rois(x.to(memory_format=torch.channels_last), boxes, (4, 3), CANVAS, 2)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    expected = [
        reference.roi_align(reference.array(x[image]), box.double().numpy(), (4, 3), 1 / 8, 2)
        for image, rows in enumerate(boxes)
        for box in rows
    ]
    np.testing.assert_allclose(ours.numpy(), np.stack(expected), atol=1e-4)


class Body(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def box_head(**changes: object) -> BoxHead:
    torch.manual_seed(0)
    return BoxHead(BoxConfig(grid=(3, 2), samples=12, **changes), Body(), 6, CANVAS)


def test_losses_and_decoding_against_numpy() -> None:
    head, features = box_head(), torch.randn(2, 6, 8, 12)
    targets = [Target(random_boxes(3, 1), torch.tensor([0, -1, 2])), Target(random_boxes(2, 2), torch.tensor([1, 1]))]
    seen: dict[str, torch.Tensor] = {}

    def remember(module: nn.Module, inputs: tuple, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen.update(boxes=torch.cat(list(inputs[1])), scores=outputs[0].detach(), deltas=outputs[1].detach())
        seen["counts"] = torch.tensor([len(boxes) for boxes in inputs[1]])

    head.register_forward_hook(remember)
    decoded, losses = head.learn(features, [random_boxes(40, 3), random_boxes(40, 4)], targets)

    boxes, scores, deltas = (seen[name].double().numpy() for name in ("boxes", "scores", "deltas"))
    truths = [targets[0]] * int(seen["counts"][0]) + [targets[1]] * int(seen["counts"][1])
    cls, reg = [], []
    probabilities = reference.softmax(scores, axis=1)
    for box, probability, delta, truth in zip(boxes, probabilities, deltas, truths, strict=True):
        overlaps = [iou(box, person) for person in truth.boxes.double().numpy()]
        positive = max(overlaps) >= 0.5
        cls.append(-np.log(probability[int(positive)]))
        if positive:
            person = truth.boxes[int(np.argmax(overlaps))].double().numpy()
            difference = np.abs(delta - encode(person, box))
            reg.append(np.where(difference < 1, 0.5 * difference**2, difference - 0.5).sum())
    assert reg
    np.testing.assert_allclose(losses["prop_cls"].item(), np.mean(cls), rtol=1e-4)
    np.testing.assert_allclose(losses["prop_reg"].item(), np.sum(reg) / len(boxes), rtol=1e-4)

    expected = np.array([decode(delta, box) for delta, box in zip(deltas, boxes, strict=True)])
    kept = ((expected[:, 2:] - expected[:, :2]) >= 1e-2).all(1)
    np.testing.assert_allclose(torch.cat(decoded).numpy(), expected[kept], atol=1e-3)
    assert not decoded[0].requires_grad


def centre(box: np.ndarray) -> np.ndarray:
    return np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]])


def encode(person: np.ndarray, box: np.ndarray) -> np.ndarray:
    p, b = centre(person), centre(box)
    return np.concatenate([10 * (p[:2] - b[:2]) / b[2:], 5 * np.log(p[2:] / b[2:])])


def decode(delta: np.ndarray, box: np.ndarray) -> np.ndarray:
    b = centre(box)
    middle, size = b[:2] + delta[:2] / 10 * b[2:], b[2:] * np.exp(np.minimum(delta[2:] / 5, np.log(1000 / 16)))
    corners = np.concatenate([middle - size / 2, middle + size / 2])
    return np.clip(corners, 0, np.array([CANVAS[1], CANVAS[0]] * 2))


def test_detections_are_strong_apart_and_few() -> None:
    head = box_head(detections=5).eval()
    proposals = [random_boxes(60, 3), random_boxes(0), random_boxes(30, 4)]
    found = head.detect(torch.randn(3, 6, 8, 12), proposals, 0.3)
    assert len(found[1].boxes) == 0
    for persons in found:
        assert len(persons.boxes) <= 5
        assert (persons.scores > 0.3).all()
        assert (persons.scores.diff() <= 0).all()
        for i, box in enumerate(persons.boxes.detach().numpy()):
            assert all(iou(box, other) <= 0.4 for other in persons.boxes[:i].detach().numpy())


def test_nothing_proposed_is_nothing_found() -> None:
    found = box_head().eval().detect(torch.randn(2, 6, 8, 12), [torch.zeros(0, 4)] * 2, 0.5)
    assert [(persons.boxes.shape, persons.scores.shape) for persons in found] == [((0, 4), (0,))] * 2


def test_proposals_lie_in_the_canvas_and_learn_from_empty_images() -> None:
    torch.manual_seed(0)
    network = ProposalNetwork(RPNConfig(anchor_sizes=(16, 32)), 6, CANVAS)
    features = torch.randn(2, 6, 8, 12, requires_grad=True)
    proposals, losses = network(features, [NOBODY, NOBODY])
    assert set(losses) == {"rpn_cls", "rpn_reg"}
    assert losses["rpn_reg"] == 0
    losses["rpn_cls"].backward()
    assert features.grad.any()
    for boxes in proposals:
        assert (boxes >= 0).all()
        assert (boxes[:, [0, 2]] <= CANVAS[1]).all()
        assert (boxes[:, [1, 3]] <= CANVAS[0]).all()


def test_anchors_cover_a_canvas_that_is_no_square() -> None:
    network = ProposalNetwork(RPNConfig(anchor_sizes=(16,), anchor_ratios=(1.0,)), 6, CANVAS).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    proposals, _ = network(torch.zeros(1, 6, 8, 12))
    centres = (proposals[0][:, :2] + proposals[0][:, 2:]) / 2
    assert centres[:, 0].max() > 80
    assert centres[:, 1].max() > 50


def test_anchors_follow_the_map_to_its_device_and_stay_exact() -> None:
    anchors = ProposalNetwork(RPNConfig(anchor_sizes=(16,)), 6, CANVAS).rpn.anchor_generator
    anchors.set_cell_anchors(torch.float16, torch.device("meta"))
    (moved,) = anchors.cell_anchors
    assert (moved.dtype, moved.device.type, tuple(moved.shape)) == (torch.float32, "meta", (3, 4))


SIDES = st.floats(0.25, 60, width=32)
CORNERS = st.floats(-10, 100, width=32)
BOXES = st.lists(st.tuples(CORNERS, CORNERS, SIDES, SIDES), min_size=1, max_size=5)


def as_boxes(rows: list[tuple[float, ...]]) -> torch.Tensor:
    corners, sides = torch.tensor(rows).split(2, dim=1)
    return torch.cat([corners, corners + sides], dim=1)


@given(BOXES, BOXES)
def test_decoding_undoes_encoding_within_the_canvas(
    proposals: list[tuple[float, ...]], persons: list[tuple[float, ...]]
) -> None:
    count = min(len(proposals), len(persons))
    boxes, wanted = as_boxes(proposals[:count]), as_boxes(persons[:count])
    head = box_head()
    deltas = head.coder.encode_single(wanted, boxes)
    pairs = zip(wanted.double().numpy(), boxes.double().numpy(), strict=True)
    np.testing.assert_allclose(deltas, [encode(person, box) for person, box in pairs], rtol=1e-3, atol=1e-2)
    decoded, kept = head._decode(deltas, boxes)
    cut = wanted.clamp(min=torch.zeros(4), max=torch.tensor([CANVAS[1], CANVAS[0]] * 2))
    # A person more than 62.5 times as large as the proposal is decoded smaller.
    reached = ((wanted[:, 2:] - wanted[:, :2]) / (boxes[:, 2:] - boxes[:, :2]) < 62).all(1)
    sides = (cut[:, 2:] - cut[:, :2]).amin(1)
    for row in torch.nonzero(reached & (sides > 0.05))[:, 0].tolist():
        (place,) = torch.nonzero(kept == row)[:, 0].tolist()
        torch.testing.assert_close(decoded[place], cut[row], atol=2e-2, rtol=0)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert ((decoded >= 0) & (decoded <= torch.tensor([CANVAS[1], CANVAS[0]] * 2))).all()
    assert (decoded[:, 2:] > decoded[:, :2]).all()


@given(
    st.lists(st.tuples(st.floats(8, 40), st.floats(8, 24), st.floats(1, 40), st.floats(1, 24)), min_size=1, max_size=4),
    st.sampled_from([(1, 1), (3, 2), (4, 4)]),
    st.integers(1, 3),
)
def test_a_roi_of_the_map_of_places_is_its_bins_centres(
    rows: list[tuple[float, ...]], grid: tuple[int, int], samples: int
) -> None:
    """A map whose values are its own x and y, cut at boxes inside it: so RoIs lie where their boxes do."""
    x, y = torch.arange(12.0), torch.arange(8.0)
    places = torch.stack([x.expand(8, 12), y[:, None].expand(8, 12)])[None]
    boxes = as_boxes(rows)
    found = cut_rois(places, [boxes], grid, CANVAS, samples)
    for (x1, y1, x2, y2), roi in zip((boxes / 8).tolist(), found, strict=True):
        # torchvision gives a box at least one position in each direction.
        wide, high = max(x2 - x1, 1), max(y2 - y1, 1)
        columns = x1 + (np.arange(grid[1]) + 0.5) / grid[1] * wide
        lines = y1 + (np.arange(grid[0]) + 0.5) / grid[0] * high
        np.testing.assert_allclose(roi[0].numpy(), np.tile(columns, (grid[0], 1)), atol=1e-4)
        np.testing.assert_allclose(roi[1].numpy(), np.tile(lines[:, None], (1, grid[1])), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coordinates_stay_exact_in_half_precision(dtype: torch.dtype) -> None:
    """A network of zeros proposes its anchors: the same ones, whatever the type of the map."""
    torch.manual_seed(0)
    canvas = (1024, 1536)
    network = ProposalNetwork(RPNConfig(anchor_sizes=(48,), anchor_ratios=(0.5,)), 6, canvas).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        exact, _ = network(torch.zeros(1, 6, 16, 24))
        with torch.autocast("cpu", dtype):
            half, _ = network(torch.zeros(1, 6, 16, 24, dtype=dtype))
    assert half[0].dtype == torch.float32
    assert torch.equal(half[0], exact[0])


def test_rois_of_a_half_precision_map_lie_where_they_should() -> None:
    ramp = torch.arange(192.0).expand(1, 1, 128, 192)
    boxes = [torch.tensor([[1001.0, 500, 1013, 530]])]
    exact = cut_rois(ramp, boxes, (2, 2), (1024, 1536), 2)
    half = cut_rois(ramp.half(), boxes, (2, 2), (1024, 1536), 2)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), exact, atol=0.05, rtol=0)
