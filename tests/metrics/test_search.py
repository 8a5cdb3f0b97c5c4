"""Search scores against a slow evaluator written straight from the protocol's text, on many random worlds."""

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from diffps.errors import DatasetError
from diffps.metrics.counting import Overrides
from diffps.metrics.matching import Convention
from diffps.metrics.search import Positives, SearchScores, score_search
from diffps.metrics.similarity import GRID, exact_unit_rows
from tests.metrics.worlds import iou

Array = np.ndarray


@dataclass(frozen=True)
class World:
    query_embeddings: Array
    embeddings: Array
    boxes: Array
    scenes: Array
    positives: Positives
    galleries: list[Array] | None
    excluded: Array | None

    def score(self, convention: Convention, **options: object) -> SearchScores:
        return score_search(
            self.query_embeddings,
            self.embeddings,
            self.boxes,
            self.scenes,
            self.positives,
            galleries=self.galleries,
            excluded=self.excluded,
            convention=convention,
            **options,  # type: ignore[arg-type]
        )


def random_world(seed: int) -> World:
    """Few directions and few boxes, so that ties, duplicates and near misses are common."""
    rng = np.random.default_rng(seed)
    queries, scene_count = int(rng.integers(1, 5)), int(rng.integers(1, 9))
    detections, rows = int(rng.integers(0, 40)), int(rng.integers(0, 25))

    def boxes(n: int) -> Array:
        sizes = rng.choice([4, 12, 30, 60], (n, 2)) + rng.integers(0, 3, (n, 2))
        corners = rng.integers(0, 4, (n, 2)) * 5
        return np.concatenate([corners, corners + sizes], axis=1).astype(np.float32)

    ragged = rng.random() < 0.6
    galleries = [rng.integers(0, scene_count, rng.integers(0, 12)) for _ in range(queries)] if ragged else None
    return World(
        query_embeddings=rng.integers(-1, 2, (queries, 3)).astype(np.float32),
        embeddings=rng.integers(-1, 2, (detections, 3)).astype(np.float32),
        boxes=boxes(detections),
        scenes=rng.integers(0, scene_count, detections),
        positives=Positives(rng.integers(0, queries, rows), rng.integers(0, scene_count, rows), boxes(rows)),
        galleries=galleries,
        excluded=rng.integers(-1, scene_count, queries) if rng.random() < 0.5 else None,
    )


def cosine(a: Array, b: Array) -> float:
    """Rounded far above float64's noise, so that equal angles of the small integers here are equal numbers."""
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(float(a @ b) / lengths, 6) if lengths else 0.0


@dataclass(frozen=True)
class Expected:
    average_precision: float
    existing: int
    found: int
    ranking: dict[int, tuple[float, bool]]
    """Similarity of each detection, best first, and whether it is right."""
    labels: list[bool]

    @property
    def first_rank(self) -> int:
        return self.labels.index(True) if self.found else -1


def evaluate_slowly(world: World, q: int, convention: Convention) -> Expected:
    """One query, image by image; a scene listed again stands where it was first listed."""
    scene_count = 1 + max([*world.scenes, *world.positives.scenes, -1])
    listed = range(scene_count) if world.galleries is None else world.galleries[q]
    gallery = [s for s in listed if world.excluded is None or s != world.excluded[q]]
    times = {s: gallery.count(s) if convention == "labels" else 1 for s in gallery}
    ranked: list[tuple[float, int, int, bool]] = []
    existing = 0
    for position, scene in enumerate(dict.fromkeys(gallery)):
        mine = (world.positives.queries == q) & (world.positives.scenes == scene)
        truths = world.positives.boxes[mine]
        existing += len(truths) * times[scene]
        inside = np.flatnonzero(world.scenes == scene)
        similarities = [cosine(world.embeddings[d], world.query_embeddings[q]) for d in inside]
        right = None
        if len(truths):
            width, height = truths[0, 2] - truths[0, 0], truths[0, 3] - truths[0, 1]
            threshold = 0.5
            if convention == "protocol":
                threshold = min(0.5, float(width * height) / float((width + 10) * (height + 10)))
            for i in np.argsort([-s for s in similarities], kind="stable"):
                if iou(world.boxes[inside[i]], truths[0]) >= threshold:
                    right = i
                    break
        for i, d in enumerate(inside):
            ranked += [(-similarities[i], position, int(d), i == right)] * times[scene]
    ranked.sort()
    labels = [label for *_, label in ranked]
    found = sum(labels)
    value = float("nan") if not existing else 0.0
    if found:
        value = average_precision_score(labels, [-s for s, *_ in ranked]) * found / existing
    return Expected(value, existing, found, {d: (-s, label) for s, _, d, label in ranked}, labels)


