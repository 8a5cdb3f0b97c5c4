import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.ops import roi_align

from diffps.geometry import Canvas
from diffps.probe.cells import Grid

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
    weights = Grid(*size, CANVAS).strips(found, strips).dense()
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


@given(boxes(), st.sampled_from([(16, 24), (4, 6), (2, 3)]))
def test_parts_of_a_window_lie_where_they_are_said_to(found: np.ndarray, size: tuple[int, int]) -> None:
    weights = Grid(*size, CANVAS).parts(found).dense()
    np.testing.assert_allclose(weights.sum(-1), 1)
    x, y = Grid(*size, CANVAS).centres().T
    limits = np.array([192 / size[1], 128 / size[0]]) / 2
    for (x1, y1, x2, y2), (middle, ends, sides) in zip(found, weights, strict=True):
        at = np.clip([(x1 + x2) / 2, (y1 + y2) / 2], limits, [192, 128] - limits)
        third = np.array([x2 - x1, y2 - y1]) / 4 + 2 * limits  # half of the middle third, and what is bilinear
        assert (np.abs(np.stack([x, y], 1) - at)[middle > 0] <= third + 1e-9).all()
        # Mirrored, a picture has the same parts.
        mirrored = Grid(*size, CANVAS).parts(np.array([[192 - x2, y1, 192 - x1, y2]])).dense()[0]
        for part, other in zip((middle, ends, sides), mirrored, strict=True):
            np.testing.assert_allclose(part.reshape(size)[:, ::-1], other.reshape(size), atol=1e-9)


def test_a_window_of_thirds() -> None:
    # Half as large again it covers 3 x 3 positions of 32 pixels, from (0, 32) to (96, 128).
    middle, ends, sides = Grid(4, 6, CANVAS).parts(np.array([[16.0, 48, 80, 112]])).dense().reshape(3, 4, 6)
    assert [part.argmax() for part in (middle,)] == [2 * 6 + 1]
    assert ends[2].sum() < ends[1].sum()
    assert sides[:, 1].sum() < sides[:, 0].sum()
    assert ends[0].sum() < 0.15  # bilinear
    assert sides[:, 4:].sum() == 0
