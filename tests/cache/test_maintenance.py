import shutil
from pathlib import Path

import numpy as np
import pytest

from cache import CacheError, FeatureStore, parse_encoding
from cache.basis import fit_basis
from cache.budget import Budget, PlannedArray, break_even, require_space
from cache.encodings import Project
from cache.errors import EncodingError, LockedError, NotCachedError, StoreFullError
from cache.garbage import find_garbage, remove
from cache.statistics import BINS, statistics
from cache.transcode import cached_images, export, transcode
from cache.verify import verify
from tests.cache.builders import ENCODINGS, check, expected, feature, group, images, spec, write

ROWS = images(10)
SCENES = [scene for scene, _ in ROWS]


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    return FeatureStore(tmp_path / "features")


def test_an_empty_store_has_nothing(store: FeatureStore) -> None:
    assert store.arrays() == []
    assert store.status() == []


def test_status_counts(store: FeatureStore) -> None:
    write(store, [spec(), spec("float16")], ROWS[:6], unreadable=[SCENES[1]])
    write(store, [spec()], ROWS)
    (found,) = store.status()
    assert found.group == group()
    assert found.recipe == spec().recipe
    assert found.images == 10
    assert found.seconds > 0
    counts = {array.spec.name: (array.done, array.skipped, array.missing) for array in found.arrays}
    # The second run rewrote the last shard of the arrays it was asked for; that of the other is out of its images.
    assert counts["tap@int8"] == (9, 1, 0)
    assert counts["tap@float16"] == (5, 1, 4)
    files = [path for path in (store.root / "features.zarr").rglob("*") if path.is_file() and "/c/" in str(path)]
    assert found.nbytes == sum(path.stat().st_size for path in files)


def test_an_array_added_later_is_another_pass_and_transcoding_is_none(store: FeatureStore) -> None:
    first, later = spec("float16"), spec("float16", tap="later")
    for array in (first, later):
        with store.writer([array], ROWS[:4], shard=4) as writer:
            (task,) = writer.pending()
            with writer.shard(task) as sink:
                sink.info = {"seconds": 2.0}
                for content in task.digests:
                    sink.append({array.name: feature(content, array)})
    for _ in range(2):
        (found,) = store.status()
        assert (found.images, found.passes, found.seconds) == (4, 8, 4.0)
        transcode(store, first, spec("int8").encoding)


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "bitround:6"])
@pytest.mark.parametrize("count", [1, 4, 9])
def test_the_plan_is_what_lies_on_disk(store: FeatureStore, encoding: str, count: int) -> None:
    array = spec(encoding)
    write(store, [array], images(count))
    budget = Budget(arrays=[PlannedArray(array, count)], shard=4)
    (found,) = store.status()
    assert budget.nbytes == found.nbytes
    files = [
        path for path in (store.root / "features.zarr" / group().path).glob(f"{array.name}*/**/*") if path.is_file()
    ]
    receipts = list((store.root / "receipts").rglob("*.json"))
    basis = 2 if encoding.startswith("project") else 0
    assert budget.files == len(files) - basis + len(receipts)


def test_a_thousand_images_and_nine_arrays_are_not_many_files() -> None:
    arrays = [PlannedArray(spec(tap=f"tap{i}"), 1000) for i in range(7)]
    arrays += [PlannedArray(spec("float32", tap="map"), 1000), PlannedArray(spec("float32", tap="moments"), 1000)]
    assert Budget(arrays=arrays, shard=16).files <= 1300


def test_sizes_of_encodings() -> None:
    shape = (160, 160, 320)
    sizes = {name: spec(name, shape=shape).image_bytes for name in ("float16", "int8", "project:64")}
    assert sizes["float16"] == 160 * 160 * 320 * 2 + 4
    assert sizes["int8"] <= 0.515 * sizes["float16"]
    assert sizes["project:64"] <= 0.101 * sizes["float16"]


def test_break_even() -> None:
    assert break_even(fill=1.5, live=1.0, cached=0.25) == 2.0
    assert break_even(fill=0.1, live=0.1, cached=0.2) is None


