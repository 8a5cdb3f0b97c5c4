"""One's own data as a folder and a table."""

import os
from pathlib import Path

import pytest
from PIL import Image

from diffps.datasets.findings import require_plausible
from diffps.datasets.folder import images_of, read_folder
from diffps.datasets.tables import read_annotations, read_scenes, write_index
from diffps.errors import DatasetError
from diffps.images import load_scene
from diffps.names import from_text
from tests.datasets.told import findings, told, write_images
from tests.datasets.trees import PERSONS_CSV as CSV

HEAD = "split,image,x,y,w,h,person"


def table(folder: Path, *lines: str, head: str = HEAD) -> Path:
    (folder / "persons.csv").write_text("\n".join([head, *lines]) + "\n")
    return folder


def test_a_folder_with_a_table(folder: Path) -> None:
    index = read_folder(folder)
    assert [(scene.scene_id, scene.split, scene.camera) for scene in index.scenes] == [
        ("a.jpg", "train", 1),
        ("b.jpg", "train", 1),
        ("c.jpg", "test", 1),
        ("sub/d.png", "test", 2),
        ("e.jpg", "test", None),
    ]
    found = {name: persons.identities.tolist() for name, persons in index.annotations.items()}
    assert found == {"a.jpg": [0, -1], "b.jpg": [1], "c.jpg": [0], "sub/d.png": [0, 1], "e.jpg": []}
    assert index.annotations["sub/d.png"].boxes[0].tolist() == [30, 10, 50, 80]
    assert index.report["test"] == {"images": 3, "boxes": 3, "labelled": 3, "dropped": 0, "identities": 2}
    assert index.report["min_box"] == [0, 0]
    assert told(index) == ["repaired 1 boxes were cut at the edge of their image"]
    assert findings(index)[0].example == "persons.csv line 6: sub/d.png"


def test_whoever_is_seen_twice_is_a_query(folder: Path) -> None:
    queries = read_folder(folder).queries
    assert [(query.scene_id, query.identity) for query in queries] == [("c.jpg", 0), ("sub/d.png", 0)]
    told_of = "fine 2 queries were chosen: none is marked, so every named person who is seen in two test images is one"
    assert told_of in told(read_folder(folder), "fine")


def test_queries_can_be_marked(folder: Path) -> None:
    lines = CSV.splitlines()
    marked = [lines[0] + ",query", *(line + ("," if n != 4 else ",1") for n, line in enumerate(lines[1:]))]
    (folder / "persons.csv").write_text("\n".join(marked))
    queries = read_folder(folder).queries
    assert [(query.scene_id, query.box.tolist()) for query in queries] == [("sub/d.png", [30, 10, 50, 80])]


def test_a_marked_query_whom_nobody_could_find_is_doubted(folder: Path) -> None:
    lines = CSV.splitlines()
    marked = [lines[0] + ",query", *(line + ("," if n != 5 else ",1") for n, line in enumerate(lines[1:]))]
    (folder / "persons.csv").write_text("\n".join(marked))
    assert "doubtful 1 queries ask for somebody who is on no other image of their gallery" in told(read_folder(folder))


@pytest.mark.parametrize(
    ("content", "dialect"),
    [
        (b"\xef\xbb\xbf" + CSV.replace("\n", "\r\n").encode(), "commas between cells, UTF-8 with a byte order mark"),
        (CSV.replace(",", ";").encode(), "semicolons between cells, UTF-8"),
        (CSV.replace(",", "\t").encode("utf-16"), "tabs between cells, UTF-16"),
        (CSV.replace(",", "|").encode(), "bars between cells, UTF-8"),
        (b"sep=;\n" + CSV.replace(",", ";").encode(), "semicolons between cells, UTF-8"),
        (
            CSV.replace(",", ";").replace(";10;10;20", ";10,0;10;20").encode(),
            "semicolons between cells, UTF-8, decimal commas",
        ),
    ],
)
def test_the_dialect_of_a_table_is_found_out_and_said(folder: Path, content: bytes, dialect: str) -> None:
    expected = read_folder(folder)
    (folder / "persons.csv").write_bytes(content)
    index = read_folder(folder)
    assert {name: part.boxes.tolist() for name, part in index.annotations.items()} == {
        name: part.boxes.tolist() for name, part in expected.annotations.items()
    }
    assert f"fine 1 table was read: {dialect}" in told(index, "fine")


