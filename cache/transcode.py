"""One encoding from another, without the backbone; and features as files for those who want no store."""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from cache.encodings import Encoding, Float16, Float32
from cache.errors import CacheError, EncodingError, SkippedImage
from cache.files import write_bytes
from cache.layout import ArraySpec, tap_name
from cache.reader import FeatureReader
from cache.receipts import ReceiptBook
from cache.store import FeatureStore

Format = Literal["npy", "safetensors"]


def transcode(
    store: FeatureStore,
    source: ArraySpec,
    encoding: Encoding,
    progress: Callable[[int], None] = lambda images: None,
    *,
    takeover: bool = False,
) -> ArraySpec:
    """Write ``source`` again under another encoding, beside it; what is there already stays. Returns the new spec.

    From float16 or float32 the result counts as extracted in that encoding: the same bytes for features that are
    float16 themselves, within a step of the encoding for others; its receipts say ``transcoded_from``. From a coarser
    encoding the recipe says it, so that nothing takes it for the real one. ``project:k`` needs its basis. Raises
    EncodingError for maps and latents, which stay float32.
    """
    tap = source.name.removesuffix(f"@{source.encoding.name}")
    if tap == source.name:
        raise EncodingError(f"{source.path}: maps and latents stay {source.encoding.name}; only taps are transcoded")
    if source.encoding.name == encoding.name:
        raise EncodingError(f"{source.path}: is {encoding.name} already")
    images = cached_images(store, source)
    reader = store.reader([source])
    recipe = source.recipe
    if not isinstance(source.encoding, Float16 | Float32):
        recipe = {**recipe, "transcoded_from": source.encoding.recipe()}
    target = replace(source, name=tap_name(tap, encoding), encoding=encoding, recipe=recipe)
    with store.writer([target], images, takeover=takeover) as writer:
        for task in writer.pending():
            with writer.shard(task) as sink:
                # Seconds are those of the backbone: its rate and what caching saves are taken from them.
                sink.info = {"transcoded_from": source.encoding.name, "seconds": 0.0}
                for scene in task.scene_ids:
                    try:
                        sink.append({target.name: reader.read_float(scene, source.name)})
                    except SkippedImage as error:
                        sink.skip(str(error))
            progress(len(task.rows))
    return target


def export(
    reader: FeatureReader, scene_ids: Iterable[str], names: Sequence[str], folder: Path, kind: Format
) -> Iterable[Path]:
    """Write decoded features, float32 (H, W, C), one by one: ``<folder>/<scene>/<name>.npy``, or all names of a scene
    in ``<folder>/<scene>.safetensors``. Yields each file. Raises CacheError for a scene id that leaves the folder."""
    for scene in scene_ids:
        place = folder / scene
        if not place.resolve().is_relative_to(folder.resolve()):
            raise CacheError(f"scene {scene!r}: cannot be a file below {folder}")
        features = {name: reader.read_float(scene, name) for name in names}
        if kind == "npy":
            for name, feature in features.items():
                buffer = io.BytesIO()
                np.save(buffer, feature)
                write_bytes(place / f"{name}.npy", buffer.getvalue())
                yield place / f"{name}.npy"
        else:
            from safetensors.numpy import save

            file = place.with_name(f"{place.name}.safetensors")
            write_bytes(file, save(features))
            yield file


def cached_images(store: FeatureStore, spec: ArraySpec) -> list[tuple[str, str]]:
    """(scene id, digest) of every image of the store's data set with a receipt for ``spec``, in row order, under every
    name its row has there: copies share one, and names a file had before stay."""
    table = store.rows(spec.group.split)
    book = ReceiptBook.of(store.root, spec.group)
    rows = set[int]()
    for shard in book.shards:
        receipt = book.find(shard, spec.name)
        if receipt is not None and receipt.arrays[spec.name][0] == spec.id:
            current = zip(receipt.rows, receipt.digests, strict=True)
            rows |= {row for row, digest in current if digest == table.digest(row)}
    named = sorted((row, scene) for scene, row in table.scenes.items() if row in rows)
    return [(scene, table.digests[row]) for row, scene in named]
