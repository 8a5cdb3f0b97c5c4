"""Annotations and images are inputs: `dvc repro` notices what changed, and computes what that concerns."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from diffps.datasets.tables import read_annotations, read_queries, read_scenes
from diffps.records import UNLABELLED
from tests.pipeline.project import Project

PHOTOGRAPHS = Path("data/photographs")


@pytest.fixture
def as_csv(project: Project) -> Path:
    """The drawn scenes as a folder of images and a CSV file, indexed; gives the CSV file."""
    index, root = project.root / "data/index", project.root / PHOTOGRAPHS
    persons, asked = read_annotations(index), {(q.scene_id, tuple(q.box)) for q in read_queries(index)}
    (root / "images").mkdir(parents=True)
    table = root / "persons.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["split", "image", "x1", "y1", "x2", "y2", "person", "query", "camera"])
        for scene in read_scenes(index):
            shutil.copy(project.root / "data/streets" / scene.path, root / "images" / scene.scene_id)
            for box, identity in zip(persons[scene.scene_id].boxes, persons[scene.scene_id].identities, strict=True):
                name = "" if identity == UNLABELLED else int(identity)
                query = int((scene.scene_id, tuple(box)) in asked)
                writer.writerow([scene.split, scene.scene_id, *map(float, box), name, query, scene.camera])
    use(project, "folder", PHOTOGRAPHS)
    return table


@pytest.fixture
def as_coco(project: Project, as_csv: Path) -> Path:
    """The same as COCO, indexed; gives train.json."""
    with as_csv.open() as file:
        rows = list(csv.DictReader(file))
    for split in ("train", "test"):
        names = sorted({row["image"] for row in rows if row["split"] == split})
        images = [{"id": n, "file_name": name, "camera": int(_camera(rows, name))} for n, name in enumerate(names)]
        annotations = [
            {
                "id": number,
                "image_id": names.index(row["image"]),
                "category_id": 1,
                "bbox": [x := float(row["x1"]), y := float(row["y1"]), float(row["x2"]) - x, float(row["y2"]) - y],
                "person_id": int(row["person"] or -1),
                "query": row["query"] == "1",
            }
            for number, row in enumerate(rows)
            if row["split"] == split
        ]
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
        (as_csv.parent / f"{split}.json").write_text(json.dumps(content))
    as_csv.unlink()
    use(project, "coco", PHOTOGRAPHS)
    return as_csv.with_name("train.json")


@pytest.fixture
def as_prw(project: Project) -> Path:
    """The same as PRW's own files, indexed; gives one of its .mat files."""
    root = project.root / "data/prw"
    shutil.copytree(project.root / "data/streets", root, ignore=shutil.ignore_patterns("streets.json", "README.md"))
    use(project, "prw", Path("data/prw"))
    scene = next(scene for scene in read_scenes(project.root / "data/index") if scene.split == "train")
    return root / "annotations" / f"{scene.scene_id}.mat"


def use(project: Project, dataset: str, root: Path) -> None:
    project.params({"index": {"dataset": dataset, "root": str(root), "tolerate": 1.0}, "evaluate": {"also": []}})
    project.run("dvc", "repro", "index")
    assert "index" not in project.would_run()


def _camera(rows: list[dict[str, str]], name: str) -> str:
    return next(row["camera"] for row in rows if row["image"] == name)


def replace_by_teal(path: Path) -> None:
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, "teal").save(path)


def correct_csv(path: Path) -> None:
    with path.open() as file:
        rows = list(csv.reader(file))
    rows[1][4] = str(float(rows[1][4]) - 2)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def correct_json(path: Path) -> None:
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] -= 2
    path.write_text(json.dumps(content))


def correct_mat(path: Path) -> None:
    content = loadmat(path)
    content["box_new"][0, 3] -= 2
    savemat(path, {"box_new": content["box_new"]})


@pytest.mark.parametrize(
    ("kind", "correct"),
    [
        ("as_csv", correct_csv),
        pytest.param("as_coco", correct_json, marks=pytest.mark.slow),
        pytest.param("as_prw", correct_mat, marks=pytest.mark.slow),
    ],
)
def test_corrected_annotations_are_indexed_again(
    project: Project, request: pytest.FixtureRequest, kind: str, correct: Callable[[Path], None]
) -> None:
    annotations: Path = request.getfixturevalue(kind)
    before = read_annotations(project.root / "data/index")
    correct(annotations)
    assert "index" in project.would_run()
    project.run("dvc", "repro", "index")
    after = read_annotations(project.root / "data/index")
    changed = [name for name in before if (before[name].boxes != after[name].boxes).any()]
    assert len(changed) == 1
    # Scores follow; features do not.
    assert {"train", "evaluate"} & project.would_run()


def test_images_added_removed_and_replaced_are_noticed(project: Project, as_csv: Path) -> None:
    images = sorted((as_csv.parent / "images").iterdir())
    shutil.copy(images[0], images[0].with_name("another.jpg"))
    assert "index" in project.would_run()
    images[0].with_name("another.jpg").unlink()
    assert "index" not in project.would_run()
    kept = images[0].read_bytes()
    replace_by_teal(images[0])
    assert "index" in project.would_run()
    images[0].write_bytes(kept)
    assert "index" not in project.would_run()
    images[0].unlink()
    assert "index" in project.would_run()


@pytest.mark.slow
def test_only_the_features_of_a_replaced_image_are_computed(project: Project, as_csv: Path) -> None:
    project.repro()
    before = project.files("data/features/features.zarr")
    image = next(path for path in sorted((as_csv.parent / "images").iterdir()) if path.name.startswith("c1s2"))
    replace_by_teal(image)
    ran = project.repro()
    assert ran[:3] == ["index", "encode", "extract"]
    after = project.files("data/features/features.zarr")
    written = {path for path in after if "/c/" in path and after[path] != before.get(path)}
    assert written
    assert all("/test/" in path for path in written)
    shards = {path.rpartition("/c/")[2].split("/")[0] for path in written}
    assert len(shards) == 1
    assert project.repro() == []


@pytest.mark.slow
def test_two_data_sets_of_equal_names_keep_their_features_in_one_store(project: Project, as_csv: Path) -> None:
    """One after the other in one clone, and back: what the first had is there."""
    project.repro()
    other = as_csv.parent.with_name("others")
    shutil.copytree(as_csv.parent, other)
    for image in (other / "images").iterdir():
        replace_by_teal(image)
    use(project, "folder", other.relative_to(project.root))
    assert {"encode", "extract", "train"} <= set(project.repro())
    after = project.files("data/features/features.zarr")
    status = project.run("diffps", "cache", "status").stdout
    names = {line.split()[2].strip(":") for line in status.splitlines() if line.startswith("data set ")}
    assert sorted(name.partition("-")[0] for name in names) == ["folder", "folder", "streets"]
    use(project, "folder", PHOTOGRAPHS)
    project.repro()
    again = project.files("data/features/features.zarr")
    shards = {path for path in after if "/c/" in path}
    assert {path: again[path] for path in shards} == {path: after[path] for path in shards}
    assert project.run("diffps", "cache", "gc", "--yes").stdout.endswith(
        "nothing to delete: every array is asked for\n"
    )
