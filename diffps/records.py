"""What the stages pass to each other: frozen, validated once at construction, then trusted."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError

Split = Literal["train", "test"]
View = Literal["identity", "hflip"]

UNLABELLED = -1  # identity of a person whose name is not known


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """One uncropped image of a dataset.

    ``scene_id`` is unique in the dataset (the path below its image folder); ``path`` is relative to the dataset's root;
    ``width`` and ``height`` are those of the displayed frame; ``digest`` is the SHA-256 of the file's bytes, in hex.
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
