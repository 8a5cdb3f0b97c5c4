"""One person searched in a gallery: hits in order, and what they are worth."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffps.errors import CalibrationError, DatasetError
from diffps.metrics.matching import box_iou
from diffps.search.calibration import Calibration, odds
from diffps.search.nearest import mean_embedding, nearest

OWN_IOU = 0.4  # above it a box is the query itself: no two boxes of one image overlap more (the detector's own NMS)
PROMISE = 0.01  # FPIR of the threshold, where nobody asks for another


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchedGallery:
    """All boxes of a gallery: ``embeddings``, parts of (n, D) float16 unit rows; ``boxes`` (N, 4) float32 x1, y1, x2,
    y2 in the displayed image; ``scores`` (N,) of the detector; ``images`` (N,) which of ``names`` each lies in."""

    embeddings: Sequence[NDArray[np.float16]]
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    images: NDArray[np.int32]
    names: Sequence[str]

    def __post_init__(self) -> None:
        n = sum(len(part) for part in self.embeddings)
        if self.boxes.shape != (n, 4) or self.scores.shape != (n,) or self.images.shape != (n,):
            raise DatasetError(
                f"gallery: {n} embeddings, boxes {self.boxes.shape}, scores {self.scores.shape}, images "
                f"{self.images.shape} do not match"
            )

    def __len__(self) -> int:
        return len(self.boxes)

    def embedding(self, row: int) -> NDArray[np.float16]:
        """The embedding (D,) of a box."""
        for part in self.embeddings:
            if row < len(part):
                found: NDArray[np.float16] = part[row]
                return found
            row -= len(part)
        raise IndexError(f"row {row} beyond the gallery's end")

    def rows_of(self, name: str) -> NDArray[np.int64]:
        """The boxes of an image, in order; none for one that is not here or in which nobody was found."""
        try:
            return np.flatnonzero(self.images == self.names.index(name))
        except ValueError:
            return np.empty(0, np.int64)

    def rows_at(self, name: str, box: NDArray[np.floating]) -> NDArray[np.int64]:
        """The boxes of an image that are the same as ``box`` (4,), as far as overlap tells."""
        wanted = np.asarray(box, np.float32)
        rows = self.rows_of(name)
        return rows[[box_iou(self.boxes[row], wanted) > OWN_IOU for row in rows]] if len(rows) else rows


@dataclass(frozen=True, kw_only=True, slots=True)
class Hit:
    """A box of the gallery. ``box`` is x, y, width, height in pixels of the displayed image; ``similarity`` the cosine;
    ``score`` the detector's. ``fpir``: the share of strangers that look so alike to somebody in this gallery;
    ``same_person``: whether that is at most what was promised. Both None without a calibration. ``row`` in the gallery.
    """

    image: str
    box: tuple[float, float, float, float]
    similarity: float
    score: float
    same_person: bool | None
    fpir: float | None
    row: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """``hits`` by falling similarity, among ``boxes`` boxes in ``images`` images, of the person that ``pictures``
    pictures show. ``threshold``: the similarity from which a hit counts as the same person, which the share ``promise``
    of strangers reaches somewhere; None without a calibration. ``own``: rows that are the query itself, left out.
    ``verdict``: the answer in a sentence or two; ``notes``: what it rests on.
    """

    hits: tuple[Hit, ...]
    boxes: int
    images: int
    pictures: int
    promise: float
    threshold: float | None
    own: tuple[int, ...]
    verdict: str
    notes: tuple[str, ...]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def find(
    queries: NDArray[np.floating],
    gallery: SearchedGallery,
    *,
    top: int = 20,
    own: NDArray[np.integer] | None = None,
    calibrations: Sequence[Calibration] = (),
    promise: float = PROMISE,
) -> Answer:
    """Search one person.

    ``queries`` (pictures, D): embeddings of pictures of that person; several are searched as their mean. ``own``: rows
    of the gallery that are these very pictures, left out. Of ``calibrations`` that for as many pictures is used.
    Raises DatasetError for embeddings that are none, CalibrationError for a promise outside (0, 1).
    """
    check_promise(promise)
    left_out = np.unique(np.asarray([] if own is None else own, np.int64))
    query = mean_embedding(queries)
    ranked = nearest(query[None], gallery.embeddings, min(top, len(gallery)) + len(left_out))
    rows, similarity = ranked.rows[0], ranked.similarity[0]
    kept = ~np.isin(rows, left_out) & (rows >= 0)
    searched = len(gallery) - len(left_out)
    fitting = [record for record in calibrations if record.pictures == len(queries)]
    calibration = fitting[0] if fitting and searched else None
    threshold = calibration.threshold(searched, promise) if calibration else None

    def hit(row: int, value: float) -> Hit:
        x1, y1, x2, y2 = map(float, gallery.boxes[row])
        return Hit(
            image=gallery.names[gallery.images[row]],
            box=(x1, y1, x2 - x1, y2 - y1),
            similarity=value,
            score=float(gallery.scores[row]),
            same_person=None if threshold is None else value >= threshold,
            fpir=float(calibration.fpir(value, searched)) if calibration else None,
            row=row,
        )

    hits = tuple(hit(int(row), float(value)) for row, value in zip(rows[kept][:top], similarity[kept], strict=False))
    notes = [_what_was_searched(searched, len(gallery.names), [gallery.names[at] for at in gallery.images[left_out]])]
    if calibration is None or threshold is None:
        verdict = _why_no_threshold(calibrations, len(queries), searched)
    else:
        missed = float(calibration.fnir(threshold))
        verdict = _what_was_found(sum(hit.similarity >= threshold for hit in hits), threshold, missed)
        notes += _what_threshold_means(threshold, promise, missed)
        notes += _how_well_known(calibration, searched, promise)
    return Answer(
        hits=hits,
        boxes=searched,
        images=len(gallery.names),
        pictures=len(queries),
        promise=promise,
        threshold=threshold,
        own=tuple(left_out.tolist()),
        verdict=verdict,
        notes=tuple(notes),
    )


def check_promise(promise: float) -> None:
    """Raises CalibrationError for a share outside (0, 1)."""
    if not 0 < promise < 1:
        raise CalibrationError(f"promise {promise:g}: a share of strangers lies between 0 and 1; 0.01 is one in 100")


def _what_was_searched(boxes: int, images: int, own: Sequence[str]) -> str:
    left_out = f"; the query's own box in {', '.join(dict.fromkeys(own))} is left out" if own else ""
    return f"{boxes:,} boxes in {images:,} images were searched{left_out}."


def _why_no_threshold(calibrations: Sequence[Calibration], pictures: int, boxes: int) -> str:
    if not boxes:
        return "There is nobody to compare with."
    ranking = "This is a ranking, which cannot tell whether the person is there at all"
    if not calibrations:
        return f"{ranking}: the head was not calibrated."
    known = ", ".join(str(record.pictures) for record in calibrations)
    return f"{ranking}: the head was calibrated for queries of {known} pictures and not of {pictures}."


def _what_was_found(alike: int, threshold: float, missed: float) -> str:
    if threshold >= 1:
        return "Among so many boxes no likeness is enough to tell a person from a stranger: this is a ranking."
    if alike:
        who = "1 of the hits shown is" if alike == 1 else f"{alike} of the hits shown are"
        return f"{who} taken for the person."
    doubt = "That says little, since" if missed > 0.5 else "The person may be there all the same:"
    return f"Nobody is taken for the person. {doubt} {missed:.0%} of the pictures of a person who is there are missed."


def _what_threshold_means(threshold: float, promise: float, missed: float) -> list[str]:
    if threshold >= 1:
        return []
    return [
        f"Taken for the person is who has a similarity of {threshold:.3f} or more: {odds(promise)} strangers finds "
        f"somebody so alike in this gallery, and {missed:.0%} of the pictures of a person who is there are missed."
    ]


def _how_well_known(calibration: Calibration, boxes: int, promise: float) -> list[str]:
    if boxes > calibration.measured_boxes:
        return [
            f"That was measured among up to {calibration.measured_boxes:,.0f} boxes and is extrapolated to these "
            f"{boxes:,}; the true share may be several times as large."
        ]
    least = calibration.least(boxes)
    if promise >= least:
        return []
    people = calibration.identities
    return [f"That was measured down to {odds(least)} strangers, on {people} people, and is extrapolated beyond."]
