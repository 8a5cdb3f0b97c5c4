"""The JSON that AlignPS and others distribute for PRW and CUHK-SYSU, in place of the .mat files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from diffps.datasets.benchmark_json import as_benchmark, find_benchmark_json, recognise
from diffps.datasets.coco import read_coco
from diffps.datasets.coco_files import CocoFile
from diffps.datasets.cuhk_sysu import read_cuhk_sysu
from diffps.datasets.files import ImageFacts
from diffps.datasets.findings import require_plausible
from diffps.datasets.prw import PUBLISHED, read_prw
from diffps.errors import DatasetError
from diffps.records import SearchIndex
from tests.datasets.json_trees import alignps_json, write_cuhk_json, write_prw_json
from tests.datasets.told import findings

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "prw"


def same(found: SearchIndex, expected: SearchIndex) -> None:
    assert found.scenes == expected.scenes
    for name, persons in expected.annotations.items():
        np.testing.assert_array_equal(found.annotations[name].boxes, persons.boxes)
        np.testing.assert_array_equal(found.annotations[name].identities, persons.identities)
    assert [(q.query_id, q.scene_id, q.identity, q.box.tolist()) for q in found.queries] == [
        (q.query_id, q.scene_id, q.identity, q.box.tolist()) for q in expected.queries
    ]
    assert [gallery.query_ids for gallery in found.galleries] == [gallery.query_ids for gallery in expected.galleries]


@pytest.mark.parametrize("listed", [True, False])
def test_prw_in_json_is_prw(prw_tree: Path, listed: bool) -> None:
    expected = read_prw(prw_tree)
    write_prw_json(prw_tree, ("train_pid.json", "test_pid.json"), "/home/yy1/data/frames/")
    for name in ("frame_train.mat", "frame_test.mat", "ID_train.mat", *(() if listed else ("ID_test.mat",))):
        (prw_tree / name).unlink()
    same(read_prw(prw_tree), expected)
    same(read_coco(prw_tree), expected)


def test_prw_in_json_without_its_queries_is_refused(prw_tree: Path) -> None:
    write_prw_json(prw_tree, ("train_pid.json", "test_pid.json"))
    for name in ("frame_train.mat", "frame_test.mat", "query_info.txt"):
        (prw_tree / name).unlink()
    for read in (read_prw, read_coco):
        with pytest.raises(
            DatasetError, match=r"PRW: list of queries \(2057 lines in PRW's archive\) missing: expected"
        ):
            read(prw_tree)


def test_prw_in_json_among_ones_own_data_is_recognised(prw_tree: Path) -> None:
    """As somebody who never saw PRW's archive would lay it out."""
    expected = read_prw(prw_tree)
    write_prw_json(prw_tree, ("train.json", "test.json"))
    (prw_tree / "frames").rename(prw_tree / "images")
    index = read_coco(prw_tree)
    assert len(index.queries) == len(expected.queries) == 2
    assert index.scenes[0].path == "images/c1s1_000001.jpg"


def test_prw_in_json_with_queries_of_its_own_is_read_as_it_is(prw_tree: Path) -> None:
    write_prw_json(prw_tree, ("train.json", "test.json"))
    (prw_tree / "frames").rename(prw_tree / "images")
    content = json.loads((prw_tree / "test.json").read_text())
    content["annotations"][0]["query"] = True
    (prw_tree / "test.json").write_text(json.dumps(content))
    assert [query.identity for query in read_coco(prw_tree).queries] == [21]


def test_cuhk_sysu_in_json_is_cuhk_sysu(cuhk_tree: Path) -> None:
    expected = read_cuhk_sysu(cuhk_tree)
    write_cuhk_json(cuhk_tree)
    same(read_cuhk_sysu(cuhk_tree), expected)
    same(read_coco(cuhk_tree, min_box=(10, 20)), expected)


@pytest.mark.parametrize(("pid", "identities"), [(5555, [0, -1]), (-1, [0, -1]), (5556, [0, 1]), (5554, [0, 1])])
def test_a_train_person_of_no_name_in_json_is_unlabelled(cuhk_tree: Path, pid: int, identities: list[int]) -> None:
    write_cuhk_json(cuhk_tree)
    path = cuhk_tree / "annotation" / "train_pid.json"
    content = json.loads(path.read_text())
    (person,) = (part for part in content["annotations"] if part["bbox"] == [10, 10, 8, 40])
    person["person_id"] = pid
    path.write_text(json.dumps(content))
    index = read_cuhk_sysu(cuhk_tree, min_box=(0, 0))
    assert index.annotations["s5.jpg"].identities.tolist() == identities
    assert index.report["train"]["identities"] == len(set(identities) - {-1})  # type: ignore[index]