def test_what_does_not_fit_is_refused_before_the_first_byte(store: FeatureStore) -> None:
    huge = spec(shape=(4096, 4096, 4096))
    with pytest.raises(StoreFullError, match=r"still to be written.*diffps cache plan"):
        require_space(store.root, [(huge, 100_000)])
    with store.writer([huge], images(100_000)[:1] * 100_000) as writer:
        assert len(writer._rows) == 1
    with pytest.raises(StoreFullError), store.writer([huge], images(2000)) as writer:
        writer.pending()


def test_garbage_is_what_nobody_wants(store: FeatureStore) -> None:
    kept, gone = spec(), spec("project:4", tap="other")
    elsewhere = spec(recipe={"unet": "other"})
    write(store, [kept, gone], ROWS)
    write(store, [elsewhere], ROWS)
    garbage = find_garbage(store.root, {(kept.path, kept.id)})
    assert {item.path for item in garbage} == {gone.path, elsewhere.path}
    assert all(item.nbytes > 1000 for item in garbage)
    remove(store.root, garbage)
    assert store.arrays() == [kept]
    assert not list((store.root / "features.zarr").rglob("other*"))
    assert not (store.root / "features.zarr" / elsewhere.group.scope).exists()
    check(store, [kept], ROWS)
    assert verify(store.root, [kept]) == []
    assert write(store, [kept], ROWS) == []
    assert write(store, [gone], ROWS) == [0, 1, 2]
    assert find_garbage(store.root, {(kept.path, kept.id), (gone.path, gone.id)}) == []


def test_an_array_of_another_recipe_at_a_wanted_place_is_garbage(store: FeatureStore) -> None:
    write(store, [spec()], ROWS)
    assert [item.path for item in find_garbage(store.root, {(spec().path, "another id")})] == [spec().path]


def test_what_a_killed_removal_left_is_garbage(store: FeatureStore) -> None:
    write(store, [spec(), spec(tap="other")], ROWS)
    (store.root / "features.zarr" / spec(tap="other").path / "zarr.json").unlink()
    kept = {(spec().path, spec().id)}
    assert [item.path for item in find_garbage(store.root, kept)] == [spec(tap="other").path]
    assert find_garbage(store.root, kept | {(spec(tap="other").path, "no matter")}) == []
    remove(store.root, find_garbage(store.root, kept))
    assert not list((store.root / "features.zarr").rglob("other*"))
    check(store, [spec()], ROWS)


def test_receipts_that_are_gone_or_hold_something_else_do_not_hinder_a_removal(store: FeatureStore) -> None:
    without, beside, plain = (spec(recipe={"unet": name}) for name in ("a", "b", "c"))
    for array in (without, beside, plain):
        write(store, [array], ROWS)
    places = [store.root / "receipts" / array.group.path for array in (without, beside, plain)]
    shutil.rmtree(places[0])
    (places[1] / "notes").touch()
    remove(store.root, find_garbage(store.root, set()))
    assert [place.exists() for place in places] == [False, True, False]
    assert store.arrays() == []
    assert [path.name for path in (store.root / "features.zarr").rglob("*") if path.is_dir()] == []


def test_what_is_being_written_is_not_removed(store: FeatureStore) -> None:
    write(store, [spec()], ROWS)
    with store.writer([spec()], ROWS), pytest.raises(LockedError):
        remove(store.root, find_garbage(store.root, set()))
    check(store, [spec()], ROWS)


def test_transcoding_from_float16_is_extracting_in_the_other_encoding(store: FeatureStore) -> None:
    source, target = spec("float16"), spec("int8")
    write(store, [source], ROWS, unreadable=[SCENES[3]])
    assert transcode(store, source, parse_encoding("int8")) == target
    reader = store.reader([source, target])
    assert not reader.has(SCENES[3], target.name)
    for scene in [*SCENES[:3], *SCENES[4:]]:
        again = target.encoding.encode(reader.read(scene, source.name).values)
        np.testing.assert_array_equal(reader.read(scene, target.name).values, again.values)
    assert write(store, [target], ROWS) == []


def test_transcoding_from_a_coarser_encoding_says_so_in_its_recipe(store: FeatureStore) -> None:
    write(store, [spec("int8")], ROWS)
    made = transcode(store, spec("int8"), parse_encoding("float16"))
    assert made.recipe["transcoded_from"] == {"name": "int8", "block": 256}
    with pytest.raises(CacheError, match="transcoded_from"):
        store.reader([spec("float16")])


