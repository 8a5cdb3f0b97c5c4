"""Heads over the test scenes' features: what each detects there, and the embeddings of the queries."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.features import Feature, FeatureSource, Ref, expand_once
from diffps.model import PersonSearcher
from diffps.records import Detections, Scene
from stages.config_heads import EvaluateConfig
from stages.features.source import skipped_scenes
from stages.job import Job, StoppedError
from stages.search.gallery import SearchSet
from stages.search.tables import Detected

# What else sees a batch: its scenes and their expanded features.
Look = Callable[[Sequence[Scene], Mapping[str, Feature]], None]


def search_gallery(
    config: EvaluateConfig,
    searchers: Mapping[str, PersonSearcher],
    source: FeatureSource,
    test: SearchSet,
    device: torch.device,
    job: Job,
    look: Look | None = None,
) -> dict[str, Detected]:
    """Run every head over every test scene; each batch is read and expanded once. ``look`` sees every batch too.

    Scenes that extraction skipped have no detections. Raises DatasetError for a query in one of them, StoppedError.
    """
    names = list(dict.fromkeys(name for searcher in searchers.values() for name in searcher.taps.names))
    heads = {name: _Collector(searcher.to(device).eval(), test) for name, searcher in searchers.items()}
    skipped = skipped_scenes(source, job)
    lost = [query.query_id for query in test.queries if query.scene_id in skipped]
    if lost:
        raise DatasetError(
            f"evaluate: query {lost[0]} and {len(lost) - 1} more lie in images that could not be read; "
            "restore those images and run `diffps index`, `diffps encode` and `diffps extract`, "
            "or take the queries out of the dataset"
        )
    scenes = [scene for scene in test.scenes if scene.scene_id not in skipped]
    batches = [scenes[start : start + config.batch] for start in range(0, len(scenes), config.batch)]
    refs = [[Ref(scene.scene_id) for scene in batch] for batch in batches]
    with job.track("evaluate", len(scenes), "images") as tracker:
        for batch, features in zip(batches, source.stream(refs, names), strict=True):
            expanded = {name: expand_once(features[name], None, device) for name in names}
            for head in heads.values():
                head.add(batch, expanded, config)
            if look is not None:
                look(batch, expanded)
            tracker.advance(len(batch))
            if job.stopping:
                raise StoppedError("evaluate: stopped; nothing was written, the same command starts over")
    return {name: head.found() for name, head in heads.items()}


def detect_people(
    searcher: PersonSearcher, features: Mapping[str, Feature], sizes: Sequence[tuple[int, int]], score_threshold: float
) -> list[Detections]:
    """Who is in each image of a batch, boxes in its own frame; ``sizes`` are (height, width) of the images."""
    found = searcher.detect(features, score_threshold=score_threshold)
    return [
        Detections(searcher.canvas.to_scene(part.boxes, size), part.scores, part.embeddings)
        for size, part in zip(sizes, found, strict=True)
    ]


def embed_boxes(
    searcher: PersonSearcher,
    features: Mapping[str, Feature],
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[NDArray[np.float32]],
) -> list[NDArray[np.float32]]:
    """Embeddings of boxes (n, 4) in each image's own frame."""
    device = next(searcher.parameters()).device
    placed = [
        torch.from_numpy(searcher.canvas.to_canvas(part, size)).to(device)
        for part, size in zip(boxes, sizes, strict=True)
    ]
    return [embeddings.float().cpu().numpy() for embeddings in searcher.embed(features, placed)]


class _Collector:
    """One head's findings as they come."""

    def __init__(self, searcher: PersonSearcher, test: SearchSet) -> None:
        self._searcher = searcher
        self._test = test
        self._parts: list[tuple[int, Detections]] = []
        self._queries: dict[int, NDArray[np.float32]] = {}
        self._embedding_size = searcher.config.embedding.size

    def add(self, batch: Sequence[Scene], features: Mapping[str, Feature], config: EvaluateConfig) -> None:
        """Detect in a batch of scenes, and embed the queries that lie in them."""
        if config.gt_boxes:
            truths = [self._test.annotations[scene.scene_id].boxes for scene in batch]
            embeddings = embed_boxes(self._searcher, features, [scene.size for scene in batch], truths)
            found = [Detections(b, np.ones(len(b), np.float32), e) for b, e in zip(truths, embeddings, strict=True)]
        else:
            sizes = [scene.size for scene in batch]
            found = detect_people(self._searcher, features, sizes, config.score_threshold)
        self._parts += [(self._test.numbers[scene.scene_id], part) for scene, part in zip(batch, found, strict=True)]
        asked = [row for row, scene in enumerate(batch) if scene.scene_id in self._test.queries_in]
        if asked:
            scenes = [batch[row] for row in asked]
            rows = [self._test.queries_in[scene.scene_id] for scene in scenes]
            boxes = [np.stack([self._test.queries[q].box for q in part]) for part in rows]
            part_features = {name: select(feature, asked) for name, feature in features.items()}
            sizes = [scene.size for scene in scenes]
            for numbers, embedded in zip(rows, embed_boxes(self._searcher, part_features, sizes, boxes), strict=True):
                self._queries |= dict(zip(numbers, embedded, strict=True))

    def found(self) -> Detected:
        """All of it as arrays."""
        size = self._embedding_size
        return Detected(
            boxes=np.concatenate([part.boxes for _, part in self._parts]),
            scores=np.concatenate([part.scores for _, part in self._parts]),
            embeddings=np.concatenate([part.embeddings for _, part in self._parts]),
            scenes=np.repeat([number for number, _ in self._parts], [len(part) for _, part in self._parts]),
            query_embeddings=np.array([self._queries[q] for q in sorted(self._queries)], np.float32).reshape(-1, size),
        )


def select(feature: Feature, rows: Sequence[int]) -> Feature:
    """Some samples of an expanded batch."""
    return Feature(feature.values[list(rows)], basis=feature.basis)