def test_cuhk_sysu_in_json_without_galleries_is_refused(cuhk_tree: Path) -> None:
    write_cuhk_json(cuhk_tree)
    for path in (cuhk_tree / "annotation/test").rglob("*.mat"):
        path.unlink()
    for read in (read_cuhk_sysu, read_coco):
        with pytest.raises(
            DatasetError, match=r"queries and galleries .*the 2900 queries\) missing: expected .*TestG100"
        ):
            read(cuhk_tree)


def test_ones_own_photographs_of_such_names_stay_ones_own(folder: Path) -> None:
    (folder / "images" / "c.jpg").rename(folder / "images" / "s1.jpg")
    content = alignps_json({"s1.jpg": [(1, (1, 1, 20, 40))], "e.jpg": [(1, (1, 1, 20, 40))]})
    for image in content["images"]:
        image.update(width=100, height=80)
    (folder / "test.json").write_text(json.dumps(content))
    assert len(read_coco(folder).queries) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [{"id": 0}]}, r"PRW: .*test_pid.json: image 0 has no id of its own, or no file_name"),
        (
            {"annotations": [{"image_id": 9, "bbox": [1, 2, 3, 4]}]},
            r"annotation 0: image_id or bbox are missing or wrong",
        ),
        ({"annotations": [{"image_id": 0, "bbox": [1, 2, 3, 4], "person_id": "x"}]}, r"annotation 0: person_id 'x'"),
        ({"annotations": [{"image_id": 0, "bbox": 5}]}, r"annotation 0: image_id or bbox are missing or wrong"),
        ({"annotations": 5}, r"is not a COCO file: annotations is '5', expected a list"),
    ],
)
def test_mistakes_in_the_json_are_named(prw_tree: Path, change: dict[str, Any], message: str) -> None:
    write_prw_json(prw_tree, ("train_pid.json", "test_pid.json"))
    for name in ("frame_train.mat", "frame_test.mat"):
        (prw_tree / name).unlink()
    content = json.loads((prw_tree / "test_pid.json").read_text())
    (prw_tree / "test_pid.json").write_text(json.dumps(content | change))
    with pytest.raises(DatasetError, match=message):
        read_prw(prw_tree)


@pytest.mark.skipif(not SHARED.is_dir(), reason="PRW's ground truth (../shared/data/prw) is not here")
def test_the_real_json_gives_the_published_counts_and_no_invented_queries(tmp_path: Path) -> None:
    """Frames are empty files whose sizes are handed over; a query stands in for each identity."""
    (tmp_path / "frames").mkdir()
    sizes: dict[str, tuple[int, int]] = {}
    queries: dict[int, str] = {}
    for split in ("train", "test"):
        (tmp_path / f"{split}_pid.json").symlink_to(SHARED / f"{split}_pid.json")
        content = json.loads((SHARED / f"{split}_pid.json").read_text())
        names = {image["id"]: image["file_name"] for image in content["images"]}
        sizes |= {image["file_name"]: (image["width"], image["height"]) for image in content["images"]}
        for person in content["annotations"] if split == "test" else ():
            pid, frame = person["person_id"], names[person["image_id"]].removesuffix(".jpg")
            if pid >= 0:
                queries.setdefault(pid, f"{pid} {' '.join(map(str, person['bbox']))} {frame}")
    for name in sizes:
        (tmp_path / "frames" / name).touch()
    listed = sorted(queries)[:450]  # ID_test.mat lists 450 of the 544 identities that test frames show
    savemat(tmp_path / "ID_test.mat", {"ID_test2": np.array(listed)})
    (tmp_path / "query_info.txt").write_text("\n".join(queries[pid] for pid in listed))

    def measure(paths: Sequence[Path]) -> list[ImageFacts]:
        return [ImageFacts(*sizes[path.name], path.name) for path in paths]

    index = read_coco(tmp_path, measure=measure)
    for split in ("train", "test"):
        found: dict[str, int] = index.report[split]  # type: ignore[assignment]
        expected: dict[str, int] = PUBLISHED[split]  # type: ignore[assignment]
        assert {name: found[name] for name in expected} == expected
    assert index.report["train"]["images_without_labelled"] == 40  # type: ignore[index]
    assert len(index.queries) == 450
    require_plausible(finding for finding in findings(index) if finding.of != "queries")
    assert {finding.count for finding in findings(index, "refused")} == set()


