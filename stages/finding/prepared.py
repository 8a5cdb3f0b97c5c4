"""The test split that `diffps evaluate` searched as a gallery: nothing is computed that it has."""

from pathlib import Path

import numpy as np

from diffps.datasets.tables import read_scenes
from diffps.errors import ConfigError
from diffps.metrics.similarity import exact_unit_rows
from diffps.search.answer import SearchedGallery
from stages.finding.gallery_files import LoadedGallery
from stages.search.tables import made_by, read_detections


def evaluated_gallery(index: Path, evaluated: Path, head: str) -> LoadedGallery:
    """What the head (a digest) found in the test scenes of ``index``, as ``evaluated`` holds it; images by their paths
    below the dataset's folder.

    Raises ConfigError where it was not evaluated, or the detections there are another head's.
    """
    path = evaluated / "detections.parquet"
    if not path.is_file() or made_by(path) != head:
        why = "are of another head, or of true boxes" if path.is_file() else "are not there"
        raise ConfigError(
            f"{path}: the detections of this head {why}; run `diffps evaluate` with it, or name a folder of pictures "
            "with --in"
        )
    scenes, found = read_scenes(index, "test"), read_detections(path)
    parts = [(number, found[scene.scene_id]) for number, scene in enumerate(scenes) if scene.scene_id in found]
    embeddings = [part.embeddings for _, part in parts]
    rows = exact_unit_rows(np.concatenate(embeddings), str(path)) if embeddings else np.empty((0, 1), np.float32)
    counts = [len(part) for _, part in parts]
    searched = SearchedGallery(
        embeddings=[rows.astype(np.float16)],
        boxes=np.concatenate([np.empty((0, 4), np.float32), *(part.boxes for _, part in parts)]).astype(np.float32),
        scores=np.concatenate([np.empty(0, np.float32), *(part.scores for _, part in parts)]).astype(np.float32),
        images=np.repeat(np.array([number for number, _ in parts], np.int32), counts),
        names=[scene.path for scene in scenes],
    )
    digests = np.frombuffer(bytes.fromhex("".join(scene.digest for scene in scenes)), np.uint8).reshape(-1, 32)
    return LoadedGallery(head, searched, np.array([scene.size for scene in scenes], np.int32), digests)
