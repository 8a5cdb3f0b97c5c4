"""What is forgotten is in no file of the project any more."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cache import FeatureStore
from cache.verify import verify
from diffps.datasets.files import measure_image
from diffps.datasets.tables import read_annotations, read_queries, read_scenes, write_index
from diffps.errors import ConfigError
from diffps.records import Annotations, Detections, Scene, SearchIndex
from stages import evaluate, extract, forget, report, train
from stages import verify as verify_all
from stages.features.opening import open_store
from stages.finding.gallery_files import GalleryWriter, load_gallery
from stages.finding.segments import NamedFile
from stages.forgetting.chosen import by_name
from stages.forgetting.everywhere import forget_everywhere, forget_removed, removed_images
from stages.forgetting.galleries import in_galleries
from stages.forgetting.reindex import without
from stages.job import QuietJob, Runtime
from stages.places import EVALUATE, INDEX, PROBE, REPORT, TRAIN, calibration_file
from stages.together import json_content, together
from tests.world import FLOAT16, ROOT, STORE, Listener, Project, rewrite_index

HEAD = TRAIN / "head"


@pytest.fixture(scope="module")
def logged(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after every stage, with answers and with the logs that the commands write."""
    folder = tmp_path_factory.mktemp("logged") / "project"
    with pytest.MonkeyPatch.context() as monkeypatch:
        Project.copy_of(whole, folder, monkeypatch)
        Path("results/search").mkdir()
        for scene in read_scenes(INDEX):
            Path(f"results/search/{scene.digest[:6]}.html").write_text(f"<p>{scene.scene_id}</p>")
            line = {"event": "message", "message": f"{scene.scene_id}: odd"}
            with Path("results/train/log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
    return folder


@pytest.fixture
def project(logged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    made = Project.copy_of(logged, tmp_path / "project", monkeypatch)
    made.change(extract=FLOAT16, sweep={"file": "one.yaml"})
    return made


def texts(path: Path) -> bytes:
    """Content of a file; a table's cells as text, as compression hides them."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        data += json.dumps(pq.read_table(path).to_pylist(), default=str).encode()
    return data


def traces_of(scene: Scene, store: FeatureStore) -> dict[str, bytes]:
    """Name, digest, and the latents and features as they lie in the store: what the VAE could make the picture from."""
    found = {"name": scene.scene_id.encode(), "digest": scene.digest.encode()}
    for spec in store.arrays():
        reader = store.reader([spec], images=[(scene.scene_id, scene.digest)])
        if spec.group.split == scene.split and reader.has(scene.scene_id, spec.name):
            found[spec.path] = reader.read(scene.scene_id, spec.name)[0].tobytes()[:400]
    return found


def remembering(traces: dict[str, bytes]) -> list[str]:
    """Files of the project that hold a trace: all but the dataset itself."""
    found = []
    for path in Path().rglob("*"):
        if path.is_file() and not path.is_relative_to("data/streets"):
            content = str(path).encode() + texts(path)
            found += [f"{path}: {what}" for what, trace in traces.items() if trace in content]
    return found


@pytest.mark.parametrize("split", ["train", "test"])
def test_nothing_of_an_image_is_left(project: Project, split: str) -> None:
    scene = next(scene for scene in read_scenes(INDEX) if scene.split == split)
    traces = traces_of(scene, open_store(str(STORE)))
    assert len(traces) > 5
    before = remembering(traces)
    assert {line.rpartition(": ")[2] for line in before} == traces.keys()
    heard = Listener()
    params = project.params()
    forget.run(params.index, HEAD, project.runtime, heard, (scene.scene_id,), dry=True)
    assert remembering(traces) == before
    assert any("would forget 1 images of" in line for line in heard.lines)
    forget.run(params.index, HEAD, project.runtime, heard, (scene.scene_id,))
    assert remembering(traces) == []
    assert len(read_scenes(INDEX)) == 13
    assert (TRAIN / "head").is_dir()
    assert any("results/train/head: CANNOT forget" in line for line in heard.lines) == (split == "train")
    assert not (REPORT / "index.html").exists()
    assert (EVALUATE / "detections.parquet").exists() == (split == "train")
    assert verify(STORE, open_store(str(STORE)).arrays()) == []
    project.run(extract, train, evaluate, report)
    verify_all.run(HEAD, project.runtime, QuietJob())
    assert remembering(traces) == []


def test_a_person_and_a_folder_and_their_heads(project: Project) -> None:
    query = read_queries(INDEX)[0]
    params, heard = project.params(), Listener()
    forget.run(params.index, HEAD, project.runtime, heard, person=f"test:{query.identity}", heads=True)
    assert query.scene_id not in {scene.scene_id for scene in read_scenes(INDEX)}
    assert (TRAIN / "head").is_dir()  # nobody of the test split was learned from
    train_scene = next(scene for scene in read_scenes(INDEX) if scene.split == "train")
    forget.run(params.index, HEAD, project.runtime, heard, (train_scene.scene_id,), heads=True)
    assert not (TRAIN / "head").exists()
    with pytest.raises(ConfigError, match="--folder nowhere: the index has no image below it"):
        forget.run(params.index, HEAD, project.runtime, heard, folder="nowhere")
    forget.run(params.index, HEAD, project.runtime, heard, folder="frames")
    assert read_scenes(INDEX) == []
    with pytest.raises(ConfigError, match="whom"):
        forget.run(params.index, HEAD, project.runtime, heard)


def test_images_that_left_the_dataset_are_forgotten_by_gc(project: Project) -> None:
    gone = read_scenes(INDEX)[0]
    traces = traces_of(gone, open_store(str(STORE)))
    assert removed_images(project.runtime) == []
    rewrite_index(without(INDEX, json_content(INDEX / "report.json", "index"), {gone.scene_id}, ()))
    project.change(runtime={"keep_removed": True})
    assert removed_images(project.runtime) == []
    project.change(runtime={"keep_removed": False})
    found = removed_images(project.runtime)
    assert [(traces.split, len(traces.rows)) for traces in found] == [(gone.split, 1)]
    forget_removed(found, HEAD, project.runtime, QuietJob())
    assert remembering(traces) == []
    assert removed_images(project.runtime) == []


def test_an_image_that_moved_to_the_other_split_is_lost_in_its_old_one_alone(project: Project) -> None:
    scenes = read_scenes(INDEX)
    moved = next(scene for scene in scenes if scene.split == "test")
    report = json_content(INDEX / "report.json", "index")
    index = without(INDEX, report, (), ())
    queries = tuple(query for query in index.queries if query.scene_id != moved.scene_id)
    kept = tuple(replace(scene, split="train") if scene == moved else scene for scene in index.scenes)
    rewrite_index(replace(index, scenes=kept, queries=queries, galleries=()))
    found = removed_images(project.runtime)
    assert [(traces.split, len(traces.rows)) for traces in found] == [("test", 1)]
    forget_removed(found, HEAD, project.runtime, QuietJob())
    assert removed_images(project.runtime) == []
    assert moved.scene_id in {scene.scene_id for scene in read_scenes(INDEX)}
    assert not (EVALUATE / "embeddings.npy").exists()


def test_what_learned_or_measured_goes_and_what_is_of_others_stays(project: Project) -> None:
    scene = next(scene for scene in read_scenes(INDEX) if scene.split == "train")
    ours = [PROBE / "parts/1/t0/fit-00000.npz", PROBE / "table.parquet", calibration_file(HEAD)]
    theirs = [Path("data/other/persons.csv"), Path("data/old/rows/train.parquet"), Path("notes.txt")]
    for path in (*ours, *theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"train,{scene.scene_id},1,1,2,2,anna" if path in theirs else "{}")
    Path("data/old/features.zarr").mkdir()
    heard = Listener()
    forget.run(project.params().index, HEAD, project.runtime, heard, (scene.scene_id, "nobody.jpg"))
    assert not [path for path in ours if path.exists()]
    assert all(scene.scene_id in path.read_text() for path in theirs)
    assert any("data/old: is another store" in line for line in heard.lines)
    assert any("nobody.jpg: neither the index nor the store" in line for line in heard.lines)


def test_a_query_whose_only_match_was_forgotten_is_scored_as_having_none(project: Project) -> None:
    annotations, query = read_annotations(INDEX), read_queries(INDEX)[0]
    others = [
        scene.scene_id
        for scene in read_scenes(INDEX)
        if scene.split == "test"
        and scene.scene_id != query.scene_id
        and query.identity in annotations[scene.scene_id].identities
    ]
    assert others
    forget.run(project.params().index, HEAD, project.runtime, QuietJob(), tuple(others))
    assert query.query_id in {each.query_id for each in read_queries(INDEX)}
    project.run(evaluate)
    scored = {row["query_id"]: row for row in pq.read_table(EVALUATE / "per_query.parquet").to_pylist()}
    assert scored[query.query_id]["existing"] == 0
    assert scored[query.query_id]["ap"] is None


COMMAND = """
import sys
from pathlib import Path
from pipeline.config import load_params
from stages import forget
from stages.job import QuietJob, Runtime
params, runtime = load_params(Path("params.yaml"))
print("started", flush=True)
forget.run(params.index, Path("results/train/head"), runtime, QuietJob(), (sys.argv[1],))
"""


@pytest.mark.slow
def test_killed_half_way_it_can_be_run_again(project: Project, logged: Path, tmp_path: Path) -> None:
    scene = read_scenes(INDEX)[0]
    traces = traces_of(scene, open_store(str(STORE)))
    half = 0
    for number in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, scene.scene_id],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert process.stdout is not None
        with process:
            process.stdout.readline()
            time.sleep(0.01 + 0.04 * number)
            process.send_signal(signal.SIGKILL)
        half += bool(remembering(traces))
        forget.run(project.params().index, HEAD, project.runtime, QuietJob(), (scene.scene_id,))
        assert remembering(traces) == []
        assert scene.scene_id not in {each.scene_id for each in read_scenes(INDEX)}
        project.folder.rename(tmp_path / f"done{number}")
        shutil.copytree(logged, project.folder)
        os.chdir(project.folder)
        project.params()
    assert half >= 2


def test_a_picture_of_a_searched_folder_is_forgotten_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no index knows it: its boxes and embeddings go, those of others stay."""
    monkeypatch.chdir(tmp_path)  # the checkout may be a project that was used
    pictures, galleries = tmp_path / "pictures", tmp_path / "galleries"
    pictures.mkdir()
    for number, colour in enumerate(("teal", "olive", "navy")):
        Image.new("RGB", (40 + number, 30), colour).save(pictures / f"{number}.png")
    names = sorted(path.name for path in pictures.iterdir())
    facts = [measure_image(pictures / name) for name in names]
    with GalleryWriter(galleries / "one", "head", 4) as writer:
        files = [NamedFile(name, each.digest, 1, 1) for name, each in zip(names, facts, strict=True)]
        people = Detections(np.ones((1, 4), np.float32), np.ones(1, np.float32), np.full((1, 4), 0.5, np.float32))
        writer.append([(file, (30, 40), people) for file in files])
    chosen = by_name([str(pictures / names[1])], [], tmp_path)
    (memory,) = in_galleries(chosen, galleries)
    assert memory.path == galleries / "one"
    assert memory.forget is not None
    memory.forget()
    left = load_gallery(galleries / "one")
    assert left.named(facts[1].digest) is None
    assert all(left.named(facts[number].digest) for number in (0, 2))
    assert not list(in_galleries(chosen, galleries))


def test_where_nothing_remembers_them_that_is_said_and_other_stores_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runtime = Runtime()
    for name in ("old", "features"):
        (tmp_path / "data" / name / "features.zarr").mkdir(parents=True)
    chosen = by_name(["b.jpg", "a.jpg"], [], tmp_path)
    strange = [f"{name}: neither the index nor the store has an image of this name" for name in ("a.jpg", "b.jpg")]
    other = "data/old: is another store and is left as it is; --set runtime.store=data/old"
    for dry in (True, False):
        heard = Listener()
        forget_everywhere([chosen], HEAD, runtime, heard, heads=False, dry=dry)
        assert heard.lines[:-1] == [*strange, other, "forget: nothing here remembers them"]
        assert heard.lines[-1].startswith("beyond this project: ")
    assert removed_images(runtime) == []


@pytest.mark.parametrize("dry", [True, False])
def test_an_index_alone_says_how_many_images_are_meant_and_loses_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry: bool
) -> None:
    """One is meant by its name, a copy in the other split by its content."""
    monkeypatch.chdir(tmp_path)
    scenes = tuple(
        Scene(scene_id=name, split=split, path=name, width=9, height=9, digest=digest * 64)
        for name, split, digest in (("a", "train", "1"), ("b", "test", "1"), ("c", "test", "2"))
    )
    nobody = {scene.scene_id: Annotations(np.empty((0, 4), np.float32), np.empty(0, int)) for scene in scenes}
    write_index(SearchIndex(scenes=scenes, annotations=nobody, queries=(), galleries=(), report={}), INDEX)
    Path("results/train/head").mkdir(parents=True)
    log = Path("results/train/log.jsonl")
    log.write_text("a" * 3 + "\n" + "1" * 64 + "\n" + "nothing\n")
    heard = Listener()
    chosen = by_name(["b"], scenes, tmp_path)
    forget_everywhere([chosen], HEAD, Runtime(), heard, heads=False, dry=dry)
    would = "would forget" if dry else "forgets"
    assert heard.lines[:-1] == [
        "results/train/head: CANNOT forget, --heads deletes it (its weights learned from them)",
        f"results/train/log.jsonl: {would} (lines that name them)",
        f"data/index: {would} 2 images",
    ]
    assert [scene.scene_id for scene in read_scenes(INDEX)] == (["a", "b", "c"] if dry else ["c"])
    assert log.read_text().endswith("nothing\n")
    assert (len(log.read_text().splitlines()) == 1) is not dry
    sealed = together(INDEX, "index")
    assert (sealed is None) is dry
    if sealed is not None:
        sealed.check()
        assert "images.parquet" in sealed.files
