"""Which scenes are probed, and what can be learnt from them: a seeded sample, independent of the order of the index."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffps.errors import DatasetError
from diffps.geometry import Canvas
from diffps.records import UNLABELLED, Annotations, Scene

VIEWS = 4  # scenes of one identity that are drawn for its sake, from as many cameras as there are
Across = Literal["cameras", "scenes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ProbeSample:
    """Scenes in the order in which they are probed. The first ``fitted`` give the detection probe its weights, the
    others its scores; re-ID uses all of them.

    ``boxes``: (n, 4) float32 per scene, in the canvas frame; ``identities``: (n,) int64 per scene, -1 unlabelled.
    ``across`` says between which places a person is searched: other cameras, other scenes, or None where no person is
    seen twice. ``limits`` are sentences on what this sample cannot tell.
    """

    scenes: tuple[Scene, ...]
    fitted: int
    boxes: tuple[NDArray[np.float32], ...]
    identities: tuple[NDArray[np.int64], ...]
    across: Across | None
    limits: tuple[str, ...]

    @property
    def persons(self) -> "Persons":
        """Every box of the sample, scene by scene."""
        counts = [len(boxes) for boxes in self.boxes]
        scenes = np.repeat(np.arange(len(self.scenes)), counts)
        cameras = np.array([-1 if scene.camera is None else scene.camera for scene in self.scenes], np.int64)
        places = cameras[scenes] if self.across == "cameras" else scenes
        return Persons(scenes, np.concatenate(self.identities), places)

    def only(self, rows: Sequence[int]) -> "ProbeSample":
        """The sample without the scenes that are not among ``rows``, which are ascending."""
        if len(rows) == len(self.scenes):
            return self
        scenes = tuple(self.scenes[row] for row in rows)
        identities = tuple(self.identities[row] for row in rows)
        across, limits = _what_can_be_told(scenes, identities)
        left_out = f"{len(self.scenes) - len(rows)} of {len(self.scenes)} images could not be read and were left out."
        return ProbeSample(
            scenes=scenes,
            fitted=sum(row < self.fitted for row in rows),
            boxes=tuple(self.boxes[row] for row in rows),
            identities=identities,
            across=across,
            limits=(left_out, *limits),
        )


class Persons(NamedTuple):
    """The sample's n boxes as flat arrays: ``scenes`` (n,) rows of the sample, ``identities`` (n,), and ``places``
    (n,), which must differ between a query and what may be its match."""

    scenes: NDArray[np.int64]
    identities: NDArray[np.int64]
    places: NDArray[np.int64]


def draw_sample(
    scenes: Sequence[Scene], annotations: Mapping[str, Annotations], canvas: Canvas, count: int, seed: int
) -> ProbeSample:
    """Draw ``count`` scenes that show somebody; all of them where there are no more.

    Identities are drawn in a random order and bring up to four of their scenes each, from different cameras first, so
    that a small sample of a large dataset still sees persons twice; what is left is filled with any scenes. Every
    choice is decided by a hash of the seed and a name. Raises DatasetError with fewer than two scenes to draw from.
    """
    shown = {scene.scene_id: scene for scene in scenes if len(annotations[scene.scene_id].boxes)}
    if len(shown) < 2 or count < 2:
        raise DatasetError(
            f"probe: {len(shown)} scenes have boxes and {count} are asked for; a probe fits on one half of its "
            "scenes and scores on the other, so it needs two or more"
        )
    wanted = _with_identities(shown, annotations, seed)
    wanted += sorted(shown, key=lambda scene_id: _draw(seed, "scene", scene_id))
    drawn = list(dict.fromkeys(wanted))[:count]
    drawn.sort(key=lambda scene_id: _draw(seed, "order", scene_id))
    chosen = tuple(shown[scene_id] for scene_id in drawn)
    boxes = tuple(canvas.to_canvas(annotations[scene.scene_id].boxes, scene.size) for scene in chosen)
    identities = tuple(annotations[scene.scene_id].identities for scene in chosen)
    across, limits = _what_can_be_told(chosen, identities)
    if len(chosen) < count:
        limits = (f"{count} scenes were asked for, {len(chosen)} have boxes: all of them were taken.", *limits)
    return ProbeSample(
        scenes=chosen,
        fitted=len(chosen) // 2,
        boxes=boxes,
        identities=identities,
        across=across,
        limits=limits,
    )


def _with_identities(shown: Mapping[str, Scene], annotations: Mapping[str, Annotations], seed: int) -> list[str]:
    """Scenes in the order in which their identities are drawn."""
    seen: dict[int, list[str]] = {}
    for scene_id in shown:
        for identity in np.unique(annotations[scene_id].identities).tolist():
            if identity != UNLABELLED:
                seen.setdefault(identity, []).append(scene_id)
    found: list[str] = []
    for identity in sorted(seen, key=lambda identity: _draw(seed, "identity", str(identity))):
        if len(seen[identity]) > 1:
            order = sorted(seen[identity], key=lambda scene_id: _draw(seed, str(identity), scene_id))
            found += _spread(order, shown)[:VIEWS]
    return found


def _spread(scene_ids: Iterable[str], shown: Mapping[str, Scene]) -> list[str]:
    """The same scenes, every camera's first before any camera's second."""
    turn: dict[int | None, int] = {}
    ranks = {}
    for scene_id in scene_ids:
        camera = shown[scene_id].camera
        ranks[scene_id] = turn[camera] = turn.get(camera, -1) + 1
    return sorted(ranks, key=ranks.__getitem__)


def _what_can_be_told(
    scenes: Sequence[Scene], identities: Sequence[NDArray[np.int64]]
) -> tuple[Across | None, tuple[str, ...]]:
    cameras: dict[int, set[int | None]] = {}
    places: dict[int, set[int]] = {}
    for row, (scene, names) in enumerate(zip(scenes, identities, strict=True)):
        for identity in names[names != UNLABELLED].tolist():
            cameras.setdefault(identity, set()).add(scene.camera)
            places.setdefault(identity, set()).add(row)
    crossing = sum(len(seen) > 1 for seen in cameras.values())
    twice = sum(len(seen) > 1 for seen in places.values())
    named = all(scene.camera is not None for scene in scenes)
    if named and crossing > 1:
        return "cameras", ()
    if twice > 1:
        why = "no two persons are seen by two cameras" if named else "the dataset names no cameras"
        return "scenes", (f"Persons are searched across scenes, not cameras: {why}.",)
    labels = f"{len(places)} identities, {twice} of them in two scenes" if places else "no identities"
    return None, (f"Only detection is probed: the sample has {labels}, and re-ID needs two such persons.",)


def _draw(seed: int, purpose: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}/{purpose}/{name}".encode()).digest()