@pytest.mark.parametrize("convention", ["protocol", "labels"])
@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_scores_equal_the_slow_evaluator(convention: Convention, seed: int) -> None:
    world = random_world(seed)
    scores = world.score(convention, top=50)
    for q in range(len(world.query_embeddings)):
        expected = evaluate_slowly(world, q, convention)
        assert scores.existing[q] == expected.existing
        assert scores.found[q] == expected.found
        assert scores.first_rank[q] == expected.first_rank
        np.testing.assert_allclose(scores.average_precision[q], expected.average_precision, rtol=1e-9)
        end = len(expected.ranking)
        assert scores.ranking[q, :end].tolist() == list(expected.ranking)
        assert (scores.ranking[q, end:] == -1).all()
        similarity = [value for value, _ in expected.ranking.values()]
        np.testing.assert_allclose(scores.similarity[q, :end], similarity, atol=2e-6)
        assert scores.correct[q].tolist() == [right for _, right in expected.ranking.values()] + [False] * (50 - end)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block=st.integers(1, 17))
def test_result_does_not_depend_on_the_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    world = replace(random_world(seed), galleries=None)
    world = replace(world, embeddings=rng.normal(size=world.embeddings.shape))
    assert_same(world.score("protocol"), world.score("protocol", block=block))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_short_galleries_and_whole_galleries_take_different_paths_to_the_same_bits(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = random_world(seed)
    queries, scene_count = len(world.query_embeddings), 1 + max([*world.scenes, *world.positives.scenes, -1])
    embeddings = rng.normal(size=(len(world.embeddings), 64))
    everything = replace(
        world,
        query_embeddings=rng.normal(size=(queries, 64)),
        embeddings=embeddings,
        galleries=None,
    )
    listed = replace(everything, galleries=[np.arange(scene_count)] * queries)
    assert_same(everything.score("protocol"), listed.score("protocol"))


def test_galleries_far_shorter_than_all_scenes_rank_as_sorting_does() -> None:
    """Two of 20 scenes each, and more detections in them than are ranked."""
    rng = np.random.default_rng(0)
    queries, embeddings, scenes = rng.normal(size=(8, 16)), rng.normal(size=(400, 16)), np.arange(400) % 20
    galleries = [rng.choice(20, 2, replace=False) for _ in queries]
    nobody = Positives(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4), np.float32))
    scores = score_search(queries, embeddings, np.zeros((400, 4)), scenes, nobody, galleries=galleries, top=3)
    cosines = (queries @ embeddings.T) / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(embeddings, axis=1)
    for row, (similar, gallery) in enumerate(zip(cosines, galleries, strict=True)):
        inside = np.flatnonzero(np.isin(scenes, gallery))
        assert scores.ranking[row].tolist() == inside[np.argsort(-similar[inside])[:3]].tolist()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_permuting_detections_of_different_similarity_changes_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    world = replace(random_world(seed), embeddings=rng.normal(size=(40, 3)))
    detections = len(world.boxes)
    world = replace(world, embeddings=world.embeddings[:detections])
    order = rng.permutation(detections)
    moved = replace(world, embeddings=world.embeddings[order], boxes=world.boxes[order], scenes=world.scenes[order])
    plain, permuted = world.score("protocol"), moved.score("protocol")
    zero = (world.query_embeddings == 0).all(axis=1)  # similar to nothing: all detections tie
    np.testing.assert_array_equal(plain.average_precision, permuted.average_precision)
    np.testing.assert_array_equal(plain.first_rank[~zero], permuted.first_rank[~zero])
    np.testing.assert_array_equal(plain.similarity, permuted.similarity)
    found = permuted.ranking >= 0
    renamed = np.where(found, order[permuted.ranking] if detections else -1, -1)
    np.testing.assert_array_equal(plain.ranking[~zero], renamed[~zero])


