"""What a store is said to hold."""

from dataclasses import replace
from pathlib import Path

from cache import FeatureStore
from cache.status import DatasetStatus
from tests.cache.builders import digest, feature, group, images, spec, write

ROWS = images(7)


def test_groups_are_told_by_path_with_what_their_recipes_agree_in(tmp_path: Path) -> None:
    store, first = FeatureStore(tmp_path), spec("int8")
    later = replace(spec("float16", tap="later"), recipe={**first.recipe, "tap": "later", "more": 1})
    mirrored = spec(key=group(view="hflip"), recipe={"view": "hflip"})
    write(store, [mirrored], ROWS[:1])
    write(store, [first, later], ROWS[:5])
    found = store.status()
    assert [each.group for each in found] == [mirrored.group, first.group]
    assert [each.recipe for each in found] == [mirrored.recipe, {"pass": first.recipe["pass"]}]
    assert [[array.spec for array in each.arrays] for each in found] == [[mirrored], [later, first]]
    # Rows are those of the split: the mirrored view lacks four of its images.
    assert [[(array.done, array.missing) for array in each.arrays] for each in found] == [[(1, 4)], [(5, 0)] * 2]
    for each in found:
        for array in each.arrays:
            folder = tmp_path / "features.zarr" / array.spec.group.path
            files = [path for path in folder.glob(f"{array.spec.name}*/c/**/*") if path.is_file()]
            assert array.nbytes == sum(path.stat().st_size for path in files)
        assert each.nbytes == sum(array.nbytes for array in each.arrays)


def test_passes_are_those_over_images_that_were_read_and_timed(tmp_path: Path) -> None:
    store, array = FeatureStore(tmp_path), spec()
    with store.writer([array], ROWS, shard=4) as writer:
        for task, seconds in zip(writer.pending(), (1.5, 0.0), strict=True):
            with writer.shard(task) as sink:
                sink.info = {"seconds": seconds}
                for row, content in zip(task.rows, task.digests, strict=True):
                    if row == 2:
                        sink.skip("torn")
                    else:
                        sink.append({array.name: feature(content, array)})
    (found,) = store.status()
    assert (found.images, found.passes, found.seconds) == (7, 3, 1.5)
    (status,) = found.arrays
    assert (status.done, status.skipped, status.missing) == (6, 1, 0)


def test_images_of_old_content_are_missing(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    write(store, [spec()], ROWS)
    store.rows("train").assign([(ROWS[0][0], digest("edited"))])
    (found,) = store.status()
    assert [(array.done, array.skipped, array.missing) for array in found.arrays] == [(6, 0, 1)]


def test_data_sets_are_told_by_split_and_name(tmp_path: Path) -> None:
    for dataset, split, rows in (
        ("b", "train", ROWS[:3]),
        ("a", "train", ROWS[2:7]),
        ("b", "test", ROWS[:1]),
        ("c", "train", [("copy.jpg", ROWS[2][1])]),
    ):
        FeatureStore(tmp_path, dataset).rows(split).assign(rows)
    assert FeatureStore(tmp_path).datasets() == [
        DatasetStatus(dataset="b", split="test", images=1, alone=1),
        DatasetStatus(dataset="a", split="train", images=5, alone=4),
        DatasetStatus(dataset="b", split="train", images=3, alone=2),
        DatasetStatus(dataset="c", split="train", images=1, alone=0),
    ]
