"""A gallery's file holds what went into it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.checksum import crc32c
from stages.finding.segments import ImageEntry, NamedFile, Segment, joined, open_segment, packed

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SIDES = st.sampled_from([0, 1, 640, 2**31 - 1])


@st.composite
def segments(draw: st.DrawFn, dimensions: int = 5) -> Segment:
    digests = draw(st.lists(st.binary(min_size=32, max_size=32).map(bytes.hex), max_size=4, unique=True))
    images = []
    for digest in digests:
        stamps = draw(st.lists(st.tuples(st.integers(0, 2**62), st.integers(-(2**62), 2**62)), min_size=1, max_size=3))
        files = tuple(NamedFile(draw(TEXT), digest, *stamp) for stamp in stamps)
        images.append(ImageEntry(digest, draw(SIDES), draw(SIDES), draw(st.integers(0, 3)), files))
    total = sum(image.boxes for image in images)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    values = rng.normal(size=(total, 4 + 1 + dimensions)).astype(np.float32)
    return Segment.of(images, values[:, :4].copy(), values[:, 4].copy(), values[:, 5:].astype(np.float16))


def same(one: Segment, other: Segment) -> bool:
    arrays = all(getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("boxes", "scores"))
    return arrays and one.images == other.images and one.embeddings.tobytes() == other.embeddings.tobytes()


@settings(max_examples=50)
@given(st.lists(segments(), min_size=1, max_size=3), st.data())
def test_any_segment_survives_the_disk_and_comes_apart_and_together(
    tmp_path_factory: pytest.TempPathFactory, parts: list[Segment], data: st.DataObject
) -> None:
    whole = joined(parts)
    assert len(whole) == sum(map(len, parts))
    assert whole.images == tuple(image for part in parts for image in part.images)
    path: Path = tmp_path_factory.mktemp("gallery") / "segment"
    content = packed(whole)
    path.write_bytes(content)
    found = open_segment(path, f"{crc32c(np.frombuffer(content, np.uint8)):08x}")
    assert same(found, whole)
    assert found.first_names == [image.files[0].name for image in whole.images]
    if len({image.digest for image in whole.images}) < len(whole):
        return
    chosen = data.draw(st.permutations(whole.images)) if len(whole) else []
    kept = found.only(chosen)
    assert kept.images == tuple(chosen)
    ends = np.cumsum([image.boxes for image in whole.images])
    rows = [
        row
        for image in chosen
        for row in range(ends[whole.images.index(image)] - image.boxes, ends[whole.images.index(image)])
    ]
    assert kept.boxes.tolist() == whole.boxes[rows].reshape(-1, 4).tolist()
    assert kept.embeddings.tobytes() == whole.embeddings[rows].tobytes()