def test_cells_may_stand_in_quotation_marks(folder: Path) -> None:
    table(folder, 'test,"c.jpg",1,10,20,40,"Miller, Ann"', 'test,e.jpg,1,10,20,40,"Miller, Ann"')
    assert [query.scene_id for query in read_folder(folder).queries] == ["c.jpg", "e.jpg"]


@pytest.mark.parametrize(
    "head",
    [
        "Split,File_Name,X,Y,Width,Height,Person_ID",
        "subset,filename,bbox_left,bbox_top,bbox_width,bbox_height,pid",
        "split, image ,left,top,width,height,identity",
    ],
)
def test_headings_with_one_meaning_are_understood(folder: Path, head: str) -> None:
    table(folder, "test,c.jpg,10,10,20,40,ann", "test,e.jpg,10,10,20,40,ann", head=head)
    index = read_folder(folder)
    assert index.annotations["c.jpg"].boxes.tolist() == [[10, 10, 30, 50]]
    assert len(index.queries) == 2


@pytest.mark.parametrize("corners", ["x1,y1,x2,y2", "xmin,ymin,xmax,ymax", "left,top,right,bottom"])
def test_headings_of_a_second_corner_are_understood(folder: Path, corners: str) -> None:
    table(folder, "test,c.jpg,10,10,30,50,ann", head=f"split,image,{corners},person")
    assert read_folder(folder).annotations["c.jpg"].boxes.tolist() == [[10, 10, 30, 50]]


def test_columns_that_mean_nothing_here_are_said(folder: Path) -> None:
    table(folder, "test,c.jpg,10,10,30,50,ann,7,rain", head=HEAD + ",id,weather")
    assert "fine 2 columns are not read" in told(read_folder(folder), "fine")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (HEAD + ",person", r"several columns for the person: person \(column 7\) and person \(column 8\); keep one"),
        (HEAD + ",person_id", r"several columns for the person: person \(column 7\) and person_id \(column 8\)"),
        ("split,image,x,y,w,h,x", r"has the column x more than once; keep one"),
        (HEAD + ",x1,y1,x2,y2", r"columns for several boxes: x, y, w, h and x1, y1, x2, y2; keep one"),
        (HEAD + ",image_width", r"column for one side of the images only"),
    ],
)
def test_columns_that_are_there_twice_are_refused(folder: Path, head: str, message: str) -> None:
    table(folder, head=head)
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


def test_another_column_may_tell_persons_apart(folder: Path) -> None:
    table(folder, "test,c.jpg,10,10,20,40,5", "test,e.jpg,10,10,20,40,5", head="split,image,x,y,w,h,track")
    assert [query.identity for query in read_folder(folder, identity="track").queries] == [5, 5]
    with pytest.raises(DatasetError, match=r"has no column who, which index.identity names; found .*'track'"):
        read_folder(folder, identity="who")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test,c.jpg,x,10,20,40,cat,1", r"persons.csv line 8: 'x' is no number"),
        ("test,c.jpg,nan,10,20,40,cat,1", r"persons.csv line 8: 'nan' is no number"),
        ("test,c.jpg,1e999,10,20,40,cat,1", r"line 8: box \[inf, 10.0, 20.0, 40.0\] is not finite"),
        ("valid,c.jpg,1,10,20,40,cat,1", r"line 8: split 'valid' is neither train nor test"),
        ("train,c.jpg,1,10,20,40,cat,1", r"image c.jpg is in both splits"),
        ("test,,1,10,20,40,cat,1", r"line 8: no image is named"),
        (
            "test,zz.jpg,1,10,20,40,cat,1",
            r"1 of 5 images missing in .*images: zz.jpg \(first: .*line 8.*5 images found",
        ),
        ("test,c.jpg,1,10,20,40,dan,2", r"line 8: image c.jpg has camera 1 and camera 2; an image has one"),
        ("test,c.jpg,1,10,20,40,dan,9e99", r"line 8: camera '9e99': expected a whole number below 2147483648"),
        ("\ntest,c.jpg,1,10,y,40,dan,1", r"line 9: 'y' is no number"),
        ('test,c.jpg,1,10,20,40,"dan,1', r"line \d+: unexpected end of data; a quotation mark too many\?"),
        ("test,c.jpg,1,10,20,40,dan,1,2,3", r"line 8: 10 cells under 8 headings"),
    ],
)
def test_mistakes_in_the_table_are_named(folder: Path, line: str, message: str) -> None:
    (folder / "persons.csv").write_text(CSV + line + "\n")
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("test,c.jpg,1,10,20,40,cat,maybe", r"persons.csv line 3: query 'maybe': expected 1, 0, true, false"),
        ("test,c.jpg,1,10,20,40,,1", r"line 3: a query needs a person's name"),
        ("test,c.jpg,1,10,20,40,-1,1", r"line 3: a query needs a person's name"),
        ("train,c.jpg,1,10,20,40,cat,1", r"line 3: a query lies in a test image, this one is in train"),
    ],
)
def test_mistakes_in_queries_are_named(folder: Path, line: str, message: str) -> None:
    table(folder, "train,a.jpg,10,10,20,40,ann,0", line, head=HEAD + ",query")
    with pytest.raises(DatasetError, match=message):
        read_folder(folder)