def coco_file(*names: str, **annotation: object) -> CocoFile:
    return CocoFile(Path("x.json"), [{"file_name": name} for name in names], [annotation], [])


@pytest.mark.parametrize(
    ("names", "benchmark"),
    [
        (["c1s1_000001.jpg", "/data/c6s9_123456.jpg"], "PRW"),
        (["c1s1_000001.jpg", "a.jpg"], None),
        (["c7s1_000001.jpg"], None),
        ([f"s{number}.jpg" for number in range(1000)], "CUHK-SYSU"),
        ([f"s{number}.jpg" for number in range(999)], None),
        ([f"s{number}.jpg" for number in range(999)] + ["t1.jpg"], None),
        (["raid/SSM/s1.jpg", "s2.jpg"], "CUHK-SYSU"),
        ([], None),
    ],
)
def test_benchmarks_are_known_by_the_names_of_their_images(
    tmp_path: Path, names: list[str], benchmark: str | None
) -> None:
    assert recognise([coco_file(*names, person_id=1)], tmp_path) == benchmark
    half = len(names) // 2
    assert recognise([coco_file(*names[:half]), coco_file(*names[half:])], tmp_path) == benchmark
    assert recognise([coco_file(*names, query=False)], tmp_path) is None


def test_a_folder_of_the_benchmark_speaks_for_few_images(tmp_path: Path) -> None:
    (tmp_path / "Image" / "SSM").mkdir(parents=True)
    assert recognise([coco_file("s1.jpg")], tmp_path) == "CUHK-SYSU"
    assert recognise([coco_file("a.jpg")], tmp_path) is None
    assert recognise([coco_file()], tmp_path) is None


def test_persons_of_the_json_by_image(tmp_path: Path) -> None:
    images: list[Any] = [{"id": 1, "file_name": r"C:\x\a.jpg"}, {"id": "b", "file_name": "b.jpg"}]
    persons: list[Any] = [
        {"image_id": "b", "bbox": [1, 2, 3, 4], "person_id": 7.0},
        {"image_id": "b", "bbox": ["5", 6, 7, 8]},
    ]
    found = as_benchmark(CocoFile(tmp_path, images, persons, []), "X").persons
    assert [(name, pids.tolist(), boxes.tolist()) for name, (pids, boxes) in found.items()] == [
        ("a.jpg", [], []),
        ("b.jpg", [7, -1], [[1, 2, 3, 4], [5, 6, 7, 8]]),
    ]
    for wrong, message in (
        ([*images, {"id": 1, "file_name": "c.jpg"}], "image 2 has no id of its own, or no file_name"),
        ([*images, {"id": 2.5, "file_name": "c.jpg"}], "image 2 has no id of its own"),
        ([*images, {"id": 2, "file_name": "y/b.jpg"}], "two images have the same name"),
    ):
        with pytest.raises(DatasetError, match=rf"^X: {tmp_path}: {message}"):
            as_benchmark(CocoFile(tmp_path, wrong, persons, []), "X")
    with pytest.raises(DatasetError, match=rf"^X: {tmp_path}: annotation 1: image_id or bbox are missing or wrong$"):
        as_benchmark(CocoFile(tmp_path, images, [persons[0], {"image_id": 5, "bbox": [1, 2, 3, 4]}], []), "X")


def test_the_first_folder_and_file_of_each_split_is_read(tmp_path: Path) -> None:
    assert find_benchmark_json(tmp_path, "X") == {}
    content = json.dumps({"images": [], "annotations": []})
    for name in ("anno/train.json", "annotations/train_pid_new.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert find_benchmark_json(tmp_path, "X") == {}
    for name in ("test.json", "annotations/test_pid.json"):
        (tmp_path / name).write_text(content)
    found = find_benchmark_json(tmp_path, "X")
    assert {split: str(part.path.relative_to(tmp_path)) for split, part in found.items()} == {
        "train": "annotations/train_pid_new.json",
        "test": "test.json",
    }
