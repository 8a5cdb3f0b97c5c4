"""Tiles on a phone: no gap that need not be, no case torn apart."""

import pytest

from stages.page.html import few


@pytest.mark.parametrize(
    ("tiles", "tall", "together", "columns"),
    [(9, True, 3, 3), (6, True, 3, 3), (8, True, 1, 4), (10, True, 1, 5), (4, False, 1, 2), (9, False, 1, 3)],
)
def test_columns(tiles: int, tall: bool, together: int, columns: int) -> None:
    assert few(tiles, tall, together) == columns