@pytest.mark.parametrize("yes", ["1", "1.0", "True", "TRUE", "yes", "y"])
@pytest.mark.parametrize("no", ["0", "0.0", "false", "no", ""])
def test_yes_and_no_in_the_spellings_people_use(folder: Path, yes: str, no: str) -> None:
    lines = [f"test,c.jpg,1,10,20,40,cat,{yes}", f"test,e.jpg,1,10,20,40,cat,{no}"]
    table(folder, *lines, head=HEAD + ",query")
    assert [query.scene_id for query in read_folder(folder).queries] == ["c.jpg"]


def test_whole_numbers_may_have_a_point(folder: Path) -> None:
    """A column with an empty cell is written so by pandas."""
    lines = ["test,c.jpg,1.0,10.0,20,40,7.0,2.0", "test,c.jpg,31,10,20,40,,2.0", "test,e.jpg,1,10,20,40,12.0,"]
    index = read_folder(table(folder, *lines, head=HEAD + ",camera"))
    assert index.annotations["c.jpg"].identities.tolist() == [7, -1]
    assert [scene.camera for scene in index.scenes if scene.scene_id in ("c.jpg", "e.jpg")] == [2, None]
    assert "repaired 2 boxes are whole numbers written with a point (7.0) and were read without (7)" in told(index)


@pytest.mark.parametrize(
    "nobody", ["-1", "-2", "-1.0", "nan", "NaN", "None", "null", "unknown", "N/A", "?", "-", "unlabelled"]
)
def test_nobody_in_the_spellings_programs_use(folder: Path, nobody: str) -> None:
    index = read_folder(table(folder, f"test,c.jpg,1,10,20,40,{nobody}", f"test,e.jpg,1,10,20,40,{nobody}"))
    assert index.annotations["c.jpg"].identities.tolist() == [-1]
    assert index.queries == ()
    assert told(index) == [f"repaired 2 boxes are named as programs name nobody ({nobody}) and were read as unlabelled"]


@pytest.mark.parametrize("somebody", ["Nan", "Na", "Noone", "Noneman", "x"])
def test_names_that_only_look_so_are_names(folder: Path, somebody: str) -> None:
    index = read_folder(table(folder, f"test,c.jpg,1,10,20,40,{somebody}", f"test,e.jpg,1,10,20,40,{somebody}"))
    assert len(index.queries) == 2


def test_5555_is_doubted(folder: Path) -> None:
    index = read_folder(table(folder, "test,c.jpg,1,10,20,40,5555", "test,e.jpg,1,10,20,40,5555"))
    assert [finding.count for finding in findings(index, "doubtful")] == [2]
    assert "5555" in findings(index, "doubtful")[0].reason
    with pytest.raises(DatasetError, match=r"2 boxes belong to a person named 5555"):
        require_plausible(findings(index))


@pytest.mark.parametrize(
    ("names", "identities"),
    [
        (("7", "12"), [7, 12]),
        (("7", "07"), [0, 1]),
        (("7", "9223372036854775807"), [7, 2**63 - 1]),
        (("7", "9223372036854775808"), [0, 1]),
        (("7", "9" * 5000), [0, 1]),
        (("7", "\u00b2"), [0, 1]),
    ],
)
def test_names_are_their_own_numbers_where_all_are_numbers(
    folder: Path, names: tuple[str, str], identities: list[int]
) -> None:
    table(folder, *(f"test,c.jpg,{n}0,10,20,40,{name}" for n, name in enumerate(names)))
    assert read_folder(folder).annotations["c.jpg"].identities.tolist() == identities


