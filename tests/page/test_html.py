"""What becomes of numbers, pictures and rows on their way into HTML."""

import base64
import io
import math

import numpy as np
import pytest
from PIL import Image

from diffps.figures.sheets import Row, Sheet, Tile
from stages.page.content import Cell, change, share
from stages.page.html import QUALITIES, few, is_cell, number, paired, picture


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (0.123456, "0.1235"),
        (12345.6, "1.235e+04"),
        (7, "7"),
        ("a", "a"),
        (0.0, "0"),
    ],
)
def test_numbers_are_short(value: object, text: str) -> None:
    assert number(value) == text
    assert not is_cell(value)
    assert is_cell(Cell(1.0, "1 %"))


@pytest.mark.parametrize(
    ("tiles", "tall", "columns"),
    [
        # Of scenes two, three or four beside each other, of persons four or five: the fewest gaps in three rows.
        *((1, False, 2), (2, False, 2), (3, False, 3), (4, False, 2), (5, False, 2), (6, False, 2), (7, False, 4)),
        *((8, False, 4), (9, False, 3), (10, False, 4), (12, False, 4), (13, False, 4), (20, False, 4)),
        *((1, True, 4), (4, True, 4), (5, True, 5), (8, True, 4), (10, True, 5), (13, True, 5), (16, True, 5)),
    ],
)
def test_a_phone_shows_as_many_columns_as_leave_few_gaps(tiles: int, tall: bool, columns: int) -> None:
    assert few(tiles, tall) == columns


def test_short_rows_stand_beside_each_other() -> None:
    tile = Tile(image=np.zeros((2, 2, 3), np.uint8))
    for longest, beside in ((1, True), (2, True), (3, False)):
        rows = (Row(label="a", tiles=(tile,)), Row(label="b", tiles=(tile,) * longest))
        assert paired(Sheet(title="t", rows=rows)) is beside


def test_a_picture_is_kept_in_whichever_format_is_smaller() -> None:
    flat = np.full((64, 64, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for image, kind in ((flat, "png"), (noise, "jpeg")):
        head, _, data = picture(image).partition(",")
        assert head == f"data:image/{kind};base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
            assert opened.size == (64, 64)
            assert kind == "jpeg" or np.array_equal(np.asarray(opened), image)
    assert len(picture(noise, 30)) < len(picture(noise, 90)) / 1.5
    assert picture(noise) == picture(noise, max(QUALITIES))


def test_fractions_sort_by_their_value_and_read_in_percent() -> None:
    assert (share(0.1234), share(None)) == (Cell(0.1234, "12.3 %"), Cell(None, "–"))
    assert change(None) == Cell(None, "–")
    assert change(-0.0123) == Cell(-0.0123, "-1.2 points")
    assert change(0.5, 0.004) == Cell(0.5, "+50.0 points ± 0.4")


def test_a_case_of_three_pictures_is_a_line_on_a_phone() -> None:
    assert few(9, True, 3) == 3


def test_a_photograph_is_first_tried_at_a_quality_of_82() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "jpeg", quality=82, optimize=True)
    assert picture(noise) == f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    assert list(QUALITIES) == sorted(QUALITIES, reverse=True)
