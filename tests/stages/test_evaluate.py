"""Scoring an untrained head on the made-up index and features; and what a trained head is shown of a store."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from faster_coco_eval import COCO
from PIL import Image

from cache.errors import CacheError, DamagedError
from diffps.cards import CardFacts, write_card
from diffps.datasets.tables import box_array, read_annotations, read_queries, read_scenes, write_index
from diffps.errors import CheckpointError, ConfigError
from diffps.geometry import Canvas
from diffps.knockouts import knock_outs
from diffps.model import CONFIG_FILE, PersonSearcher, apply_init, build_searcher
from diffps.records import Gallery, SearchIndex
from stages import evaluate, extract, train
from stages.config_heads import CBGMConfig, EvaluateConfig
from stages.features.reading import Reading
from stages.head.saved import check_features, head_digest, reading_of
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime, StoppedError
from stages.places import EVALUATE, INDEX
from stages.search.evaluation import evaluate_head, evaluate_heads
from stages.search.gallery import open_task, read_search_set
from stages.search.tables import made_by, read_detections
from stages.together import content
from tests.world import CPU, FLOAT16, SIZE, Listener, Project, SmallSource, small_params

HEAD = Path("results/train/head")


@pytest.fixture
def source() -> SmallSource:
    return SmallSource()


def head(seed: int = 0) -> PersonSearcher:
    params = small_params()
    torch.manual_seed(seed)
    model = params.train.model
    built = build_searcher(model, params.train.taps, SmallSource().shapes, Canvas(SIZE, SIZE), torch.randn(4, 64), 4)
    apply_init(built, "v1")
    return built.eval()


def config(**changes: Any) -> EvaluateConfig:
    """An untrained head finds nothing above 0.5, so everything is ranked."""
    return EvaluateConfig(**{"score_threshold": 0.0, "baseline": False, "batch": 4, **changes})


def run(source: SmallSource, job: QuietJob | None = None, **changes: Any) -> None:
    """Score an untrained head into results/evaluate; image files lie in the working directory."""
    evaluate_head(
        config(**changes), head(), source, INDEX, ImageFolder(Path(), 10**6), EVALUATE, CPU, job or QuietJob()
    )


def score(searchers: dict[str, PersonSearcher], source: SmallSource, root: Path, **changes: Any) -> dict[str, Any]:
    """Metrics of heads scored side by side into folders of their names below ``root``."""
    test, section = read_search_set(INDEX), config(**changes)
    task = open_task(section.gallery, section.convention, test, INDEX)
    folders = {name: root / name for name in searchers}
    found = evaluate_heads(section, searchers, source, test, task, folders, CPU, QuietJob())
    return {name: evaluation.metrics for name, evaluation in found.items()}


def metrics(folder: Path = EVALUATE) -> dict[str, dict[str, float]]:
    content: dict[str, dict[str, float]] = json.loads((folder / "metrics.json").read_text())
    return content


def test_everything_is_written_and_agrees(here: Path, source: SmallSource) -> None:
    run(source)
    found = metrics()
    assert set(found) == {"detection", "search", "also", "chance", "causes", "learned", "knock_outs", "doubts"}
    assert found["search"]["queries"] == 4
    assert found["search"]["gallery"] == "all"
    per_query = pq.read_table(EVALUATE / "per_query.parquet").to_pylist()
    assert [row["query_id"] for row in per_query] == ["q0", "q1", "q2", "q3"]
    assert found["search"]["map"] == pytest.approx(np.mean([row["ap"] for row in per_query]))
    ranking = pq.read_table(EVALUATE / "ranking.parquet").to_pylist()
    assert {row["rank"] for row in ranking} == set(range(1, 21))
    scenes = {query.query_id: query.scene_id for query in read_queries(INDEX)}
    assert all(row["scene_id"] != scenes[row["query_id"]] for row in ranking)
    for row in per_query:
        first = [entry["rank"] for entry in ranking if entry["query_id"] == row["query_id"] and entry["correct"]]
        if first:
            assert row["first_rank"] == first[0] - 1


def used_head() -> PersonSearcher:
    """A head whose modules all have a say."""
    model = head()
    assert model.dgrpn is not None
    with torch.no_grad():
        model.dgrpn.gamma.fill_(0.5)
        model.reid_head.sfan.alpha.fill_(0.5)
        model.reid_head.sfan.part_weights.copy_(torch.tensor([2.0, 0.0, 1.0, -1.0]))
    return model


def test_knock_outs_are_the_scores_of_the_head_without_the_module(here: Path, source: SmallSource) -> None:
    images = ImageFolder(Path(), 10**6)
    evaluate_head(config(), used_head(), source, INDEX, images, EVALUATE, CPU, QuietJob(), ["a", "b", "c", "d"])
    found = metrics()
    assert source.given == 2  # six scenes in batches of four: one reading serves all of them
    assert set(found["knock_outs"]) == {"dgrpn", "msfrn", "sfan"}
    for name, without in knock_outs(used_head()).items():
        alone = score({"": without}, source, here / name)[""]
        out = found["knock_outs"][name]
        assert out["map"] == alone["search"]["map"]
        assert out["detection_ap"] == alone["detection"]["ap"]
        assert out["map_diff"] == pytest.approx(alone["search"]["map"] - found["search"]["map"])
    learned = found["learned"]
    assert learned["dgrpn"]["gamma"] == 0.5
    assert learned["dgrpn"]["gate_min"] >= 1 < learned["dgrpn"]["gate_max"]
    assert set(learned["sfan"]["weights"]) == {"a", "b", "c", "d"}
    assert learned["sfan"]["gate_min"] < learned["sfan"]["gate_max"] < 1


def test_knock_outs_may_be_left_out(here: Path, source: SmallSource) -> None:
    run(source, knock_outs=False)
    assert metrics()["knock_outs"] == {}
    assert set(metrics()["learned"]) == {"dgrpn", "msfrn", "sfan"}


def test_zero_scores_come_with_their_cause(here: Path, source: SmallSource) -> None:
    job = Listener()
    run(source, job, score_threshold=0.999)
    assert metrics()["causes"]["detections"] == 0
    assert metrics()["causes"]["empty_scenes"] == 6
    assert any("Scored 0 for want of a detection of their person: 4 of 4" in line for line in job.lines)
    assert any("6 of 6 scenes have none" in line for line in job.lines)


def test_boxes_are_in_the_scene_frame(here: Path, source: SmallSource) -> None:
    run(source)
    boxes = box_array(pq.read_table(EVALUATE / "detections.parquet"))
    assert boxes[:, 2].max() > SIZE  # scenes are 100 x 80, the canvas 64 x 64
    assert boxes[:, 2].max() <= 100 + 1e-3
    assert boxes[:, 3].max() <= 80 + 1e-3


def test_other_tools_open_the_detections(here: Path, source: SmallSource) -> None:
    run(source)
    coco = COCO(str(EVALUATE / "coco.json"))
    embeddings = np.load(EVALUATE / "embeddings.npy")
    table = pq.read_table(EVALUATE / "detections.parquet")
    assert len(coco.anns) == len(embeddings) == len(table)
    np.testing.assert_array_equal(embeddings, np.array(table["embedding"].to_pylist(), np.float32))
    assert len(coco.imgs) == 6
    by_scene = read_detections(EVALUATE / "detections.parquet")
    assert sum(map(len, by_scene.values())) == len(embeddings)
    assert all((np.diff(part.scores) <= 0).all() for part in by_scene.values())


def test_several_heads_share_one_reading(here: Path, source: SmallSource) -> None:
    searchers = {"one": head(0), "two": head(1)}
    together = score(searchers, source, here)
    assert source.given == 2  # six scenes in batches of four
    assert together == {name: metrics(here / name) for name in searchers}
    alone = score({"two": head(1)}, source, here / "alone")
    assert alone["two"] == together["two"]


def test_true_boxes_take_the_place_of_detections(here: Path, source: SmallSource) -> None:
    result = score({"a": head()}, source, here, gt_boxes=True)["a"]
    assert result["detection"]["ap"] == result["detection"]["recall"] == result["detection"]["precision"] == 1
    assert result["search"]["recall"] == 1
    assert result["search"]["gt_boxes"] is True


def test_the_batch_changes_nothing_but_rounding(here: Path, source: SmallSource) -> None:
    results = {
        batch: score({"a": head()}, source, here / str(batch), gt_boxes=True, batch=batch)["a"] for batch in (1, 3)
    }
    assert results[1]["search"] == pytest.approx(results[3]["search"])
    tables = [pq.read_table(here / str(batch) / "a/queries.parquet") for batch in (1, 3)]
    first, second = (np.array(table["embedding"].to_pylist()) for table in tables)
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_context_matching_changes_only_the_ranking(here: Path, source: SmallSource) -> None:
    plain = score({"a": head()}, source, here)["a"]
    context = score({"b": head()}, source, here, cbgm=CBGMConfig(k1=10, k2=3))["b"]
    assert context["detection"] == plain["detection"]
    assert context["search"]["cbgm"] is True
    similarity = pq.read_table(here / "b" / "ranking.parquet")["similarity"].to_numpy()
    assert similarity.max() < 1.001  # cosines
    score({"c": head()}, source, here, cbgm=CBGMConfig(k1=10, k2=3, value="sum"))
    assert pq.read_table(here / "c" / "ranking.parquet")["similarity"].to_numpy().max() > 1.5


def test_further_galleries_are_scored_from_the_same_detections(here: Path, source: SmallSource) -> None:
    index = read_scenes(INDEX)
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
            annotations=read_annotations(INDEX),
            queries=tuple(read_queries(INDEX)),
            galleries=(gallery,),
            report={},
        ),
        INDEX,
    )
    run(source, also=(100,))
    assert metrics()["also"]["100"]["queries"] == 1  # type: ignore[index]
    assert source.given == 2
    run(source, gallery=100)
    assert metrics()["search"]["gallery"] == "100"
    with pytest.raises(ConfigError, match=r"evaluate.gallery 50: this dataset has .*cross_camera, 100"):
        run(source, also=(50,))


def test_the_colour_baseline_reads_the_images(here: Path, source: SmallSource) -> None:
    rng = np.random.default_rng(0)
    for scene in read_scenes(INDEX, "test"):
        pixels = rng.integers(0, 256, (scene.height, scene.width, 3), np.uint8)
        Image.fromarray(pixels).save(here / scene.path)
    run(source, baseline=True)
    assert metrics()["baseline"]["recall"] == 1
    (here / read_scenes(INDEX, "test")[3].path).unlink()
    run(source, baseline=True)
    assert metrics()["baseline"] is None


def test_mistakes_are_named(here: Path, source: SmallSource) -> None:
    with pytest.raises(CheckpointError, match=r"results/train/head: .* is missing"):
        evaluate.run(small_params(), Runtime(device="cpu", threads=1), QuietJob())
    with pytest.raises(ConfigError, match=r"evaluate.gallery 4000: this dataset has all, same_camera, cross_camera"):
        run(source, gallery="4000")
    with pytest.raises(ConfigError, match=r"score_threshold 2"):
        EvaluateConfig(score_threshold=2)


def test_stopping_writes_nothing(here: Path, source: SmallSource) -> None:
    with pytest.raises(StoppedError):
        run(source, QuietJob(stopping=True))
    assert not EVALUATE.exists()


def test_scores_that_were_begun_anew_and_not_finished_are_read_by_nobody(here: Path, source: SmallSource) -> None:
    run(source)
    assert content(EVALUATE / "metrics.json", "evaluate")
    (EVALUATE / "card.md").unlink()
    (EVALUATE / "card.md").mkdir()  # in the way of what is written near the end
    with pytest.raises((OSError, CacheError)):
        run(source)
    with pytest.raises(DamagedError, match="evaluate/metrics.json: .*`diffps evaluate`"):
        content(EVALUATE / "metrics.json", "evaluate")


def test_dry_run_names_sizes(here: Path) -> None:
    told = evaluate.dry_run(small_params(), Runtime(), QuietJob())
    assert "6 test scenes (cached features), 4 queries, gallery all" in told


def test_without_a_labelled_person_in_the_gallery_scores_are_undefined(
    here: Path, source: SmallSource, caplog: pytest.LogCaptureFixture
) -> None:
    path = INDEX / "queries.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("identity")
    pq.write_table(table.set_column(place, "identity", [[999] * len(table)]), path)
    with caplog.at_level("INFO"):
        run(source)
    assert metrics()["search"]["map"] is None
    assert metrics()["chance"]["map"] is None
    assert "mAP undefined" in caplog.text
    assert len(pq.read_table(EVALUATE / "ranking.parquet"))


def test_queries_whose_person_is_in_no_gallery_are_counted_and_said(here: Path, source: SmallSource) -> None:
    path = INDEX / "queries.parquet"
    table = pq.read_table(path)
    identities = [999, *table["identity"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("identity"), "identity", [identities]), path)
    job = Listener()
    run(source, job)
    assert metrics()["search"]["queries_without_positives"] == metrics()["causes"]["without_person"] == 1
    assert any("of 3 queries (1 more have nobody to find)" in line for line in job.lines)
    assert any("Left out of the means: 1 of 4 queries" in line for line in job.lines)
    per_query = [row["ap"] for row in pq.read_table(EVALUATE / "per_query.parquet").to_pylist()]
    assert per_query[0] is None
    assert metrics()["search"]["map"] == pytest.approx(np.mean(per_query[1:]))


def test_what_is_said_of_the_scores_are_those_of_the_metrics(here: Path, source: SmallSource) -> None:
    job = Listener()
    run(source, job, gt_boxes=True)
    search, detection, chance = (metrics()[name] for name in ("search", "detection", "chance"))
    assert job.lines[0] == (
        f"evaluate: mAP {search['map']:.1%}, top-1 {search['top1']:.1%} of 4 queries (chance {chance['map']:.1%}); "
        f"detection AP {detection['ap']:.1%}, recall {detection['recall']:.1%}"
    )
    assert detection["ap"] == 1
    assert made_by(EVALUATE / "detections.parquet") == ""  # true boxes are nobody's
    head().save_pretrained(HEAD)
    run(source)
    assert made_by(EVALUATE / "detections.parquet") == head_digest(HEAD)


def test_a_head_of_other_features_is_refused(here: Path, source: SmallSource) -> None:
    head().save_pretrained(HEAD, {"recipe": source.recipe})
    check_features(HEAD, head(), source)
    head().save_pretrained(HEAD, {"recipe": source.recipe | {"unet": "ffff"}})
    with pytest.raises(ConfigError, match=r"evaluate.head results/train/head.*unet: .*ffff.* != .*12ab"):
        check_features(HEAD, head(), source)


def test_a_head_of_another_grid_is_refused(here: Path, source: SmallSource) -> None:
    head().save_pretrained(HEAD)
    name = small_params().train.taps.detection
    source.grids[name] = (4, 4, 12)
    with pytest.raises(ConfigError, match=rf"{name}: \[8,8,12\] != \[4,4,12\]"):
        check_features(HEAD, PersonSearcher.from_pretrained(HEAD), source)


def test_the_head_s_card_is_written_with_its_scores(here: Path, source: SmallSource) -> None:
    head().save_pretrained(HEAD)
    facts = CardFacts(
        dataset="own", backbone="b", features={}, settings={}, scenes=1, identities=1, parameters=1, scores={}
    )
    (HEAD / "README.md").write_text(before := write_card(facts))
    run(source)
    card = (EVALUATE / "card.md").read_text()
    assert f"| mAP | {metrics()['search']['map']:.4f} |" in card
    assert "Not evaluated" not in card
    assert "| msfrn | " in card
    assert "- learned by sfan: alpha 0, " in card
    assert card.split("## Data")[1] == before.split("## Data")[1]
    assert (HEAD / "README.md").read_text() == before


OWN: dict[str, dict[str, Any]] = {
    "extract": {"encoding": "int8", "head": 1, "timesteps": [10]},
    "train": {"timestep": 10, "flip": "feature"},
}
KEPT_LOW = {"evaluate": {"score_threshold": 0.0, "baseline": False}}


def scored() -> tuple[dict[str, Any], bytes]:
    """Scores and detections of the last evaluation."""
    return metrics(), (EVALUATE / "embeddings.npy").read_bytes()


@pytest.mark.parametrize("kind", ["cached", "live"])
def test_a_head_is_shown_what_it_was_trained_on_whatever_the_parameters_say(small: Project, kind: str) -> None:
    """The parameters go on to ask for another timestep, encoding and attention head, which the store holds as well."""
    small.run(extract, train, evaluate, **OWN, **KEPT_LOW)
    own = scored()
    low = {"evaluate": {**KEPT_LOW["evaluate"], "source": kind}}
    small.run(evaluate, extract=FLOAT16, **low)
    assert scored() == own
    small.run(train, evaluate, extract=FLOAT16, **low)
    assert scored() != own


def test_a_head_that_does_not_say_what_it_reads_is_shown_the_encoding_of_the_parameters(small: Project) -> None:
    """Heads of earlier versions say the timestep and the attention head alone."""
    small.run(extract, train, evaluate, **OWN, **KEPT_LOW)
    own, path = scored(), HEAD / CONFIG_FILE
    said = json.loads(path.read_text())
    del said["training"]["reading"]
    path.write_text(json.dumps(said))
    path.with_name("digests.json").unlink()
    small.run(evaluate, extract={"encoding": "int8"}, **KEPT_LOW)
    assert scored() == own
    params = small.params(extract=FLOAT16)
    reading = reading_of(HEAD, PersonSearcher.from_pretrained(HEAD), params.extract)
    assert reading == replace(Reading.of(params.train, params.extract), timestep=10, head=1, mirrored=False)


@pytest.mark.parametrize("reading", [{"names": ["a"]}, {"names": 3}, "all", None])
def test_a_reading_that_is_none_is_named(here: Path, reading: Any) -> None:
    head().save_pretrained(HEAD, {"reading": reading})
    with pytest.raises(CheckpointError, match=r"head/config.json: does not say what the head reads"):
        reading_of(HEAD, head(), small_params().extract)


def test_fewer_detections_than_persons_are_said_and_kept(here: Path, source: SmallSource) -> None:
    job = Listener()
    run(source, job, score_threshold=0.999)
    (doubt,) = metrics()["doubts"]
    assert doubt.startswith("0 detections pass evaluate.score_threshold 0.999, but ")
    assert f"evaluate: {doubt}" in job.lines


def test_colours_that_beat_the_head_are_said(here: Path, source: SmallSource) -> None:
    """Every scene shows the same two colours at the same places: colours find everybody, an untrained head does not."""
    for scene in read_scenes(INDEX, "test"):
        pixels = np.full((scene.height, scene.width, 3), 128, np.uint8)
        for box, identity in zip(*_persons(scene.scene_id), strict=True):
            x1, y1, x2, y2 = (int(side) for side in box)
            pixels[y1:y2, x1:x2] = (60 * identity % 256, 255 - 60 * identity % 256, 90)
        Image.fromarray(pixels).save((here / scene.path).with_suffix(".png"))
        (here / scene.path).with_suffix(".png").rename(here / scene.path)
    run(source, baseline=True)
    found: dict[str, Any] = metrics()
    assert found["baseline"]["map"] > found["search"]["map"]
    assert any(doubt.startswith("colours alone, in true boxes, reach mAP") for doubt in found["doubts"])


def _persons(scene_id: str) -> tuple[np.ndarray, np.ndarray]:
    found = read_annotations(INDEX)[scene_id]
    return found.boxes, found.identities