def test_spaces_around_cells_do_not_count(folder: Path) -> None:
    table(
        folder, "test , c.jpg,1,10,20,40,anna ", "test,e.jpg,1,10,20,40, anna", head="split, image, x, y, w, h, person"
    )
    assert [query.scene_id for query in read_folder(folder).queries] == ["c.jpg", "e.jpg"]


def test_a_line_may_end_before_the_person(folder: Path) -> None:
    (folder / "persons.csv").write_text(CSV + "test,e.jpg,1,10,20,40\n")
    assert read_folder(folder).annotations["e.jpg"].identities.tolist() == [-1]


@pytest.mark.parametrize(
    "content", [CSV.replace("ann", "J\u00f6rg").encode("cp1252"), b"a\0b", CSV.encode("utf-16-le")]
)
def test_a_table_in_another_encoding_is_named(folder: Path, content: bytes) -> None:
    (folder / "persons.csv").write_bytes(content)
    with pytest.raises(DatasetError, match=r"persons.csv is not a CSV table in UTF-8"):
        read_folder(folder)


def test_missing_columns_are_named(folder: Path) -> None:
    (folder / "persons.csv").write_text("image,x,y\n")
    with pytest.raises(DatasetError, match=r"lacks the columns split, x, y, w, h, person; found \['image', 'x', 'y'\]"):
        read_folder(folder)
    (folder / "persons.csv").write_text("")
    with pytest.raises(DatasetError, match=r"persons.csv is empty; expected a line of headings: split, .*"):
        read_folder(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "persons.csv").rename(folder / "people.csv")
    with pytest.raises(
        DatasetError, match=r"table of boxes missing: expected .*persons.csv; .* holds images/, people.csv"
    ):
        read_folder(folder)


def test_a_row_that_is_there_twice_counts_once(folder: Path) -> None:
    """Else the second one could never be found, and AP would be halved."""
    lines = ["test,c.jpg,1,10,20,40,ann,", "test,c.jpg,1,10,20,40,ann,1", "test,e.jpg,1,10,20,40,ann,0"]
    index = read_folder(table(folder, *lines, head=HEAD + ",query"))
    assert len(index.annotations["c.jpg"].boxes) == 1
    assert [query.scene_id for query in index.queries] == ["c.jpg"]
    (finding,) = findings(index)
    assert (finding.kind, finding.count, finding.total) == ("repaired", 1, 3)
    assert finding.example == "persons.csv line 3: c.jpg"


def test_persons_who_contradict_each_other_are_doubted(folder: Path) -> None:
    lines = ["test,c.jpg,1,10,20,40,ann", "test,c.jpg,1,10,20,40,bob", "test,c.jpg,50,10,20,40,ann"]
    assert told(read_folder(table(folder, *lines))) == [
        "doubtful 1 boxes have the box of somebody else",
        "doubtful 1 boxes are a second one of the same person in one image",
    ]


def test_names_that_are_almost_alike_or_in_both_splits_are_doubted(folder: Path) -> None:
    lines = ["train,a.jpg,1,10,20,40,ann", "test,c.jpg,1,10,20,40,ann", "test,e.jpg,1,10,20,40,Ann"]
    found = told(read_folder(table(folder, *lines)))
    assert "doubtful 1 persons are named in both splits, where training and test persons should differ" in found
    assert "doubtful 1 persons differ from another name in letter case only" in found


def test_no_box_query_or_identity_is_lost_in_silence(folder: Path) -> None:
    lines = [
        "train,a.jpg,200,10,20,40,ann,",
        "train,a.jpg,10,10,20,40,bob,",
        "test,c.jpg,1,10,0,40,cat,1",
        "test,c.jpg,1,10,20,0.5,cat,",
        "test,e.jpg,90,10,40,40,cat,1",
        "test,e.jpg,10,10,20,40,cat,",
        "test,sub/d.png,10,10,20,40,cat,",
    ]
    index = read_folder(table(folder, *lines, head=HEAD + ",query"))
    assert told(index, "refused", "repaired") == [
        "refused 1 boxes lie outside their image",
        "refused 1 boxes have no width or no height",
        "refused 1 boxes are narrower or lower than one pixel",
        "refused 1 persons have no box left",
        "refused 1 marked queries went with their box",
    ]
    assert "doubtful 1 boxes lie more than half outside their image and were cut at its edge" in told(index)
    assert index.annotations["a.jpg"].identities.tolist() == [0]  # bob: numbers have no gaps
    before = len(lines)
    after = sum(len(persons.boxes) for persons in index.annotations.values())
    assert before - after == sum(f.count for f in findings(index, "refused") if f.of == "boxes")


