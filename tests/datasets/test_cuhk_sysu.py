"""CUHK-SYSU's reader on a small tree in the official layout, and its protocol file on the real TestG100."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from diffps.datasets.cuhk_sysu import PUBLISHED, read_cuhk_sysu
from diffps.datasets.protocols import is_box, read_protocol
from diffps.datasets.tables import read_gallery, write_index
from diffps.errors import DatasetError
from tests.datasets.told import findings, told
from tests.datasets.trees import (
    CUHK_BOXES,
    CUHK_LINES,
    CUHK_TRAIN,
    Box,
    cells,
    matlab_box,
    structs,
    write_protocol,
)

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "cuhk-sysu" / "TestG100.mat"


def test_pool_divides_the_images(cuhk_tree: Path) -> None:
    scenes = read_cuhk_sysu(cuhk_tree).scenes
    assert [(scene.scene_id, scene.split) for scene in scenes] == [
        ("s5.jpg", "train"),
        ("s6.jpg", "train"),
        ("s1.jpg", "test"),
        ("s2.jpg", "test"),
        ("s3.jpg", "test"),
        ("s4.jpg", "test"),
    ]
    assert scenes[0].path == "Image/SSM/s5.jpg"
    assert scenes[0].size == (300, 320)


def test_uint8_boxes_do_not_overflow(cuhk_tree: Path) -> None:
    """200 + 100 is 44 in uint8."""
    annotations = read_cuhk_sysu(cuhk_tree).annotations
    assert annotations["s1.jpg"].boxes[0].tolist() == [200, 100, 300, 300]
    assert annotations["s5.jpg"].boxes[0].tolist() == [100, 100, 300, 280]


def test_labels_come_from_rows_and_names(cuhk_tree: Path) -> None:
    index = read_cuhk_sysu(cuhk_tree, min_box=(0, 0))
    found = {name: persons.identities.tolist() for name, persons in index.annotations.items()}
    assert found == {
        "s5.jpg": [0, 1],
        "s6.jpg": [0],
        "s1.jpg": [11, 12],
        "s2.jpg": [11],
        "s3.jpg": [12, -1],
        "s4.jpg": [],
    }


def test_small_and_empty_boxes_are_dropped_and_counted(cuhk_tree: Path) -> None:
    strict, plain = read_cuhk_sysu(cuhk_tree).report, read_cuhk_sysu(cuhk_tree, min_box=(0, 0)).report
    assert strict["train"] == {
        "images": 2,
        "identities": 2,
        "boxes": 2,
        "labelled": 2,
        "dropped": 1,
        "dropped_labelled": 1,
        "clipped": 0,
        "repeated_identities": 0,
        "labels_without_box": 0,
    }
    assert plain["train"]["dropped"] == 0  # type: ignore[index]
    assert plain["test"]["dropped"] == 1  # type: ignore[index]  # the box without width


def test_every_gallery_file_is_read(cuhk_tree: Path, tmp_path: Path) -> None:
    index = read_cuhk_sysu(cuhk_tree)
    assert index.report["galleries"] == {"50": 2, "100": 2, "occlusion": 1, "resolution": 1}
    assert index.report["galleries_missing"] == ["500", "1000", "2000", "4000"]
    write_index(index, tmp_path / "index")
    gallery = read_gallery(tmp_path / "index", "100")
    assert [part.tolist() for part in gallery.scenes] == [[3, 5, 4], [2, 4, 5]]
    assert [part.tolist() for part in gallery.positive_scenes] == [[3], [2, 4]]
    assert gallery.positive_boxes[0].tolist() == [[30, 40, 80, 130]]


def test_queries_of_subsets_are_those_of_the_galleries_where_they_agree(cuhk_tree: Path) -> None:
    index = read_cuhk_sysu(cuhk_tree)
    assert [(q.query_id, q.scene_id, q.identity) for q in index.queries] == [
        ("0000", "s1.jpg", 11),
        ("0001", "s3.jpg", 12),
        ("0002", "s2.jpg", 11),
    ]
    assert {gallery.name: gallery.query_ids for gallery in index.galleries} == {
        "50": ("0000", "0001"),
        "100": ("0000", "0001"),
        "occlusion": ("0001",),
        "resolution": ("0002",),
    }


def test_oddities_are_named_by_row(cuhk_tree: Path) -> None:
    oddities: dict[str, dict[str, list[int]]] = read_cuhk_sysu(cuhk_tree).report["oddities"]  # type: ignore[assignment]
    assert oddities["100"] == {"query_image_in_gallery": [2], "scene_listed_twice": []}
    assert oddities["resolution"] == {"query_image_in_gallery": [], "scene_listed_twice": [1]}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("annotation/Images.mat", "boxes of all images"),
        ("annotation/pool.mat", "list of test images"),
        ("annotation/test/train_test/Train.mat", "training identities"),
    ],
)
def test_a_missing_file_is_named_with_what_lies_there(cuhk_tree: Path, name: str, what: str) -> None:
    (cuhk_tree / name).unlink()
    with pytest.raises(DatasetError, match=rf"CUHK-SYSU: {what} missing: expected .*{name}; .* holds"):
        read_cuhk_sysu(cuhk_tree)


def test_at_least_one_gallery_is_needed(cuhk_tree: Path) -> None:
    for path in (cuhk_tree / "annotation/test/train_test").glob("TestG*.mat"):
        path.unlink()
    with pytest.raises(DatasetError, match=r"expected .*TestG100.mat; .*train_test holds Train.mat"):
        read_cuhk_sysu(cuhk_tree)


def test_missing_images_are_counted_and_named(cuhk_tree: Path) -> None:
    (cuhk_tree / "Image/SSM/s3.jpg").unlink()
    with pytest.raises(DatasetError, match=r"1 of 6 files missing in .*SSM: s3.jpg; 5 files found there"):
        read_cuhk_sysu(cuhk_tree)


def test_another_structure_is_refused(cuhk_tree: Path) -> None:
    for path in (cuhk_tree / "annotation/test/train_test").glob("TestG*.mat"):
        savemat(path, {path.stem: np.ones((2, 2))})
    with pytest.raises(DatasetError, match=r"TestG50.mat is damaged .*: it is numbers, expected a struct array"):
        read_cuhk_sysu(cuhk_tree)


@pytest.mark.parametrize("name", ["subset/Occlusion", "subset/Resolution", "train_test/TestG50"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"MATLAB 7.3 MAT-file" + bytes(600)])
def test_a_gallery_file_that_is_broken_costs_its_gallery(cuhk_tree: Path, name: str, content: bytes) -> None:
    whole = read_cuhk_sysu(cuhk_tree)
    (cuhk_tree / "annotation/test" / f"{name}.mat").write_bytes(content)
    index = read_cuhk_sysu(cuhk_tree)
    assert len(index.galleries) == len(whole.galleries) - 1
    (finding,) = findings(index, "repaired")
    assert (finding.count, finding.total, finding.of) == (1, 4, "gallery files")
    assert finding.reason.startswith(
        f"cannot be read, which costs its gallery only: {cuhk_tree}/annotation/test/{name}.mat is"
    )
    assert set(index.report["galleries_missing"]) > {"500"}  # type: ignore[call-overload]


def test_fields_that_are_not_used_are_not_parsed(cuhk_tree: Path) -> None:
    """Occlusion.mat has a field more; here it, and ishard, hold what nobody could read as a number."""
    path = cuhk_tree / "annotation/test/subset/Occlusion.mat"
    before = read_protocol(path, "Occlusion1")
    content = loadmat(path)["Occlusion1"]
    row = np.empty((1, 1), [("Query", object), ("Gallery", object), ("occlusion", object)])
    content["Query"][0, 0]["ishard"][0, 0] = "not looked at"
    row[0, 0] = (content["Query"][0, 0], content["Gallery"][0, 0], structs([{"what": "ever"}]))
    savemat(path, {"Occlusion1": row})
    (line,) = read_protocol(path, "Occlusion1")
    assert line.images == before[0].images
    assert line.query.image == before[0].query.image


def test_a_gallery_of_other_images_costs_itself(cuhk_tree: Path) -> None:
    lines = [(("s1.jpg", (200, 100, 100, 200), "p11"), [("s5.jpg", None)])]
    write_protocol(cuhk_tree / "annotation/test/train_test/TestG50.mat", "TestG50", lines)  # type: ignore[arg-type]
    index = read_cuhk_sysu(cuhk_tree)
    assert "names images that are no test images: s5.jpg" in findings(index, "repaired")[0].reason
    assert [gallery.name for gallery in index.galleries] == ["100", "occlusion", "resolution"]


@pytest.mark.parametrize(
    ("name", "box", "message"),
    [
        ("q7", (1, 2, 3, 4), None),
        ("somebody", (1, 2, 3, 4), r"line 1: identity 'somebody': expected letters and a number, like p10581"),
        ("p7", (1, 2, 3), r"line 1: box \[1.0, 2.0, 3.0\] on s1.jpg: expected x, y, width, height"),
        ("p7", (1, 2, 0, 4), r"line 1: box \[1.0, 2.0, 0.0, 4.0\] on s1.jpg: expected"),
    ],
)
def test_mistakes_in_a_line_are_named(tmp_path: Path, name: str, box: Box, message: str | None) -> None:
    write_protocol(tmp_path / "g.mat", "TestG50", [(("s1.jpg", box, name), [("s2.jpg", None)])])
    if message is None:
        assert read_protocol(tmp_path / "g.mat", "TestG50")[0].identity == 7
        return
    with pytest.raises(DatasetError, match=message):
        read_protocol(tmp_path / "g.mat", "TestG50")


def test_what_is_odd_is_told(cuhk_tree: Path) -> None:
    (cuhk_tree / "Image/SSM/notes.txt").touch()
    assert told(read_cuhk_sysu(cuhk_tree), "fine", "repaired", "doubtful", "refused") == [
        "fine 1 files are in no list and were not read",
        "fine 2 boxes are below 10 x 20 pixels and were left out",
        "doubtful 1 persons have no box left",
        "doubtful 3 gallery lines list the image of their query",
        "doubtful 1 gallery lines list an image twice",
    ]


def test_an_archive_that_was_unpacked_a_level_off_is_found(cuhk_tree: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected .*Image/SSM; .*; the dataset lies in .*cuhk: set index.root"):
        read_cuhk_sysu(cuhk_tree.parent)
    with pytest.raises(DatasetError, match=r"expected .*; the dataset lies in .*cuhk: set index.root to that"):
        read_cuhk_sysu(cuhk_tree / "Image")


def test_another_letter_case_is_named(cuhk_tree: Path) -> None:
    (cuhk_tree / "annotation" / "Images.mat").rename(cuhk_tree / "annotation" / "images.mat")
    with pytest.raises(
        DatasetError, match=r"Images.mat; .*; .*annotation/images.mat differs in letter case: rename it"
    ):
        read_cuhk_sysu(cuhk_tree)


@pytest.mark.skipif(not REAL.exists(), reason="the real TestG100.mat (../shared/data/cuhk-sysu) is not here")
def test_the_real_protocol_file() -> None:
    lines = read_protocol(REAL, "TestG100")
    assert len(lines) == 2900
    assert {len(line.images) for line in lines} == {100}
    positives = [len(line.positives) for line in lines]
    assert sum(positives) == 5447
    assert positives.count(1) == 1501
    assert lines[0].identity == 10581
    assert lines[0].query.image == "s15538.jpg"
    assert lines[0].query.box.tolist() == [488, 90, 88, 250]


@pytest.mark.skipif(not REAL.exists(), reason="the real TestG100.mat (../shared/data/cuhk-sysu) is not here")
def test_the_compact_reader_reads_what_scipy_reads() -> None:
    rows = np.ravel(loadmat(REAL)["TestG100"])
    for line, row in zip(read_protocol(REAL, "TestG100"), rows, strict=True):
        query, gallery = row["Query"][0, 0], np.ravel(row["Gallery"])
        assert line.query.image == query["imname"][0]
        assert line.identity == int(query["idname"][0][1:])
        np.testing.assert_array_equal(line.query.box, query["idlocate"][0])
        assert line.images == [name[0] for name in gallery["imname"]]
        pairs = zip(gallery["imname"], gallery["idlocate"], strict=True)
        expected = [(name[0], box[0].tolist()) for name, box in pairs if box.size]
        assert [(found.image, found.box.tolist()) for found in line.positives] == expected


@pytest.mark.parametrize("compressed", [False, True])
def test_compressed_and_plain_files(tmp_path: Path, compressed: bool) -> None:
    """One character names and numbers of one byte sit inside their tags."""
    row = np.zeros((1, 2), [("Query", object), ("Gallery", object)])
    person = np.zeros((1, 1), [("imname", object), ("idlocate", object), ("idname", object)])
    person[0, 0] = ("s", np.array([[1, 2, 3, 4]], np.uint8), "p5")
    row[0, 0] = row[0, 1] = (person, person)
    savemat(tmp_path / "g.mat", {"TestG50": row}, do_compression=compressed)
    first, second = read_protocol(tmp_path / "g.mat", "TestG50")
    assert first.images == second.images == ["s"]
    assert first.query.box.tolist() == [1, 2, 3, 4]


def test_a_torn_file_is_named(cuhk_tree: Path) -> None:
    path = cuhk_tree / "annotation/test/train_test/TestG50.mat"
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(DatasetError, match=r"TestG50.mat .*the file ends too early"):
        read_protocol(path, "TestG50")


def test_images_in_a_folder_below_are_found(cuhk_tree: Path) -> None:
    images = cuhk_tree / "Image" / "SSM"
    images.rename(cuhk_tree / "inner")
    images.mkdir()
    (cuhk_tree / "inner").rename(images / "SSM")
    with pytest.raises(DatasetError, match=r"6 of 6 files missing .*s\d.jpg lies in .*SSM/SSM: move"):
        read_cuhk_sysu(cuhk_tree)


def test_a_file_of_matlab_7_3_is_named_with_the_remedy(cuhk_tree: Path) -> None:
    (cuhk_tree / "annotation" / "Images.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(DatasetError, match=r"Images.mat is a MATLAB 7.3 file \(HDF5\), .*save\(..., '-v7'\)"):
        read_cuhk_sysu(cuhk_tree)


TESTS = "annotation/test/train_test"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("annotation/pool.mat", {"pool": np.ones((2, 1))}, "a matrix is numbers, expected a cell array"),
        ("annotation/pool.mat", {"pool": cells(["s1.jpg", "s1.jpg"])}, "it lists an image more than once"),
        ("annotation/Images.mat", {"Img": structs([{"imname": "s1.jpg"}])}, "it lacks box; found imname"),
        (f"{TESTS}/Train.mat", {"Train": np.ones((2, 1))}, "a matrix is numbers, expected a cell array"),
    ],
)
def test_what_a_file_holds_wrongly_is_said_behind_its_path(
    cuhk_tree: Path, name: str, content: dict[str, object], message: str
) -> None:
    savemat(cuhk_tree / name, content)
    with pytest.raises(DatasetError) as caught:
        read_cuhk_sysu(cuhk_tree)
    assert str(caught.value) == f"CUHK-SYSU: {cuhk_tree / name} is damaged or of another layout: {message}"


def test_images_without_boxes_or_listed_twice_are_refused(cuhk_tree: Path) -> None:
    savemat(cuhk_tree / "annotation/pool.mat", {"pool": cells(["s1.jpg", "x1.jpg", "s2.jpg", "x2.jpg"])})
    message = r"^CUHK-SYSU: pool.mat names 2 images that Images.mat lacks: x1.jpg, x2.jpg$"
    with pytest.raises(DatasetError, match=message):
        read_cuhk_sysu(cuhk_tree)
    person = structs([{"idlocate": matlab_box((1, 2, 30, 40)), "ishard": np.uint8(0)}])
    row = {"imname": "s1.jpg", "nAppear": np.uint8(1), "box": person}
    savemat(cuhk_tree / "annotation/Images.mat", {"Img": structs([row, row])})
    with pytest.raises(DatasetError, match=r"Images.mat is damaged .*: it lists an image more than once$"):
        read_cuhk_sysu(cuhk_tree)


@pytest.mark.parametrize(
    ("box", "is_one"),
    [
        ([0, 0, 1, 2], True),
        ([0, 0, 1], False),
        ([0, 0, 1, 2, 3], False),
        ([2**31 - 1] * 4, True),
        ([0, 0, 1, 2**31], False),
        ([-(2**31), 0, 1, 1], False),
        ([float("nan"), 0, 1, 1], False),
    ],
)
def test_boxes_are_four_numbers_that_fit_pixels(box: list[float], is_one: bool) -> None:
    assert is_box(np.array(box, float)) is is_one


def test_a_gallery_file_without_lines_is_named(tmp_path: Path) -> None:
    savemat(tmp_path / "g.mat", {"TestG50": np.empty((1, 0), [("Query", object), ("Gallery", object)])})
    with pytest.raises(DatasetError, match=r"^CUHK-SYSU: .*g.mat is damaged or of another layout: "):
        read_protocol(tmp_path / "g.mat", "TestG50")


def test_the_first_of_several_broken_gallery_files_is_named(cuhk_tree: Path) -> None:
    """Subsets alone are no gallery to search in."""
    for size, content in (("50", b""), ("100", b"PK\x03\x04" + bytes(200))):
        (cuhk_tree / TESTS / f"TestG{size}.mat").write_bytes(content)
    with pytest.raises(DatasetError, match=r"^CUHK-SYSU: .*/TestG50.mat is empty$"):
        read_cuhk_sysu(cuhk_tree)


def test_a_wrong_box_in_a_gallery_is_named_with_its_line_and_image(tmp_path: Path) -> None:
    right = (("s1.jpg", (1, 2, 3, 4), "p7"), [("s2.jpg", None)])
    wrong = (("s1.jpg", (1, 2, 3, 4), "p7"), [("s2.jpg", None), ("s3.jpg", (5, 6, 7))])
    write_protocol(tmp_path / "g.mat", "TestG50", [right, wrong])  # type: ignore[list-item]
    with pytest.raises(DatasetError, match=r"line 2: box \[5.0, 6.0, 7.0\] on s3.jpg: expected x, y, width, height$"):
        read_protocol(tmp_path / "g.mat", "TestG50")


def test_published_counts() -> None:
    """Xiao et al., CVPR 2017: 18,184 images, 96,143 boxes, 8,432 identities."""
    train, test = PUBLISHED["train"], PUBLISHED["test"]
    assert isinstance(train, dict)
    assert isinstance(test, dict)
    totals = {key: train[key] + test[key] for key in train}
    assert totals == {"images": 18_184, "boxes": 96_143, "labelled": 23_430, "identities": 8_432}
    assert (train["images"], test["identities"], PUBLISHED["queries"]) == (11_206, 2900, 2900)


def test_columns_that_are_not_read_may_be_absent(cuhk_tree: Path) -> None:
    """ishard, nAppear, and names of training identities."""
    expected = read_cuhk_sysu(cuhk_tree)
    for path in (cuhk_tree / "annotation/test").rglob("*.mat"):
        if path.stem not in ("Train", "TestG100"):
            path.unlink()

    def places(rows: list[tuple[str, Box | None]]) -> np.ndarray:
        return structs([{"imname": image, "idlocate": matlab_box(box)} for image, box in rows])

    images = [
        {"imname": name, "box": structs([{"idlocate": matlab_box(box)} for box in boxes])}
        if boxes
        else {"imname": name, "box": np.empty((1, 0), [("idlocate", object)])}
        for name, boxes in CUHK_BOXES.items()
    ]
    savemat(cuhk_tree / "annotation/Images.mat", {"Img": structs(images)})
    people = np.empty((len(CUHK_TRAIN), 1), object)
    for row, shown in enumerate(CUHK_TRAIN.values()):
        people[row, 0] = structs([{"scene": places(shown)}])  # type: ignore[arg-type]
    savemat(cuhk_tree / TESTS / "Train.mat", {"Train": people})
    rows = [
        {"Query": structs([{"imname": image, "idlocate": matlab_box(box), "idname": name}]), "Gallery": places(gallery)}
        for (image, box, name), gallery in CUHK_LINES[:2]
    ]
    savemat(cuhk_tree / TESTS / "TestG100.mat", {"TestG100": structs(rows)})
    found = read_cuhk_sysu(cuhk_tree)
    for name, persons in expected.annotations.items():
        assert found.annotations[name].boxes.tolist() == persons.boxes.tolist()
        assert found.annotations[name].identities.tolist() == persons.identities.tolist()
    assert [part.tolist() for part in found.galleries[0].scenes] == [[3, 5, 4], [2, 4, 5]]