def test_thread_count_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    world = replace(
        random_world(5),
        query_embeddings=rng.normal(size=(50, 16)),
        embeddings=rng.normal(size=(500, 16)),
        boxes=np.tile(np.float32([0, 0, 30, 60]), (500, 1)),
        scenes=rng.integers(0, 40, 500),
        positives=Positives(
            rng.integers(0, 50, 300), rng.integers(0, 40, 300), np.tile(np.float32([0, 0, 30, 60]), (300, 1))
        ),
        galleries=None,
        excluded=None,
    )
    threads = numba.get_num_threads()
    try:
        several = world.score("protocol")
        numba.set_num_threads(1)
        assert_same(several, world.score("protocol"))
    finally:
        numba.set_num_threads(threads)


def assert_same(a: SearchScores, b: SearchScores) -> None:
    for name in SearchScores.__slots__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def one_query(scenes: Sequence[int], similarity: Sequence[float], true_scenes: Sequence[int]) -> World:
    """Boxes all alike; detection i has the given cosine to the query."""
    cosines = np.array(similarity)
    box = np.float32([0, 0, 30, 60])
    return World(
        query_embeddings=np.array([[1.0, 0.0]]),
        embeddings=np.stack([cosines, np.sqrt(1 - cosines**2)], axis=1).reshape(-1, 2),
        boxes=np.tile(box, (len(cosines), 1)),
        scenes=np.array(scenes, int),
        positives=Positives(
            np.zeros(len(true_scenes), int), np.array(true_scenes, int), np.tile(box, (len(true_scenes), 1))
        ),
        galleries=None,
        excluded=None,
    )


def test_a_worked_example() -> None:
    """Ranked: wrong, right, right; one positive missed: (1/2 + 2/3) / 3."""
    scores = one_query([0, 1, 2], [0.9, 0.8, 0.7], [1, 2, 3]).score("protocol")
    assert scores.average_precision[0] == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert scores.summary() == {
        "map": pytest.approx((1 / 2 + 2 / 3) / 3),
        "top1": 0.0,
        "top5": 1.0,
        "top10": 1.0,
        "recall": pytest.approx(2 / 3),
        "queries": 1,
        "queries_without_positives": 0,
    }
    assert scores.correct[0, :3].tolist() == [False, True, True]


def test_a_hit_is_among_the_first_k() -> None:
    """The right scene is first, second, sixth, or has no detection."""
    scores = [one_query(range(6), [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], [scene]).score("protocol") for scene in (0, 1, 5, 6)]
    summaries = [score.summary() for score in scores]
    assert [[found[f"top{k}"] for k in (1, 5, 10)] for found in summaries] == [[1, 1, 1], [0, 1, 1], [0, 0, 1], [0] * 3]


def test_only_the_most_similar_detection_of_a_scene_is_right() -> None:
    scores = one_query([0, 0], [0.8, 0.9], [0]).score("protocol")
    assert scores.correct[0, :2].tolist() == [True, False]
    assert scores.ranking[0, :2].tolist() == [1, 0]


