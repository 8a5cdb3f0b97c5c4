"""The most similar rows against a scan in float64: same rows, same order, same similarities to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffps.errors import DatasetError
from diffps.metrics.similarity import exact_unit_rows
from diffps.search.nearest import BLOCK, Nearest, mean_embedding, nearest


def plain(queries: np.ndarray, gallery: np.ndarray, k: int) -> Nearest:
    """Every product in float64, sorted whole."""
    similarity = exact_unit_rows(queries, "queries").astype(np.float64) @ gallery.astype(np.float64).T
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    missing = ((0, 0), (0, max(0, k - len(gallery))))
    values = np.take_along_axis(similarity, order, 1)
    return Nearest(np.pad(order, missing, constant_values=-1), np.pad(values, missing, constant_values=-np.inf))


def check(queries: np.ndarray, parts: list[np.ndarray], k: int, threads: int = 2) -> None:
    found = nearest(queries, parts, k, threads=threads)
    expected = plain(queries, np.concatenate(parts), k)
    np.testing.assert_array_equal(found.rows, expected.rows)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.standard_normal(shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    dimensions=st.integers(1, 70),
    asked=st.integers(1, 4),
    k=st.integers(0, 50),
    closeness=st.sampled_from([0.0, 1e-4, 1e-3, 1.0]),
)
def test_the_ranking_is_that_of_float64(
    seed: int, sizes: list[int], dimensions: int, asked: int, k: int, closeness: float
) -> None:
    """Also where rows are equal or nearly so."""
    rng = np.random.default_rng(seed)
    centre = unit(rng, dimensions)
    rows = centre + closeness * rng.standard_normal((sum(sizes), dimensions))
    rows[rng.random(len(rows)) < 0.3] = centre
    gallery = (rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float16)
    queries = rng.uniform(0.1, 10) * rng.standard_normal((asked, dimensions))
    check(queries, np.split(gallery, np.cumsum(sizes)[:-1]), k)


def test_rows_closer_than_single_precision_can_tell() -> None:
    """Large components are equal; small ones, which half precision keeps, are lost in a single-precision sum."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        gallery = np.tile(unit(rng, 32), (300, 1))
        gallery[:, 16:] = 1e-7 * rng.standard_normal((300, 16))
        check(rng.standard_normal((1, 32)), [gallery.astype(np.float16)], 3)


@pytest.mark.parametrize("threads", [1, 3])
def test_equals_rank_by_row_across_blocks_and_parts(threads: int) -> None:
    rng = np.random.default_rng(0)
    gallery = unit(rng, BLOCK + 700, 4).astype(np.float16)
    gallery[[3, BLOCK - 1, BLOCK, BLOCK + 600]] = gallery[50]
    parts = [gallery[: BLOCK + 300], gallery[BLOCK + 300 :]]
    found = nearest(gallery[50:51], parts, 5, threads=threads)
    assert found.rows[0].tolist() == [3, 50, BLOCK - 1, BLOCK, BLOCK + 600]
    check(unit(rng, 2, 4), parts, 30, threads)


def test_a_gallery_mapped_from_a_file(tmp_path: object) -> None:
    rng = np.random.default_rng(1)
    gallery = unit(rng, 500, 16).astype(np.float16)
    path = f"{tmp_path}/rows"
    gallery.tofile(path)
    check(unit(rng, 1, 16), [np.memmap(path, np.float16, "r", shape=(500, 16))], 20)


def test_an_empty_gallery_has_no_nearest() -> None:
    found = nearest(np.ones((2, 3)), [], 4)
    assert found.rows.tolist() == [[-1] * 4] * 2
    assert (found.similarity == -np.inf).all()


@pytest.mark.parametrize(
    ("value", "component"), [(value, at) for value in (np.nan, np.inf, -np.inf) for at in (0, 1)] + [(60000, 1)]
)
def test_a_row_that_is_no_embedding_is_named(value: float, component: int) -> None:
    """Also where the query's component is zero, so that the product alone would not show it."""
    rng = np.random.default_rng(2)
    query = np.array([[0.0, 1.0, 1.0]])
    gallery = unit(rng, 30, 3).astype(np.float16)
    gallery[17, component] = value
    with pytest.raises(DatasetError, match="gallery: row 17 is not a finite embedding of unit length"):
        nearest(query, [gallery[:10], gallery[10:]], 3)


@pytest.mark.parametrize("bad", [[np.nan, 1], [np.inf, 1], [0, 0]])
def test_a_query_that_is_no_embedding_is_refused(bad: list[float]) -> None:
    with pytest.raises(DatasetError, match="query embeddings: row 1"):
        nearest(np.array([[1, 0], bad], float), [np.ones((4, 2), np.float16)], 1)


def test_rows_of_another_type_or_size_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"part 1 is float32 \(4, 2\); expected float16 \(n, 2\)"):
        nearest(np.ones((1, 2)), [np.ones((4, 2), np.float16), np.ones((4, 2), np.float32)], 1)
    with pytest.raises(DatasetError, match=r"part 0 is float16 \(4, 3\); expected float16 \(n, 2\)"):
        nearest(np.ones((1, 2)), [np.ones((4, 3), np.float16)], 1)
    with pytest.raises(DatasetError, match="does not lie row by row"):
        nearest(np.ones((1, 2)), [np.ones((2, 4), np.float16).T], 1)
    with pytest.raises(DatasetError, match="k -1"):
        nearest(np.ones((1, 2)), [], -1)


def test_several_pictures_are_one_query_by_their_mean_direction() -> None:
    mean = mean_embedding(np.array([[3.0, 0, 0], [0, 0.5, 0]]))
    np.testing.assert_allclose(mean, [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-6)
    assert mean.dtype == np.float32
    with pytest.raises(DatasetError, match="their mean is zero"):
        mean_embedding(np.array([[1.0, 0], [-1, 0]]))
    with pytest.raises(DatasetError, match="at least one"):
        mean_embedding(np.empty((0, 3)))


def test_a_row_half_as_long_again_is_no_embedding() -> None:
    query = np.array([[2.0, 0]])
    near = nearest(query, [np.array([[0.5, 0], [1.4, 0]], np.float16)], 2)
    assert near.rows.tolist() == [[1, 0]]
    for length in (1.5, -1.5):
        with pytest.raises(DatasetError, match="gallery: row 1 is not a finite embedding"):
            nearest(query, [np.array([[0.5, 0], [length, 0]], np.float16)], 2)


def test_nothing_asked_for_is_nothing_found() -> None:
    found = nearest(np.ones((2, 3)), [np.zeros((4, 3), np.float16)], 0)
    assert found.rows.shape == found.similarity.shape == (2, 0)
    with pytest.raises(DatasetError, match=r"^search: k -1; expected 0 or more$"):
        nearest(np.ones((1, 2)), [], -1)
    with pytest.raises(DatasetError, match=r"^query embeddings: row 1 is zero; it resembles nobody$"):
        nearest(np.array([[1.0, 0], [0, 0]]), [], 1)
    assert np.isfinite(mean_embedding(np.array([[1.0, 0], [-1, 1e-2]]))).all()
