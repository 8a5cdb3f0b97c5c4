"""PRW's reader on a small tree in the official layout."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from diffps.datasets.prw import PUBLISHED, read_prw
from diffps.errors import DatasetError, ImageError
from tests.datasets.told import told
from tests.datasets.trees import cells


def test_scenes_carry_split_size_camera_and_digest(prw_tree: Path) -> None:
    index = read_prw(prw_tree)
    assert [(s.scene_id, s.split, s.camera) for s in index.scenes] == [
        ("c1s1_000001.jpg", "train", 1),
        ("c6s1_000002.jpg", "train", 6),
        ("c1s2_000003.jpg", "test", 1),
        ("c2s2_000004.jpg", "test", 2),
        ("c3s2_000005.jpg", "test", 3),
        ("c1s2_000006.jpg", "test", 1),
    ]
    first = index.scenes[0]
    assert first.size == (120, 100)
    assert first.digest == hashlib.sha256((prw_tree / first.path).read_bytes()).hexdigest()


def test_train_identities_are_remapped_and_unlabelled_is_minus_one(prw_tree: Path) -> None:
    annotations = read_prw(prw_tree).annotations
    assert annotations["c1s1_000001.jpg"].identities.tolist() == [1, -1]
    assert annotations["c6s1_000002.jpg"].identities.tolist() == [0, 1]


def test_a_train_identity_in_a_test_frame_counts_as_unlabelled(prw_tree: Path) -> None:
    index = read_prw(prw_tree)
    assert index.annotations["c1s2_000003.jpg"].identities.tolist() == [21, -1]
    assert index.report["test"]["foreign"] == 1  # type: ignore[index]


def test_width_and_height_are_added_before_clipping(prw_tree: Path) -> None:
    index = read_prw(prw_tree)
    assert index.annotations["c6s1_000002.jpg"].boxes.tolist() == [[0, 10, 25, 70], [40, 10, 60, 120]]
    assert index.report["train"]["clipped"] == 2  # type: ignore[index]


def test_boxes_without_area_and_below_min_box_are_dropped_and_counted(prw_tree: Path) -> None:
    plain, large = read_prw(prw_tree), read_prw(prw_tree, min_box=(25, 0))
    assert plain.report["test"]["dropped"] == 1  # type: ignore[index]
    assert plain.annotations["c2s2_000004.jpg"].identities.tolist() == [21, 21]
    assert large.annotations["c2s2_000004.jpg"].identities.tolist() == [21]
    assert large.report["test"]["dropped"] == 3  # type: ignore[index]


def test_a_frame_without_persons_is_a_scene(prw_tree: Path) -> None:
    assert read_prw(prw_tree).annotations["c3s2_000005.jpg"].boxes.shape == (0, 4)


def test_queries_of_a_crlf_file(prw_tree: Path) -> None:
    queries = read_prw(prw_tree).queries
    assert [(q.query_id, q.scene_id, q.identity) for q in queries] == [
        ("0000", "c1s2_000003.jpg", 21),
        ("0001", "c1s2_000006.jpg", 22),
    ]
    assert queries[1].box.tolist() == [12.5, 20, 42.5, 80]


def test_report_counts_what_was_read(prw_tree: Path) -> None:
    report = read_prw(prw_tree).report
    assert report["train"] == {
        "images": 2,
        "boxes": 4,
        "labelled": 3,
        "identities": 2,
        "identities_seen": 2,
        "images_without_labelled": 0,
        "foreign": 0,
        "dropped": 0,
        "clipped": 2,
        "repeated_identities": 0,
    }
    assert report["test"]["repeated_identities"] == 1  # type: ignore[index]
    assert report["queries"] == 2


@pytest.mark.parametrize("name", ["frame_test.mat", "ID_train.mat", "query_info.txt"])
def test_a_missing_file_is_named_with_what_lies_there(prw_tree: Path, name: str) -> None:
    (prw_tree / name).unlink()
    with pytest.raises(DatasetError, match=rf"expected .*{name}; .*prw holds .*frames/"):
        read_prw(prw_tree)


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"folder of images missing: expected .*nowhere/frames"):
        read_prw(tmp_path / "nowhere")


@pytest.mark.parametrize(("folder", "suffix"), [("frames", ".jpg"), ("annotations", ".jpg.mat")])
def test_missing_frames_are_counted_and_named(prw_tree: Path, folder: str, suffix: str) -> None:
    (prw_tree / folder / f"c3s2_000005{suffix}").unlink()
    with pytest.raises(DatasetError, match=r"1 of 4 files missing in .*c3s2_000005.*5 files found there"):
        read_prw(prw_tree)


def test_a_wrong_key_is_named_with_those_found(prw_tree: Path) -> None:
    savemat(prw_tree / "ID_test.mat", {"ID_test": np.array([[21]])})
    with pytest.raises(DatasetError, match=r"ID_test.mat must hold exactly one of the keys ID_test2; found ID_test"):
        read_prw(prw_tree)


def test_a_file_that_is_no_mat_file_is_named(prw_tree: Path) -> None:
    (prw_tree / "frame_train.mat").write_text("<html>not found</html>")
    with pytest.raises(DatasetError, match=r"frame_train.mat is a web page, not the file that was to be downloaded"):
        read_prw(prw_tree)


def test_annotations_of_another_shape_are_refused(prw_tree: Path) -> None:
    savemat(prw_tree / "annotations" / "c1s1_000001.jpg.mat", {"box_new": np.ones((2, 4))})
    with pytest.raises(
        DatasetError, match=r"c1s1_000001.jpg.mat .*: box_new has the shape \(2, 4\), expected \(n, 5\)"
    ):
        read_prw(prw_tree)


@pytest.mark.parametrize(
    "line",
    [
        "21 10 20 30 c1s2_000003",
        "x 10 20 30 60 c1s2_000003",
        "21 nan 20 30 60 c1s2_000003",
        "21.5 10 20 30 60 c1s2_000003",
        "9e99 10 20 30 60 c1s2_000003",
    ],
)
def test_a_malformed_query_line_is_named(prw_tree: Path, line: str) -> None:
    (prw_tree / "query_info.txt").write_text(f"21 10 20 30 60 c1s2_000003\n{line}\n")
    with pytest.raises(DatasetError, match=r"line 2: expected 'pid x y w h frame'"):
        read_prw(prw_tree)


def test_a_query_outside_the_test_frames_is_refused(prw_tree: Path) -> None:
    (prw_tree / "query_info.txt").write_text("7 10 20 30 60 c1s1_000001\n")
    with pytest.raises(DatasetError, match=r"line 1: frame c1s1_000001 is not in frame_test.mat"):
        read_prw(prw_tree)


def test_an_unreadable_image_is_named(prw_tree: Path) -> None:
    (prw_tree / "frames" / "c1s2_000003.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match=r"c1s2_000003.jpg: not a readable image"):
        read_prw(prw_tree)


def test_a_query_outside_its_frame_is_refused(prw_tree: Path) -> None:
    (prw_tree / "query_info.txt").write_text("21 500 20 30 60 c1s2_000003\n")
    with pytest.raises(DatasetError, match=r"line 1: box \[500.0, 20.0, 30.0, 60.0\] lies outside its frame"):
        read_prw(prw_tree)


def test_a_list_of_queries_that_is_no_text_is_named(prw_tree: Path) -> None:
    (prw_tree / "query_info.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DatasetError, match=r"query_info.txt cannot be read as text"):
        read_prw(prw_tree)


def test_what_is_odd_is_told(prw_tree: Path) -> None:
    (prw_tree / "query_info.txt").write_text("21 10 20 30 60 c1s2_000003\n22 70 60 20 40 c1s2_000006\n")
    index = read_prw(prw_tree)
    assert told(index) == [
        "repaired 2 boxes were cut at the edge of their image",
        "doubtful 1 boxes are a second one of the same person in one frame",
        "doubtful 1 queries lie where their person is not annotated",
        "doubtful 1 queries ask for somebody who is on no other image of their gallery",
        "refused 1 boxes have no width or no height",
    ]
    assert told(index, "fine") == [
        "fine 1 boxes are of persons who are not listed for their split, and read as unlabelled"
    ]


@pytest.mark.parametrize("pids", [[7.5], [np.nan], [1e300]])
def test_pids_that_are_no_whole_numbers_are_refused(prw_tree: Path, pids: list[float]) -> None:
    savemat(prw_tree / "annotations" / "c1s1_000001.jpg.mat", {"box_new": np.array([[*pids, 1, 2, 30, 40]])})
    with pytest.raises(DatasetError, match=r"c1s1_000001.jpg.mat .*: pids are not all whole numbers"):
        read_prw(prw_tree)


def test_lists_of_frames_may_have_the_suffix(prw_tree: Path) -> None:
    savemat(prw_tree / "frame_train.mat", {"img_index_train": cells(["c1s1_000001.jpg"])})
    assert "c1s1_000001.jpg" in read_prw(prw_tree).annotations


def test_an_archive_that_was_unpacked_a_level_off_is_found(prw_tree: Path) -> None:
    with pytest.raises(DatasetError, match=r"expected .*frames; .*; the dataset lies in .*prw: set index.root to that"):
        read_prw(prw_tree.parent)
    with pytest.raises(DatasetError, match=r"images missing: .*; the dataset lies in .*prw: set index.root to that"):
        read_prw(prw_tree / "annotations")


def test_an_archive_that_was_not_unpacked_is_named(prw_tree: Path) -> None:
    (prw_tree / "frames").rename(prw_tree / "elsewhere")
    (prw_tree / "PRW-v16.04.20.zip").touch()
    with pytest.raises(DatasetError, match=r"expected .*frames; .*; unpack PRW-v16.04.20.zip"):
        read_prw(prw_tree)


def test_another_letter_case_is_named(prw_tree: Path) -> None:
    (prw_tree / "frames").rename(prw_tree / "Frames")
    with pytest.raises(DatasetError, match=r"expected .*frames; .*; .*Frames differs in letter case: rename it"):
        read_prw(prw_tree)
    (prw_tree / "Frames").rename(prw_tree / "frames")
    (prw_tree / "frames" / "c1s1_000001.jpg").rename(prw_tree / "frames" / "c1s1_000001.JPG")
    with pytest.raises(DatasetError, match=r"1 of 2 files missing .*; c1s1_000001.JPG differs in letter case"):
        read_prw(prw_tree)


def test_frames_in_a_folder_below_are_found(prw_tree: Path) -> None:
    (prw_tree / "frames").rename(prw_tree / "inner")
    (prw_tree / "frames").mkdir()
    (prw_tree / "inner").rename(prw_tree / "frames" / "frames")
    with pytest.raises(DatasetError, match=r"2 of 2 files missing .*c1s1_000001.jpg lies in .*frames/frames: move"):
        read_prw(prw_tree)


def test_a_frame_in_both_splits_is_refused(prw_tree: Path) -> None:
    savemat(prw_tree / "frame_train.mat", {"img_index_train": cells(["c1s1_000001", "c1s2_000003"])})
    with pytest.raises(DatasetError, match=r"1 frames are in both splits: c1s2_000003.jpg"):
        read_prw(prw_tree)


def test_an_identity_in_both_splits_is_doubted(prw_tree: Path) -> None:
    savemat(prw_tree / "ID_train.mat", {"ID_train": np.array([[3, 7, 21]], np.uint16)})
    found = told(read_prw(prw_tree))
    assert "doubtful 1 persons are named in both splits, where training and test persons should differ" in found
    assert "doubtful 1 persons are listed for their split and have no box" in found


def test_a_file_of_matlab_7_3_is_named_with_the_remedy(prw_tree: Path) -> None:
    (prw_tree / "frame_test.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(600))
    with pytest.raises(DatasetError, match=r"frame_test.mat is a MATLAB 7.3 file \(HDF5\), .*save\(..., '-v7'\)"):
        read_prw(prw_tree)


def test_boxes_of_any_size_are_kept_unless_somebody_asks(prw_tree: Path) -> None:
    assert read_prw(prw_tree).report["min_box"] == [0, 0]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("frame_train.mat", {"img_index_train": np.ones((2, 1))}, "a matrix is numbers, expected a cell array"),
        ("frame_test.mat", {"img_index_test": np.ones((2, 1))}, "a matrix is numbers, expected a cell array"),
        ("ID_train.mat", {"ID_train": np.array([[1.5]])}, "identities are not all whole numbers"),
        ("ID_test.mat", {"ID_test2": np.array([[2.0**53]])}, "identities are not all whole numbers"),
        (
            "annotations/c1s1_000001.jpg.mat",
            {"box_new": np.array([[-(2.0**53), 1, 1, 9, 9]])},
            "pids are not all whole",
        ),
    ],
)
def test_what_a_file_holds_wrongly_is_said_behind_its_path(
    prw_tree: Path, name: str, content: dict[str, object], message: str
) -> None:
    savemat(prw_tree / name, content)
    with pytest.raises(DatasetError) as caught:
        read_prw(prw_tree)
    assert str(caught.value).startswith(f"PRW: {prw_tree / name} is damaged or of another layout: {message}")


def test_large_whole_numbers_are_pids(prw_tree: Path) -> None:
    for path in ("annotations/c1s1_000001.jpg.mat", "ID_train.mat"):
        key, row = ("box_new", [2.0**53 - 1, 1, 1, 9, 9]) if "annotations" in path else ("ID_train", [2.0**53 - 1])
        savemat(prw_tree / path, {key: np.array([row])})
    assert read_prw(prw_tree).annotations["c1s1_000001.jpg"].identities.tolist() == [0]


def test_lists_of_frames_that_are_empty_or_say_one_twice_are_refused(prw_tree: Path) -> None:
    savemat(prw_tree / "frame_test.mat", {"img_index_test": np.empty((0, 1), object)})
    with pytest.raises(DatasetError, match=rf"^PRW: {prw_tree}/frame_test.mat lists no frames$"):
        read_prw(prw_tree)
    names = ["c1s2_000003", "c1s2_000003.jpg", "c2s2_000004", "c1s2_000006", "c1s2_000006"]
    savemat(prw_tree / "frame_test.mat", {"img_index_test": cells(names)})
    message = r"frame_test.mat lists a frame more than once: c1s2_000003.jpg, c1s2_000006.jpg$"
    with pytest.raises(DatasetError, match=message):
        read_prw(prw_tree)


def test_cameras_are_in_the_names(prw_tree: Path) -> None:
    for folder, suffix in (("frames", ".jpg"), ("annotations", ".jpg.mat")):
        (prw_tree / folder / f"c3s2_000005{suffix}").rename(prw_tree / folder / f"x3s2_000005{suffix}")
    names = ["c1s2_000003", "c2s2_000004", "x3s2_000005", "c1s2_000006"]
    savemat(prw_tree / "frame_test.mat", {"img_index_test": cells(names)})
    with pytest.raises(DatasetError, match=r"^PRW: frame x3s2_000005.jpg: names look like c1s3_000551"):
        read_prw(prw_tree)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("21 100 20 30 60 c1s2_000003", r"line 2: box \[100.0, 20.0, 30.0, 60.0\] lies outside its frame"),
        ("21 10 20 30 0 c1s2_000003", r"line 2: box \[10.0, 20.0, 30.0, 0.0\] lies outside its frame"),
        ("21 10 20 1e300 60 c1s2_000003", None),
        ("21 10 20 30 60 c1s2_000003 x", r"line 2: expected 'pid x y w h frame', found '21 10 20 30 60 c1s2_000003 x'"),
        ("21 10 " + 90 * "2", rf"line 2: expected 'pid x y w h frame', found '21 10 {74 * '2'}'"),
        ("21 10 20 30 60 c9s2_000003", r"line 2: frame c9s2_000003 is not in frame_test.mat"),
    ],
)
def test_lines_of_queries_are_counted_from_one(prw_tree: Path, line: str, message: str | None) -> None:
    (prw_tree / "query_info.txt").write_text(f"\n{line}\n")
    if message is None:  # cut at the frame
        assert [query.box.tolist() for query in read_prw(prw_tree).queries] == [[10, 20, 100, 80]]
        return
    with pytest.raises(DatasetError, match=rf"^PRW: {prw_tree}/query_info.txt {message}$"):
        read_prw(prw_tree)


def test_published_counts() -> None:
    """Zheng et al., CVPR 2017: 11,816 frames, 43,110 boxes; 482 + 1 and 450 identities, 2,057 queries. The boxes with
    an identity are those of the distributed files."""
    train, test = PUBLISHED["train"], PUBLISHED["test"]
    assert isinstance(train, dict)
    assert isinstance(test, dict)
    totals = {key: train[key] + test[key] for key in train}
    assert totals == {"images": 11_816, "boxes": 43_110, "labelled": 34_034, "identities": 933}
    assert test.keys() == train.keys()
    assert (train["images"], test["identities"], PUBLISHED["queries"]) == (5704, 450, 2057)


def test_nought_is_a_person_who_is_not_listed(prw_tree: Path) -> None:
    savemat(prw_tree / "annotations" / "c3s2_000005.jpg.mat", {"box_new": np.array([[0, 1, 2, 30, 40]])})
    report = read_prw(prw_tree).report["test"]
    assert (report["foreign"], report["labelled"]) == (2, 6)  # type: ignore[index]
