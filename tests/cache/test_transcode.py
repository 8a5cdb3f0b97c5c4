"""Every name of an image counts: copies share a row, and so do an old name and a new one."""

from pathlib import Path

import numpy as np
import pytest

from cache import FeatureStore, parse_encoding
from cache.errors import LockedError
from cache.guard import SILENT_SECONDS
from cache.lock import lock_file
from cache.transcode import cached_images, transcode
from tests.cache.builders import expected, images, pretend, spec, write

ROWS = images(10)


def test_copies_and_renamed_images_are_transcoded_under_every_name(tmp_path: Path) -> None:
    """Two names of one content share a row, as an old and a new name do: each reads, none is written twice."""
    store = FeatureStore(tmp_path)
    source, copy = spec("float16"), ("a_copy.jpg", ROWS[3][1])
    write(store, [source], [*ROWS, copy])
    renamed = [(f"new/{scene}", digest) for scene, digest in ROWS[:2]]
    now = [*renamed, *ROWS[2:], copy]
    assert write(store, [source], now) == []
    assert set(now) | set(ROWS) == set(cached_images(store, source))
    target = transcode(store, source, parse_encoding("int8"))
    assert write(store, [target], now) == []
    reader = store.reader([source, target])
    for scene, digest in now:
        again = target.encoding.encode(reader.read(scene, source.name).values)
        np.testing.assert_array_equal(reader.read(scene, target.name).values, again.values)
        np.testing.assert_array_equal(reader.read_float(scene, source.name), expected(digest, source))


def test_another_machine_s_writer_is_not_taken_over_unasked(tmp_path: Path) -> None:
    store, source = FeatureStore(tmp_path), spec("float16")
    write(store, [source], ROWS)
    left = lock_file(tmp_path, source.group)
    pretend(left, host="elsewhere", silent=SILENT_SECONDS + 5)
    with pytest.raises(LockedError, match=r"runtime\.takeover=true"):
        transcode(store, source, parse_encoding("int8"))
    transcode(store, source, parse_encoding("int8"), takeover=True)
    assert not left.exists()
