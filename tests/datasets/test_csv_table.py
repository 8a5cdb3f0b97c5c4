"""A table of persons: what its headings mean and how it is written, without any image."""

from pathlib import Path

import pytest

from diffps.datasets.csv_table import Table, read_table
from diffps.errors import DatasetError

HEAD = "split,image,x,y,w,h,person"


def read(tmp_path: Path, *lines: str, identity: str = "") -> Table:
    (tmp_path / "p.csv").write_text("\n".join(lines), encoding="utf-8")
    return read_table(tmp_path / "p.csv", identity)


def refused(tmp_path: Path, *lines: str, identity: str = "") -> str:
    with pytest.raises(DatasetError) as caught:
        read(tmp_path, *lines, identity=identity)
    return str(caught.value).replace(str(tmp_path / "p.csv"), "FILE")


def test_rows_carry_the_line_they_end_in_and_cells_by_meaning(tmp_path: Path) -> None:
    table = read(
        tmp_path, HEAD + ",note", "", "test,a.jpg,1,2,3,4,ann,x", ",,,", 'train,b.jpg,1,2,3,4,"b\nc"', "test,c"
    )
    assert [line for line, _ in table.rows] == [3, 6, 7]
    names = ("split", "image", "person", "x", "y", "w", "h")
    assert table.rows[0][1] == dict(zip(names, ("test", "a.jpg", "ann", "1", "2", "3", "4"), strict=True))
    assert table.rows[2][1] == dict(zip(names, ("test", "c", "", "", "", "", ""), strict=True))
    assert (table.corners, table.commas, table.unread) == (False, False, ["note"])
    assert table.dialect == "commas between cells, UTF-8"


@pytest.mark.parametrize(
    ("boxes", "columns", "corners"),
    [
        ("x,y,w,h", {}, False),
        ("x,y,width,height", {}, False),
        ("left,top,width,height", {}, False),
        ("bbox_x,bbox_y,bbox_w,bbox_h", {}, False),
        ("x1,y1,x2,y2", {}, True),
        ("x_min,y_min,x_max,y_max", {}, True),
        ("left,top,right,bottom", {}, True),
        ("x,y,w,h,width,height", {"image_width": "9", "image_height": "10"}, False),
        ("x1,y1,x2,y2,width,height", {"image_width": "9", "image_height": "10"}, True),
        ("x,y,w,h,img_width,img_height", {"image_width": "9", "image_height": "10"}, False),
        ("x1,y1,x2,y2,img_width,img_height,height,width", {"image_width": "9", "image_height": "10"}, True),
        ("x1,y1,x2,y2,height", {}, True),
    ],
)
def test_columns_of_the_box_and_of_the_image(
    tmp_path: Path, boxes: str, columns: dict[str, str], corners: bool
) -> None:
    cells = ["5", "6", "7", "8", "9", "10", "11", "12"][: boxes.count(",") + 1]
    table = read(tmp_path, f"split,image,{boxes},person", f"test,a.jpg,{','.join(cells)},ann")
    box = dict(zip("xywh", "5678", strict=True))
    named = {"split": "test", "image": "a.jpg", "person": "ann"}
    assert table.rows == [(2, named | box | columns)]
    assert table.corners is corners


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD + ",x1,y1,x2,y2", "FILE has columns for several boxes: x, y, w, h and x1, y1, x2, y2; keep one"),
        (
            "split,image,left,top,width,height,right,bottom,person",
            "FILE has columns for several boxes: left, top, width, ",
        ),
        (HEAD + ",h", "FILE has the column h more than once; keep one"),
        (HEAD + ",note,note", None),
        (HEAD + ",image_height", "FILE has a column for one side of the images only; give both, or none"),
        (HEAD + ",file", "FILE has several columns for the image: image (column 2) and file (column 8); keep one"),
        (
            "split,image,x,y,w,person",
            "FILE lacks the columns x, y, w, h; found ['split', 'image', 'x', 'y', 'w', 'person']",
        ),
        ("", "FILE is empty; expected a line of headings: split, image, x, y, w, h, person"),
        ("sep=;", "FILE lacks the columns split, image, x, y, w, h, person; found ['sep=', '']"),
    ],
)
def test_headings_that_are_refused(tmp_path: Path, head: str, message: str | None) -> None:
    if message is None:
        assert read(tmp_path, head).unread == ["note", "note"]
    else:
        assert refused(tmp_path, head).startswith(f"folder: {message}")


def test_up_to_twenty_headings_are_shown(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(21)]
    assert refused(tmp_path, ",".join(names[:20])).endswith(f"; found {names[:20]}")
    assert refused(tmp_path, ",".join(names)).endswith(f"; found {names[:20]} and 1 more")


def test_the_column_of_persons_may_have_another_name(tmp_path: Path) -> None:
    table = read(tmp_path, HEAD + ",Track No", "test,a.jpg,1,2,3,4,ann,7", identity="track no")
    assert table.rows[0][1]["person"] == "7"
    assert table.unread == ["person"]
    message = "folder: FILE has no column who, which index.identity names; found ['split', 'image', "
    assert refused(tmp_path, HEAD, identity="who").startswith(message)


def test_what_divides_the_first_line_into_most_cells_divides_all(tmp_path: Path) -> None:
    head = HEAD.replace(",", ";")
    table = read(tmp_path, "", head + ";a,b", "test;a,1.jpg;1,5;2;3;4;ann")
    assert (table.rows[0][1]["image"], table.rows[0][1]["x"]) == ("a,1.jpg", "1,5")
    assert table.dialect == "semicolons between cells, UTF-8, decimal commas"
    assert refused(tmp_path, "split").startswith(
        "folder: FILE lacks the columns image, x, y, w, h, person; found ['split']"
    )
    table = read(tmp_path, "SEP=|", HEAD.replace(",", "|"), "test|a.jpg|1|2|3|4|ann")
    assert table.rows[0][0] == 3
    assert table.dialect == "bars between cells, UTF-8"


def test_commas_divide_thousands_or_are_decimal(tmp_path: Path) -> None:
    head = HEAD.replace(",", ";")
    assert read(tmp_path, head, "test;a;1,234;2;3;4;ann", "test;a;1,5;2;3;4;ann").commas is True
    assert read(tmp_path, head, "test;a;1;2;3;4;1,234").commas is False
    message = "folder: FILE line 3: 12,345 may be a decimal fraction or thousands; write no commas"
    assert refused(tmp_path, head, "test;a;1;2;3;4;ann", "test;a;1;12,345;3;4;ann", "test;a;1,234;2;3;4;ann") == message


def test_a_line_with_more_cells_than_headings_is_refused(tmp_path: Path) -> None:
    assert len(read(tmp_path, HEAD, "test,a.jpg,1,2,3,4,ann,,").rows) == 1
    message = "folder: FILE line 2: 9 cells under 7 headings; put quotation marks around cells that hold the separator"
    assert refused(tmp_path, HEAD, "test,a.jpg,1,2,3,4,ann,,x") == message


def test_a_table_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "p.csv").mkdir()
    with pytest.raises(DatasetError, match=rf"^folder: {tmp_path}/p.csv cannot be read: Is a directory$"):
        read_table(tmp_path / "p.csv")