def test_boxes_below_min_box_are_counted_as_asked_for(folder: Path) -> None:
    index = read_folder(folder, min_box=(25, 0))
    assert "fine 6 boxes are below 25 x 0 pixels and were left out" in told(index, "fine")
    assert told(index, "refused") == ["refused 4 persons have no box left"]


def test_photographs_shrunk_after_annotating_stop_by_their_share(folder: Path) -> None:
    """Boxes of 400 x 320 pixels on images of 100 x 80: none of it may go on in silence."""
    lines = [f"test,c.jpg,{x},{y},40,90,p{x}{y}" for x in range(0, 360, 40) for y in (10, 120, 220)]
    index = read_folder(table(folder, *lines))
    lost = next(finding for finding in findings(index, "refused") if finding.reason == "lie outside their image")
    assert (lost.count, lost.total, lost.example) == (24, 27, "persons.csv line 3: c.jpg")
    with pytest.raises(DatasetError, match=r"refused: 24 of 27 .*index.tolerate="):
        require_plausible(findings(index))


def test_boxes_of_images_shrunk_after_annotating_are_scaled_where_both_sizes_are_told(folder: Path) -> None:
    lines = ["test,c.jpg,40,40,80,160,ann,400,320", "test,e.jpg,10,10,20,40,ann,100,80"]
    index = read_folder(table(folder, *lines, head=HEAD + ",image_width,image_height"))
    assert index.annotations["c.jpg"].boxes.tolist() == [[10, 10, 30, 50]]
    assert told(index) == ["repaired 1 images have another size than when they were annotated; their boxes were scaled"]


@pytest.mark.parametrize(
    ("size", "reason"),
    [("80,100", "are turned by 90 degrees against their annotation"), ("100,100", "have another shape than when")],
)
def test_boxes_of_images_of_another_shape_are_refused_and_counted(folder: Path, size: str, reason: str) -> None:
    table(folder, f"test,c.jpg,10,10,20,40,ann,{size}", head=HEAD + ",image_width,image_height")
    index = read_folder(folder)
    assert index.annotations["c.jpg"].boxes.tolist() == []
    refused = findings(index, "refused")
    assert [(finding.count, finding.of) for finding in refused] == [(1, "images"), (1, "boxes"), (1, "persons")]
    assert refused[0].reason.startswith(reason)


def test_parts_of_the_image_are_refused(folder: Path) -> None:
    table(folder, "test,c.jpg,0.1,0.1,0.2,0.4,ann", "test,e.jpg,0.1,0.1,0.2,0.4,ann")
    with pytest.raises(DatasetError, match=r"folder: persons.csv line 2 .*2 of 2 boxes lie within 0 to 1"):
        read_folder(folder)


def test_a_second_corner_under_w_and_h_is_refused(folder: Path) -> None:
    lines = [f"test,c.jpg,{x},{y},{x + 25},{y + 30},p{x}" for x, y in ((50, 40), (60, 45), (70, 30), (55, 48))]
    with pytest.raises(DatasetError, match=r"4 of 4 boxes leave their image .*head the columns x1, y1, x2, y2"):
        read_folder(table(folder, *lines))


def test_boxes_that_all_lie_in_one_corner_are_doubted(tmp_path: Path) -> None:
    """Percents, or pixels of smaller copies."""
    write_images(tmp_path / "images", ["a.jpg"], (400, 300))
    lines = [f"test,a.jpg,{n},10,20,80,p{n}" for n in range(20)]
    (finding,) = findings(read_folder(table(tmp_path, *lines)), "doubtful")
    assert (finding.count, finding.reason) == (
        20,
        "lie in the upper left 30 % of their images, as all do: were smaller copies annotated?",
    )