@pytest.mark.parametrize("block", [None, 1, 2])
def test_a_replaced_similarity_counts_however_low_the_product_was(block: int | None) -> None:
    overrides = Overrides(np.array([0, 1]), np.array([2]), np.array([0.95]))
    world = one_query([0, 1, 2], [0.9, 0.5, -0.9], [0, 2])
    scores = world.score("protocol", top=1, block=block, overrides=overrides)
    assert (scores.ranking.tolist(), scores.similarity.tolist()) == ([[2]], [[0.95]])
    assert scores.average_precision.tolist() == [1.0]
    assert world.score("protocol", top=1, block=block).ranking.tolist() == [[0]]


def test_a_replaced_similarity_counts_in_a_short_gallery_too() -> None:
    """One of twelve scenes is searched, so products are made one by one where nothing is replaced."""
    world = one_query(range(12), [0.9] * 12, [11])
    world = replace(world, galleries=[np.array([11])])
    overrides = Overrides(np.array([0, 1]), np.array([11]), np.array([0.2]))
    assert world.score("labels").similarity[0, 0] == pytest.approx(0.9, abs=1e-6)
    assert world.score("labels", overrides=overrides).similarity[0, 0] == 0.2


def test_a_query_without_positives_is_left_out_and_counted() -> None:
    summary = one_query([0, 1], [0.8, 0.9], []).score("protocol").summary()
    assert all(np.isnan(summary[name]) for name in ("map", "top1", "top5", "top10", "recall"))
    assert (summary["queries"], summary["queries_without_positives"]) == (1, 1)


def test_means_are_over_the_queries_that_have_a_positive() -> None:
    """Found at once, found second of two, never found, and a query that has nobody to find."""
    scores = SearchScores(
        average_precision=np.array([1.0, 0.25, 0.0, np.nan]),
        existing=np.array([1, 2, 1, 0]),
        found=np.array([1, 1, 0, 0]),
        first_rank=np.array([0, 5, -1, -1]),
        ranking=np.zeros((4, 0), int),
        similarity=np.zeros((4, 0)),
        correct=np.zeros((4, 0), bool),
    )
    assert scores.summary() == {
        "map": pytest.approx(1.25 / 3),
        "top1": pytest.approx(1 / 3),
        "top5": pytest.approx(1 / 3),
        "top10": pytest.approx(2 / 3),
        "recall": pytest.approx(1.5 / 3),
        "queries": 4,
        "queries_without_positives": 1,
    }
    assert [scores.hits(k).tolist() for k in (0, 5, 6)] == [
        [False] * 4,
        [True, False, False, False],
        [True, True, False, False],
    ]


def test_the_query_image_can_be_excluded() -> None:
    world = replace(one_query([0, 1], [1.0, 0.5], [0, 1]), excluded=np.array([0]))
    scores = world.score("protocol")
    assert scores.existing.tolist() == [1]
    assert scores.average_precision.tolist() == [1.0]


@pytest.mark.parametrize(("convention", "existing", "value"), [("protocol", 1, 1.0), ("labels", 2, 1.0)])
def test_a_scene_listed_twice(convention: Convention, existing: int, value: float) -> None:
    world = replace(one_query([0, 1], [0.9, 0.5], [0]), galleries=[np.array([0, 1, 0])])
    scores = world.score(convention)
    assert scores.existing.tolist() == [existing]
    assert scores.average_precision.tolist() == [value]


def test_small_boxes_have_a_lower_threshold_under_protocol_only() -> None:
    """A 10 x 20 box: 200 / (20 x 30) = 1/3."""
    world = replace(
        one_query([0], [0.9], [0]),
        boxes=np.float32([[0, 0, 10, 20]]),
        positives=Positives(np.array([0]), np.array([0]), np.float32([[4, 0, 14, 20]])),
    )
    assert world.score("protocol").found.tolist() == [1]
    assert world.score("labels").found.tolist() == [0]


def test_nothing_detected_scores_zero() -> None:
    scores = one_query([], [], [0]).score("protocol")
    assert scores.average_precision.tolist() == [0.0]
    assert scores.ranking[0].tolist() == [-1] * 10