def test_transcoding_to_principal_channels_needs_their_basis(store: FeatureStore) -> None:
    write(store, [spec("float16")], ROWS)
    with pytest.raises(EncodingError, match="no basis yet"):
        transcode(store, spec("float16"), parse_encoding("project:4"))
    rows = np.concatenate([expected(digest, spec("float16")).reshape(-1, spec().shape[2]) for _, digest in ROWS])
    encoding = Project(spec().shape[2], fit_basis(rows, spec().shape[2]))
    made = transcode(store, spec("float16"), encoding)
    reader = store.reader([spec("float16"), made.path])
    np.testing.assert_allclose(
        reader.read_float(SCENES[0], made.name), expected(ROWS[0][1], spec("float16")), atol=0.1
    )  # all channels kept: int8 is the only loss


def test_only_taps_are_transcoded(store: FeatureStore) -> None:
    from dataclasses import replace

    moments = replace(spec("float32"), name="moments")
    write(store, [moments, spec()], ROWS)
    with pytest.raises(EncodingError, match="maps and latents stay"):
        transcode(store, moments, parse_encoding("int8"))
    with pytest.raises(EncodingError, match="already"):
        transcode(store, spec(), parse_encoding("int8"))


@pytest.mark.parametrize("kind", ["npy", "safetensors"])
def test_exported_files_hold_the_features(store: FeatureStore, tmp_path: Path, kind: str) -> None:
    arrays = [spec(), spec("float16")]
    write(store, arrays, ROWS)
    names = [array.name for array in arrays]
    files = list(export(store.reader(arrays), SCENES[:2], names, tmp_path / "out", kind))  # type: ignore[arg-type]
    assert len(files) == (4 if kind == "npy" else 2)
    if kind == "npy":
        found = {name: np.load(tmp_path / "out" / SCENES[1] / f"{name}.npy") for name in names}
    else:
        from safetensors.numpy import load_file

        found = load_file(tmp_path / "out" / f"{SCENES[1]}.safetensors")
    for array in arrays:
        np.testing.assert_array_equal(found[array.name], expected(ROWS[1][1], array))


def test_export_stays_below_its_folder(store: FeatureStore, tmp_path: Path) -> None:
    rows = [("../escaped", ROWS[0][1])]
    write(store, [spec()], rows)
    with pytest.raises(CacheError, match="below"):
        list(export(store.reader([spec()]), ["../escaped"], [spec().name], tmp_path / "out", "npy"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_statistics_are_numpy_s(store: FeatureStore, encoding: str) -> None:
    array = spec(encoding)
    write(store, [array], ROWS, unreadable=[SCENES[4]])
    rows = [expected(content, array) for scene, content in ROWS if scene != SCENES[4]]
    x = np.stack(rows).reshape(-1, array.shape[2]).astype(np.float64)
    found = statistics(store, array, scheduler="synchronous")
    assert found.images == 9
    np.testing.assert_allclose(found.mean, x.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.deviation, x.std(0), rtol=1e-6)
    np.testing.assert_allclose(found.low, x.min(0))
    np.testing.assert_allclose(found.high, x.max(0))
    np.testing.assert_allclose(found.variances, np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1], atol=1e-6)
    assert found.histogram.shape == (array.shape[2], BINS)
    assert (found.histogram.sum(1) == len(x)).all()
    counts, _ = np.histogram(x[:, 0], BINS, (x[:, 0].min(), x[:, 0].max()))
    assert np.abs(found.histogram[0] - counts).sum() <= 4  # values on an edge may fall to either side


def test_statistics_of_nothing_are_refused(store: FeatureStore) -> None:
    write(store, [spec()], ROWS, unreadable=SCENES)
    with pytest.raises(NotCachedError, match="no readable images"):
        statistics(store, spec())


def test_cached_images_are_those_that_can_be_read_now(store: FeatureStore) -> None:
    write(store, [spec()], ROWS[:6])
    store.rows("train").assign([(SCENES[0], "edited"), *ROWS[1:]])
    assert [scene for scene, _ in cached_images(store, spec())] == SCENES[1:6]
