import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from diffps.geometry import Canvas
from diffps.probe.cells import Grid, drawn_positions
from diffps.probe.proposals import CANDIDATES, candidates

CANVAS = Canvas(128, 192)


@st.composite
def boxes(draw: st.DrawFn) -> np.ndarray:
    corners = draw(st.lists(st.tuples(st.floats(0, 180), st.floats(0, 120)), min_size=1, max_size=4))
    sizes = [(draw(st.floats(1, 192)), draw(st.floats(1, 128))) for _ in corners]
    found = [(x, y, min(x + w, 192), min(y + h, 128)) for (x, y), (w, h) in zip(corners, sizes, strict=True)]
    return np.array(found)


@given(boxes(), st.sampled_from([1, 2, 3, 6]), st.sampled_from([(16, 24), (4, 6), (2, 3), (1, 1)]))
def test_pooling_is_roi_align(found: np.ndarray, strips: int, size: tuple[int, int]) -> None:
    feature = torch.randn(1, 5, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = Grid(*size, CANVAS).pooling(found, strips)
    pooled = weights @ feature[0].flatten(1).T.numpy()
    scale = size[0] / 128
    rois = roi_align(feature, [torch.from_numpy(found)], (24, 12), spatial_scale=scale, sampling_ratio=1, aligned=True)
    expected = rois.reshape(len(found), 5, strips, -1).mean(3).transpose(1, 2)
    np.testing.assert_allclose(pooled, expected.numpy(), atol=1e-9)


@given(boxes(), st.sampled_from([(16, 24), (4, 6), (2, 3)]))
def test_every_position_belongs_to_the_smallest_box_that_claims_it(found: np.ndarray, size: tuple[int, int]) -> None:
    grid = Grid(*size, CANVAS)
    owner = grid.owners(found)
    areas = (found[:, 2:] - found[:, :2]).prod(1)
    middles = (found[:, :2] + found[:, 2:]) / 2
    for position, (x, y) in enumerate(grid.centres().tolist()):
        holds = (found[:, 0] <= x) & (x < found[:, 2]) & (found[:, 1] <= y) & (y < found[:, 3])
        from_corner = middles - (x, y) + np.array(grid.cell) / 2  # a middle between two positions is the second's
        held = ((from_corner >= 0) & (from_corner < grid.cell)).all(1)
        claims = np.flatnonzero(holds | held)
        if len(claims):
            assert areas[owner[position]] == areas[claims].min()
    # Nobody is lost between the positions of a coarse grid.
    hidden = [box for box in range(len(found)) if box not in owner]
    assert all((areas[owner[owner >= 0]] <= areas[box]).any() for box in hidden)


@given(boxes(), st.sampled_from([(16, 24), (4, 6), (2, 3), (1, 1)]))
def test_what_a_regression_has_to_give_is_what_proposals_are_made_of(found: np.ndarray, size: tuple[int, int]) -> None:
    """Offsets that are predicted without an error become the boxes that they were taken from."""
    grid = Grid(*size, CANVAS)
    owner = grid.owners(found)
    scores = torch.arange(len(owner), dtype=torch.float64)
    offsets, centres = torch.from_numpy(grid.offsets(found, owner).T), torch.from_numpy(grid.centres().T)
    made = candidates(scores, offsets, centres, CANVAS)
    ranked = np.argsort(-scores.numpy())[: len(made)]
    assert len(made) == min(len(owner), CANDIDATES)
    assert ((made >= 0) & (made <= [192, 128, 192, 128])).all()
    own = owner[ranked] >= 0
    np.testing.assert_allclose(made[own], found[owner[ranked][own]], atol=1e-3)
    assert not grid.offsets(found, owner)[owner < 0].any()


def test_offsets_lead_to_the_box() -> None:
    grid = Grid(4, 6, CANVAS)
    found = np.array([[20.0, 10, 60, 110]])
    owner = grid.owners(found)
    offsets = grid.offsets(found, owner)[owner >= 0]
    middles = grid.centres()[owner >= 0] + offsets[:, :2]
    np.testing.assert_allclose(middles, [[40, 60]] * len(middles))
    np.testing.assert_allclose(np.exp(offsets[:, 2:]), [[40, 100]] * len(middles))


def test_positions_are_drawn_by_scene_and_grid() -> None:
    first, order = drawn_positions(1000, 100, 0, "a")
    assert len(first) == 100
    assert len(set(first.tolist())) == 100
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(first, drawn_positions(1000, 100, 0, "a")[0])
    assert not np.array_equal(first, drawn_positions(1000, 100, 0, "b")[0])
    assert not np.array_equal(first, drawn_positions(1000, 100, 1, "a")[0])
    assert drawn_positions(7, 100, 0, "a")[0].tolist() == list(range(7))