def test_bad_input_is_named() -> None:
    world = one_query([0, 1], [0.9, 0.5], [0])
    with pytest.raises(DatasetError, match=r"detection embeddings: row 1 has a NaN"):
        replace(world, embeddings=np.array([[1, 0], [np.nan, 0]])).score("protocol")
    with pytest.raises(DatasetError, match=r"detection embeddings: row 0 has a NaN"):  # as given, not as sorted
        unsorted = replace(world, embeddings=np.array([[np.nan, 0], [1, 0]]), scenes=world.scenes[::-1])
        unsorted.score("protocol")
    with pytest.raises(DatasetError, match=r"boxes \(1, 4\).*do not match"):
        replace(world, boxes=world.boxes[:1]).score("protocol")
    with pytest.raises(DatasetError, match=r"scene number -1"):
        replace(world, scenes=np.array([0, -1])).score("protocol")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"galleries": []}, r"0 galleries for 1 queries"),
        ({"galleries": [np.array([0])] * 10}, r"10 galleries for 1 queries; give one per query, or None"),
        ({"galleries": [np.array([0, -1])]}, r"scene number in the gallery of query 0 -1; expected 0 or more"),
        ({"galleries": [np.array([0.5])]}, r"gallery of query 0: type float64, expected integers"),
        ({"excluded": np.array([], int)}, r"excluded \(0,\) for 1 queries"),
        ({"excluded": np.array([0, 1])}, r"excluded \(2,\) for 1 queries"),
        ({"excluded": np.array([-2])}, r"excluded scene number -2; expected -1 or more"),
        ({"scenes": np.array([0, 1, 1])}, r"scenes \(3,\) do not match \(Q, D\), \(N, D\), \(N, 4\), \(N,\)"),
        ({"boxes": np.zeros((2, 5), np.float32)}, r"boxes \(2, 5\), scenes \(2,\) do not match"),
        ({"query_embeddings": np.ones((1, 3))}, r"query embeddings \(1, 3\), embeddings \(2, 2\), boxes"),
        ({"scenes": np.array([0.0, np.nan])}, r"scene number: type float64, expected integers"),
        ({"positives": ([1], [0])}, r"query of a positive 1; expected 0 to 0"),
        ({"positives": ([-1], [0])}, r"query of a positive -1; expected 0 to 0"),
        ({"positives": ([0], [-1])}, r"scene number of a positive -1; expected 0 or more"),
    ],
)
def test_numbers_and_lengths_that_compiled_code_would_trust_are_checked(
    change: dict[str, object], message: str
) -> None:
    if pair := change.get("positives"):
        queries, scenes = map(np.array, pair)  # type: ignore[call-overload]
        change = {"positives": Positives(queries, scenes, np.float32([[0, 0, 30, 60]]))}
    with pytest.raises(DatasetError, match=message):
        replace(one_query([0, 1], [0.9, 0.5], [0]), **change).score("protocol")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "label"}, r"convention 'label'; expected protocol or labels"),
        ({"top": -1}, r"top -1, block None"),
        ({"block": 0}, r"top 10, block 0; expected top from 0, block from 1 or None"),
        ({"overrides": ([0], [], [])}, r"overrides of shapes \(1,\), \(0,\), \(0,\) do not match \(2,\)"),
        ({"overrides": ([0, 2], [0, 1], [0.5])}, r"overrides of shapes \(2,\), \(2,\), \(1,\)"),
        ({"overrides": ([0, 9], [0], [0.5])}, r"starts of overrides 0..9 do not rise from 0 to 1"),
        ({"overrides": ([1, 1], [0], [0.5])}, r"starts of overrides 1..1 do not rise from 0 to 1"),
        ({"overrides": ([0, 1], [-1], [0.5])}, r"overridden detection -1; expected 0 to 1"),
        ({"overrides": ([0, 1], [2], [0.5])}, r"overridden detection 2; expected 0 to 1"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    if parts := options.get("overrides"):
        starts, detections, values = parts  # type: ignore[misc]
        overrides = Overrides(np.array(starts, int), np.array(detections, int), np.array(values, float))
        options = {"overrides": overrides}
    with pytest.raises(DatasetError, match=message):
        one_query([0, 1], [0.9, 0.5], [0]).score(**{"convention": "protocol", **options})  # type: ignore[arg-type]


def test_starts_of_overrides_that_fall_are_refused() -> None:
    world = one_query([0, 1], [0.9, 0.5], [0])
    world = replace(world, query_embeddings=np.ones((3, 2)))
    overrides = Overrides(np.array([0, 2, 1, 2]), np.array([0, 1]), np.array([0.5, 0.5]))
    with pytest.raises(DatasetError, match=r"starts of overrides 0..2 do not rise from 0 to 2"):
        world.score("protocol", overrides=overrides)


@pytest.mark.parametrize(("scenes", "boxes"), [((2,), (3, 4)), ((3,), (3, 5)), ((3,), (2, 4))])
def test_positives_of_unequal_lengths_are_refused(scenes: tuple[int], boxes: tuple[int, int]) -> None:
    with pytest.raises(DatasetError, match="positives: shapes .*do not match") as raised:
        Positives(np.zeros(3, int), np.zeros(scenes, int), np.zeros(boxes))
    assert str(raised.value) == f"positives: shapes (3,), {scenes}, {boxes} do not match"


def test_half_precision_embeddings_score_as_the_same_numbers_in_single_precision() -> None:
    rng = np.random.default_rng(0)
    half = replace(
        random_world(5),
        query_embeddings=rng.normal(size=random_world(5).query_embeddings.shape).astype(np.float16),
        embeddings=rng.normal(size=random_world(5).embeddings.shape).astype(np.float16),
    )
    single = replace(
        half,
        query_embeddings=half.query_embeddings.astype(np.float32),
        embeddings=half.embeddings.astype(np.float32),
    )
    assert_same(half.score("protocol"), single.score("protocol"))


def test_importing_the_metrics_does_not_import_torch() -> None:
    code = "import sys, diffps.metrics.search, diffps.metrics.detection; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dimensions", [16, 256])
