"""The stage `evaluate` on a small index, an untrained head and random features in the place of the store's."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from faster_coco_eval import COCO
from PIL import Image

from diffps.cards import CardFacts, write_card
from diffps.datasets.tables import box_array, read_annotations, read_queries, read_scenes, write_index
from diffps.errors import CheckpointError, ConfigError
from diffps.geometry import Canvas
from diffps.heads.config import ModelConfig
from diffps.model import PersonSearcher, apply_init, build_searcher
from diffps.records import Gallery, SearchIndex
from stages.evaluate import dry_run, run
from stages.job import QuietJob, RuntimeConfig, StoppedError
from stages.params import CBGMConfig
from stages.params import EvaluateConfig as Config
from stages.places import INDEX_FOLDER
from stages.search.evaluation import evaluate_searchers
from stages.search.tables import read_detections
from tests.stages.small import SIZE, SmallSource, small_params, write_small_index

FOLDER = Path("results/evaluate")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_small_index(tmp_path)
    return tmp_path


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> SmallSource:
    found = SmallSource()
    monkeypatch.setattr("stages.features.source.open_source", lambda *args, **options: found)
    return found


def head(seed: int = 0) -> PersonSearcher:
    params = small_params()
    torch.manual_seed(seed)
    model: ModelConfig = params.train.model
    built = build_searcher(model, params.train.taps, SmallSource().shapes, Canvas(SIZE, SIZE), torch.randn(4, 64), 4)
    apply_init(built, "xavier")
    return built.eval()


def params(root: Path, **changes: object) -> SimpleNamespace:
    """An untrained head finds nothing above 0.5, so everything is ranked."""
    config = Config(**{"score_threshold": 0.0, "baseline": False, "batch": 4, **changes})  # type: ignore[arg-type]
    return SimpleNamespace(evaluate=config, index=SimpleNamespace(root=str(root)))


def quiet() -> QuietJob:
    return QuietJob(RuntimeConfig(device="cpu"))


def metrics(folder: Path = FOLDER) -> dict[str, dict[str, float]]:
    content: dict[str, dict[str, float]] = json.loads((folder / "metrics.json").read_text())
    return content


def test_everything_is_written_and_agrees(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"))
    run(params(here), quiet())
    found = metrics()
    assert set(found) == {"detection", "search", "also", "chance"}
    assert found["search"]["queries"] == 4
    assert found["search"]["gallery"] == "all"
    per_query = pq.read_table(FOLDER / "per_query.parquet").to_pylist()
    assert [row["query_id"] for row in per_query] == ["q0", "q1", "q2", "q3"]
    assert found["search"]["map"] == pytest.approx(np.mean([row["ap"] for row in per_query]))
    ranking = pq.read_table(FOLDER / "ranking.parquet").to_pylist()
    assert {row["rank"] for row in ranking} == set(range(1, 21))
    scenes = {query.query_id: query.scene_id for query in read_queries(INDEX_FOLDER)}
    assert all(row["scene_id"] != scenes[row["query_id"]] for row in ranking)
    for row in per_query:
        first = [entry["rank"] for entry in ranking if entry["query_id"] == row["query_id"] and entry["correct"]]
        if first:
            assert row["first_rank"] == first[0] - 1


def test_boxes_are_in_the_scene_frame(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"))
    run(params(here), quiet())
    boxes = box_array(pq.read_table(FOLDER / "detections.parquet"))
    assert boxes[:, 2].max() > SIZE  # scenes are 100 x 80, the canvas 64 x 64
    assert boxes[:, 2].max() <= 100 + 1e-3
    assert boxes[:, 3].max() <= 80 + 1e-3


def test_other_tools_open_the_detections(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"))
    run(params(here), quiet())
    coco = COCO(str(FOLDER / "coco.json"))
    embeddings = np.load(FOLDER / "embeddings.npy")
    table = pq.read_table(FOLDER / "detections.parquet")
    assert len(coco.anns) == len(embeddings) == len(table)
    np.testing.assert_array_equal(embeddings, np.array(table["embedding"].to_pylist(), np.float32))
    assert len(coco.imgs) == 6
    by_scene = read_detections(FOLDER / "detections.parquet")
    assert sum(map(len, by_scene.values())) == len(embeddings)
    assert all((np.diff(part.scores) <= 0).all() for part in by_scene.values())


def test_several_heads_share_one_reading(here: Path, source: SmallSource) -> None:
    searchers = {"one": head(0), "two": head(1)}
    folders = {name: here / name for name in searchers}
    together = evaluate_searchers(params(here), quiet(), searchers, source, folders)
    assert source.given == 2  # six scenes in batches of four
    assert together == {name: metrics(folder) for name, folder in folders.items()}
    alone = evaluate_searchers(params(here), quiet(), {"two": head(1)}, source, {"two": here / "alone"})
    assert alone["two"] == together["two"]


def test_true_boxes_take_the_place_of_detections(here: Path, source: SmallSource) -> None:
    result = evaluate_searchers(params(here, gt_boxes=True), quiet(), {"a": head()}, source, {"a": here / "a"})["a"]
    assert result["detection"]["ap"] == result["detection"]["recall"] == result["detection"]["precision"] == 1
    assert result["search"]["recall"] == 1
    assert result["search"]["gt_boxes"] is True


def test_the_batch_changes_nothing_but_rounding(here: Path, source: SmallSource) -> None:
    results = {
        batch: evaluate_searchers(
            params(here, gt_boxes=True, batch=batch), quiet(), {"a": head()}, source, {"a": here / str(batch)}
        )["a"]
        for batch in (1, 3)
    }
    assert results[1]["search"] == pytest.approx(results[3]["search"])
    tables = [pq.read_table(here / str(batch) / "queries.parquet") for batch in (1, 3)]
    first, second = (np.array(table["embedding"].to_pylist()) for table in tables)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_context_matching_changes_only_the_ranking(here: Path, source: SmallSource) -> None:
    plain = evaluate_searchers(params(here), quiet(), {"a": head()}, source, {"a": here / "a"})["a"]
    context = evaluate_searchers(
        params(here, cbgm=CBGMConfig(k1=10, k2=3)), quiet(), {"a": head()}, source, {"a": here / "b"}
    )["a"]
    assert context["detection"] == plain["detection"]
    assert context["search"]["cbgm"] is True
    similarity = pq.read_table(here / "b" / "ranking.parquet")["similarity"].to_numpy()
    assert similarity.max() > 1.5  # sums of matched pairs


def test_further_galleries_are_scored_from_the_same_detections(here: Path, source: SmallSource) -> None:
    index = read_scenes(INDEX_FOLDER)
    number = next(row for row, scene in enumerate(index) if scene.split == "test")
    gallery = Gallery(
        name="100",
        query_ids=("q1",),
        scenes=(np.arange(number, number + 4, dtype=np.int32),),
        positive_scenes=(np.array([number], np.int32),),
        positive_boxes=(np.float32([[0, 8, 30, 70]]),),
    )
    write_index(
        SearchIndex(
            scenes=tuple(index),
            annotations=read_annotations(INDEX_FOLDER),
            queries=tuple(read_queries(INDEX_FOLDER)),
            galleries=(gallery,),
            report={},
        ),
        INDEX_FOLDER,
    )
    head().save_pretrained(Path("results/train/head"))
    run(params(here, also=(100,)), quiet())
    assert metrics()["also"]["100"]["queries"] == 1  # type: ignore[index]
    assert source.given == 2
    run(params(here, gallery=100), quiet())
    assert metrics()["search"]["gallery"] == "100"
    with pytest.raises(ConfigError, match=r"evaluate.gallery 50: this dataset has .*cross_camera, 100"):
        run(params(here, also=(50,)), quiet())


def test_the_colour_baseline_reads_the_images(here: Path, source: SmallSource) -> None:
    rng = np.random.default_rng(0)
    for scene in read_scenes(INDEX_FOLDER, "test"):
        pixels = rng.integers(0, 256, (scene.height, scene.width, 3), np.uint8)
        Image.fromarray(pixels).save(here / scene.path)
    head().save_pretrained(Path("results/train/head"))
    run(params(here, baseline=True), quiet())
    assert metrics()["baseline"]["recall"] == 1
    (here / read_scenes(INDEX_FOLDER, "test")[3].path).unlink()
    run(params(here, baseline=True), quiet())
    assert metrics()["baseline"] is None


def test_mistakes_are_named(here: Path, source: SmallSource) -> None:
    with pytest.raises(CheckpointError, match=r"results/train/head: .* is missing"):
        run(params(here), quiet())
    head().save_pretrained(Path("results/train/head"))
    with pytest.raises(ConfigError, match=r"evaluate.gallery 4000: this dataset has all, same_camera, cross_camera"):
        run(params(here, gallery="4000"), quiet())
    with pytest.raises(ConfigError, match=r"score_threshold 2"):
        Config(score_threshold=2)


def test_stopping_writes_nothing(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"))
    with pytest.raises(StoppedError):
        run(params(here), replace(quiet(), stopping=True))
    assert not FOLDER.exists()


def test_dry_run_names_sizes(here: Path) -> None:
    assert "6 test scenes (cached features), 4 queries, gallery all" in dry_run(params(here), quiet())


def test_without_a_labelled_person_in_the_gallery_scores_are_undefined(
    here: Path, source: SmallSource, caplog: pytest.LogCaptureFixture
) -> None:
    head().save_pretrained(Path("results/train/head"))
    path = INDEX_FOLDER / "queries.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("identity")
    pq.write_table(table.set_column(place, "identity", [[999] * len(table)]), path)
    with caplog.at_level("INFO"):
        run(params(here), quiet())
    assert metrics()["search"]["map"] is None
    assert metrics()["chance"]["map"] is None
    assert "mAP undefined" in caplog.text
    assert len(pq.read_table(FOLDER / "ranking.parquet"))


def test_a_head_of_another_timestep_is_refused(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"), {"training": {"timestep": 50}})
    wanted = params(here)
    wanted.train = SimpleNamespace(timestep=0)
    with pytest.raises(ConfigError, match=r"trained at timestep 50.*--set train\.timestep=50"):
        run(wanted, quiet())


def test_a_head_of_other_features_is_refused(here: Path, source: SmallSource) -> None:
    folder = Path("results/train/head")
    head().save_pretrained(folder, {"recipe": source.recipe})
    run(params(here), quiet())
    head().save_pretrained(folder, {"recipe": source.recipe | {"unet": "ffff"}})
    with pytest.raises(ConfigError, match=r"evaluate.head results/train/head.*unet: .*ffff.* != .*12ab"):
        run(params(here), quiet())


def test_a_head_of_another_grid_is_refused(here: Path, source: SmallSource) -> None:
    head().save_pretrained(Path("results/train/head"))
    name = small_params().train.taps.detection
    source.grids[name] = (4, 4, 12)
    with pytest.raises(ConfigError, match=rf"{name}: \[8,8,12\] != \[4,4,12\]"):
        run(params(here), quiet())


def test_the_head_s_card_is_written_with_its_scores(here: Path, source: SmallSource) -> None:
    folder = Path("results/train/head")
    head().save_pretrained(folder)
    facts = CardFacts(
        dataset="own", backbone="b", features={}, settings={}, scenes=1, identities=1, parameters=1, scores={}
    )
    (folder / "README.md").write_text(before := write_card(facts))
    run(params(here), quiet())
    card = (FOLDER / "card.md").read_text()
    assert f"| mAP | {metrics()['search']['map']:.4f} |" in card
    assert "Not evaluated" not in card
    assert card.split("## Data")[1] == before.split("## Data")[1]
    assert (folder / "README.md").read_text() == before
