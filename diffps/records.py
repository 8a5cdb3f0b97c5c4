"""What the stages pass to each other: frozen, validated once at construction, then trusted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.names import from_text

Split = Literal["train", "test"]
View = Literal["identity", "hflip"]
Dtype = Literal["float32", "bfloat16", "float16"]
Convention = Literal["protocol", "labels"]  # of search scores: SeqNet's, or that of SEAS and DiffPS

UNLABELLED = -1  # identity of a person whose name is not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One uncropped image of a dataset.

    ``scene_id`` is unique in the dataset (the path below its image folder); ``path`` is relative to the dataset's root;
    both are text whatever bytes the file's name holds (:mod:`diffps.names`). ``width`` and ``height`` are those of the
    displayed frame. ``digest`` names the file's pixels, in hex: the SHA-256 of its bytes, or where these are not shown
    as they are, that of it and of the rules (:class:`diffps.images.Display`).
    """

    scene_id: str
    split: Split
    path: str
    width: int
    height: int
    digest: str
    camera: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    def file(self, root: Path) -> Path:
        """The image file; ``root`` is the dataset's."""
        return root / from_text(self.path)


@dataclass(frozen=True, slots=True)
class Annotations:
    """The persons of one scene: ``boxes`` (n, 4) float32 x1, y1, x2, y2 in the scene frame; ``identities`` (n,) int64.

    In the train split identities are 0..L-1, in the test split the dataset's own numbers; UNLABELLED (-1) in both.
    """

    boxes: NDArray[np.float32]
    identities: NDArray[np.int64]

    def __post_init__(self) -> None:
        boxes, identities = self.boxes, self.identities
        if boxes.ndim != 2 or boxes.shape[1] != 4 or identities.shape != (len(boxes),):
            raise DatasetError(
                f"annotations: boxes {boxes.shape} and identities {identities.shape} do not match (n, 4), (n,)"
            )
        if len(boxes) and not (np.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()):
            bad = int(np.flatnonzero(~(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)))[0])
            raise DatasetError(f"annotations: box {bad} is empty or not finite: {boxes[bad].tolist()}")
        if len(identities) and identities.min() < UNLABELLED:
            raise DatasetError(f"annotations: identity {identities.min()} is below {UNLABELLED} (unlabelled)")


@dataclass(frozen=True, slots=True)
class Detections:
    """Persons found in one scene, strongest first.

    ``boxes`` (n, 4) float32 x1, y1, x2, y2; ``scores`` (n,) float32 in [0, 1]; ``embeddings`` (n, d) float32, rows of
    unit length. The frame (canvas or scene) is the producer's to state.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    embeddings: NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.boxes)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.embeddings.shape[:1] != (n,):
            raise DatasetError(
                f"detections: shapes {self.boxes.shape}, {self.scores.shape}, {self.embeddings.shape} "
                "do not match (n, 4), (n,), (n, d)"
            )

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True, kw_only=True, slots=True)
class Query:
    """The person to be found: ``box`` (4,) float32 x1, y1, x2, y2 in the frame of scene ``scene_id``.

    ``identity`` is the number that the test split's annotations use for the same person.
    """

    query_id: str
    scene_id: str
    box: NDArray[np.float32]
    identity: int

    def __post_init__(self) -> None:
        if self.box.shape != (4,) or not (self.box[2:] > self.box[:2]).all():
            raise DatasetError(f"query {self.query_id}: box {self.box.tolist()} is empty or not (4,)")
        if self.identity <= UNLABELLED:
            raise DatasetError(f"query {self.query_id}: identity {self.identity} is nobody's (unlabelled)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """A gallery that a protocol file lists row by row: parallel tuples, one entry per query.

    ``scenes``: (g,) int32 rows of the index's ``scenes``, in the file's order; a scene may be listed twice.
    ``positive_scenes`` (p,) int32 and ``positive_boxes`` (p, 4) float32: rows that hold the query's person, and where.
    """

    name: str
    query_ids: tuple[str, ...]
    scenes: tuple[NDArray[np.int32], ...]
    positive_scenes: tuple[NDArray[np.int32], ...]
    positive_boxes: tuple[NDArray[np.float32], ...]

    def __post_init__(self) -> None:
        lengths = {len(self.query_ids), len(self.scenes), len(self.positive_scenes), len(self.positive_boxes)}
        if len(lengths) != 1:
            raise DatasetError(f"gallery {self.name}: its parts have {sorted(lengths)} entries, not one per query")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchIndex:
    """A whole dataset: scenes of both splits, ``annotations[scene_id]`` for each of them, queries and listed galleries.

    ``report`` says what was read, dropped and odd; plain JSON values.
    """

    scenes: tuple[Scene, ...]
    annotations: dict[str, Annotations]
    queries: tuple[Query, ...]
    galleries: tuple[Gallery, ...]
    report: dict[str, object]

    def __post_init__(self) -> None:
        known = {scene.scene_id for scene in self.scenes}
        if len(known) != len(self.scenes):
            raise DatasetError("index: two scenes have the same id")
        if known != self.annotations.keys():
            raise DatasetError("index: annotations and scenes do not name the same images")
        for query in self.queries:
            if query.scene_id not in known:
                raise DatasetError(f"query {query.query_id}: its image {query.scene_id} is not in the dataset")