@pytest.mark.parametrize("block", [None, 64])
@pytest.mark.parametrize("top", [0, 3, 300])
def test_similarities_closer_than_single_precision_tells_apart_are_ranked_exactly(
    dimensions: int, block: int | None, top: int
) -> None:
    rng = np.random.default_rng(dimensions)
    persons, each = 6, 50
    queries = rng.standard_normal((persons, dimensions)).astype(np.float32)
    embeddings = np.repeat(queries, each, axis=0) + 3e-4 * rng.standard_normal((persons * each, dimensions))
    embeddings = embeddings[rng.permutation(len(embeddings))].astype(np.float32)
    boxes = np.tile(np.array([[0, 0, 30, 60]], np.float32), (len(embeddings), 1))
    scenes = np.arange(len(embeddings))
    of_query = np.arange(persons).repeat(len(scenes))
    right = rng.random(len(of_query)) < 0.1
    positives = Positives(of_query[right], np.tile(scenes, persons)[right], np.tile(boxes, (persons, 1))[right])
    world = World(queries, embeddings, boxes, scenes, positives, None, None)

    scores = world.score("labels", top=top, block=block)

    rows, query_rows = ((exact_unit_rows(x, "") * GRID).astype(object) for x in (embeddings, queries))
    for q in range(persons):
        exact = rows @ query_rows[q]  # Python's integers
        single = exact_unit_rows(embeddings, "") @ exact_unit_rows(queries, "")[q]
        expected = sorted(range(len(scenes)), key=lambda d: -exact[d])
        assert expected != sorted(range(len(scenes)), key=lambda d: -single[d])
        assert scores.ranking[q].tolist() == expected[:top]
        labels = np.isin(expected, positives.scenes[positives.queries == q])
        assert scores.first_rank[q] == labels.argmax()
        precision = np.cumsum(labels) / np.arange(1, 1 + len(labels))
        assert scores.average_precision[q] == pytest.approx(precision[labels].mean(), abs=1e-12)