def test_one_content_under_two_names_is_doubted(folder: Path) -> None:
    for name in ("c.jpg", "e.jpg"):
        (folder / "images" / name).write_bytes((folder / "images" / "a.jpg").read_bytes())
    found = told(read_folder(folder))
    assert "doubtful 2 images have the content of a training image" in found


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("./c.jpg", "c.jpg"),
        ("images/c.jpg", "c.jpg"),
        (r"C:\data\c.jpg", "c.jpg"),
        (r"sub\d.png", "sub/d.png"),
        ("/home/ann/photos/sub/d.png", "sub/d.png"),
        ("d.png", "sub/d.png"),
        ("C.JPG", "c.jpg"),
        ("https://example.org/photos/c.jpg", "c.jpg"),
        ("caf%C3%A9.jpg", "caf\u00e9.jpg"),
        ("cafe\u0301.jpg", "caf\u00e9.jpg"),
    ],
)
def test_paths_of_any_style_name_an_image(folder: Path, written: str, image: str) -> None:
    Image.new("RGB", (100, 80), (99, 0, 0)).save(folder / "images" / "caf\u00e9.jpg")
    index = read_folder(table(folder, f"test,{written},1,10,20,40,ann"))
    assert len(index.annotations[image].boxes) == 1


def test_a_path_that_names_another_folder_is_missing(folder: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 of 1 images missing in .*: other/d.png"):
        read_folder(table(folder, "test,other/d.png,1,10,20,40,ann"))


def test_a_file_name_that_two_folders_have_is_refused(folder: Path) -> None:
    write_images(folder / "images", ["left/x.jpg", "right/x.jpg"])
    with pytest.raises(
        DatasetError, match=r"line 2: image x.jpg may be left/x.jpg or right/x.jpg; write its whole path"
    ):
        read_folder(table(folder, "test,x.jpg,1,10,20,40,ann"))


def test_two_paths_are_not_taken_for_one_image(folder: Path) -> None:
    lines = ["test,gate/c.jpg,1,10,20,40,ann", "test,hall/c.jpg,1,10,20,40,ann"]
    with pytest.raises(DatasetError, match=r"line 3: images gate/c.jpg and hall/c.jpg would both be c.jpg"):
        read_folder(table(folder, *lines))


def test_one_image_may_be_written_in_several_ways(folder: Path) -> None:
    lines = ["test,c.jpg,1,10,20,40,ann", "test,images/c.jpg,31,10,20,40,bob", "test,./c.jpg,61,10,20,40,cat"]
    assert len(read_folder(table(folder, *lines)).annotations["c.jpg"].boxes) == 3


def test_a_signed_address_names_an_image(folder: Path) -> None:
    index = read_folder(table(folder, "test,https://host/bucket/c.jpg?X-Amz-Signature=0,1,10,20,40,ann"))
    assert len(index.annotations["c.jpg"].boxes) == 1


def test_an_image_that_is_there_and_no_image_is_told_apart_from_one_that_is_missing(folder: Path) -> None:
    (folder / "images" / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"images missing in .*: c.jpg \(first: persons.csv line 5; .*\); 4 images"):
        read_folder(folder)


def test_commas_that_may_divide_thousands_are_refused(folder: Path) -> None:
    (folder / "persons.csv").write_text("split;image;x;y;w;h;person\ntest;c.jpg;1,234;10;20;40;ann\n")
    with pytest.raises(DatasetError, match=r"line 2: 1,234 may be a decimal fraction or thousands; write no commas"):
        read_folder(folder)


def test_a_name_of_any_bytes_is_written_in_tables_and_leads_back(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    Image.new("RGB", (100, 80), (99, 0, 0)).save(folder / "images" / name)
    index = read_folder(table(folder, r"test,caf\xe9.png,10,10,20,40,ann"))
    write_index(index, folder / "index")
    (scene,) = (scene for scene in read_scenes(folder / "index") if scene.scene_id == r"caf\xe9.png")
    assert read_annotations(folder / "index")[scene.scene_id].boxes.tolist() == [[10, 10, 30, 50]]
    assert load_scene(folder / from_text(scene.path), scene.digest)[0, 0].tolist() == [99, 0, 0]


def test_images_of_somebody_as_the_table_has_them(folder: Path) -> None:
    """Whether they are still there or not; those of others are not among them."""
    lines = ["test,c.jpg,1,10,20,40,7.0", "test,sub/d.png,1,10,20,40,8.0", "test,gone.jpg,1,10,20,40,7.0"]
    table(folder, *lines, "test,other.jpg,1,10,20,40,7.0")
    names = ["c.jpg", "sub/d.png", "gone.jpg"]
    assert images_of(folder, "7", names) == images_of(folder, "7.0", names) == {"c.jpg", "gone.jpg"}
    assert images_of(folder, "9", names) == images_of(folder, "7", []) == set()
    table(folder, "test,c.jpg,1,10,20,40,x,Jo\u0308rg", head=HEAD + ",who")
    assert images_of(folder, "J\u00f6rg", names, "who") == {"c.jpg"}
