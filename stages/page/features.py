"""Figures of stored features, and of a head's insides: test scenes read from the cache, never computed anew."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from cache.errors import NotCachedError, SkippedImage
from diffps.features import Feature, Ref
from diffps.figures.analyses import Person, Shown, attention_sheet, frequency_sheet, pca_sheet, semantics_sheet
from diffps.figures.sheets import Sheet
from diffps.heads.sampling import cut_rois
from diffps.heads.sfan import SFAN
from diffps.model import Candidates, PersonSearcher
from diffps.taps import FeatureName
from stages.features.reading import Reading
from stages.head.saved import load_head, reading_of
from stages.page.evidence import Evidence, NotThereError

Grid = NDArray[np.float32]
PERSONS = 2  # of each scene in the semantics figure
FLAT = 0.1  # a map on a scale from 0 to 1 that varies by less is one colour to the eye


def attention(evidence: Evidence) -> Sheet:
    """Stored cross-attention maps over the scenes shown, per word (and per map, where several are stored)."""
    extract = evidence.params.extract
    names = [name for name in extract.names if FeatureName.parse(name).word is not None]
    if not names:
        raise NotThereError(
            "figure attention: extract.taps has no cross-map; add one, e.g. up-level3-repeat0-vit-block0-cross-map"
        )
    several = len({FeatureName.parse(name).tap for name in names}) > 1
    scenes = shown_scenes(evidence)
    read = _read(evidence, names, evidence.params.train.timestep)
    labels = {name: name.removeprefix("up-") if several else str(FeatureName.parse(name).word) for name in names}
    return attention_sheet(scenes, {labels[name]: [grid[..., 0] for grid in read[name]] for name in names})


def components(evidence: Evidence) -> list[Sheet]:
    """Principal components of every stored tap, and of the detection tap across timesteps where there are several."""
    extract, train = evidence.params.extract, evidence.params.train
    names = [name for name in extract.names if FeatureName.parse(name).word is None]
    scenes = shown_scenes(evidence)
    read = _read(evidence, names, train.timestep)
    sheets = [pca_sheet(scenes, {label_of(name): read[name] for name in names})]
    if len(extract.timesteps) > 1:
        tap = train.taps.detection
        steps = {f"t = {step}": _read(evidence, [tap], step)[tap] for step in sorted(extract.timesteps)}
        sheet = pca_sheet(scenes, steps)
        sheets.append(replace(sheet, title=f"{label_of(tap)} across timesteps"))
    return sheets


def frequency(evidence: Evidence) -> Sheet:
    """The re-ID feature of the scenes shown, without and with the frequency refinement."""
    inside = _intermediates(evidence)
    if "before" not in inside[0]:
        raise NotThereError("figure frequency: this head has no frequency refinement (model.msfrn is null)")
    before, refined = ([each[name] for each in inside] for name in ("before", "refined"))
    return frequency_sheet(shown_scenes(evidence), before, refined)


def semantics(evidence: Evidence) -> Sheet:
    """The largest annotated persons of the scenes shown: their RoIs before and after SFAN, S per word and its gate."""
    head = _head(evidence).reid_head
    if not isinstance(head.sfan, SFAN):
        raise NotThereError("figure semantics: this head has no semantic aggregation (model.sfan is null)")
    persons = []
    for scene, inside in zip(shown_scenes(evidence), _intermediates(evidence), strict=True):
        boxes = evidence.annotations[scene.scene_id].boxes
        largest = boxes[np.argsort(-(boxes[:, 3] - boxes[:, 1]), kind="stable")[:PERSONS]]
        size = evidence.scenes[scene.scene_id].size
        places = torch.from_numpy(evidence.params.encode.frame.to_canvas(largest, size))
        refined = torch.from_numpy(inside["refined"]).permute(2, 0, 1)[None]
        with torch.inference_mode():
            rois = cut_rois(refined, [places], head.config.grid, head.canvas, head.config.sampling_ratio)
            words, gates, after = head.sfan.similarities(rois), head.sfan.gate(rois), head.sfan(rois)
        persons += [
            Person(
                scene=scene,
                box=box,
                before=_last(roi),
                similarities=dict(zip(evidence.params.encode.words, similarity.numpy(), strict=True)),
                gate=gate.numpy(),
                after=_last(weighed),
            )
            for box, roi, similarity, gate, weighed in zip(largest, rois, words, gates, after, strict=True)
        ]
    if not persons:
        raise NotThereError("figure semantics: nobody is annotated in the scenes shown; raise report.scenes")
    if all(map(one_colour, persons)):
        raise NotThereError(
            f"figure semantics: shows nothing, as no word's similarity varies by {FLAT} over a person; SFAN weighs all "
            "places alike"
        )
    return semantics_sheet(persons)


def one_colour(person: Person) -> bool:
    """True where neither a word's similarity nor the gate, as they are drawn, varies to the eye."""
    # The gate is drawn from 0 to 2.
    return all(np.ptp(grid) < FLAT for grid in (*person.similarities.values(), person.gate / 2))


def shown_scenes(evidence: Evidence) -> list[Shown]:
    """The test scenes with most persons, from as many cameras as there are."""
    tests = [scene for scene in evidence.scenes.values() if scene.split == "test"]
    tests.sort(key=lambda scene: (-len(evidence.annotations[scene.scene_id].boxes), scene.scene_id))
    seen: dict[int | None, int] = {}
    turns = []
    for scene in tests:
        turns.append(seen.setdefault(scene.camera, 0))
        seen[scene.camera] += 1
    order = sorted(range(len(tests)), key=lambda index: (turns[index], index))
    readable = (tests[i].scene_id for i in order if evidence.is_readable(tests[i].scene_id))
    chosen = islice(readable, evidence.params.report.scenes)
    shown = [Shown(scene_id=name, image=evidence.image(name)) for name in chosen]
    if not shown:
        raise NotThereError(f"figure: no test image can be read below {evidence.params.index.root}")
    return shown


def candidates(evidence: Evidence, scene_id: str) -> Candidates:
    """What the head's detections in a scene were chosen from. Raises NotThereError where its features are missing."""
    head = _head(evidence)
    reading = reading_of(evidence.head, head, evidence.params.extract)
    try:
        with evidence.open_features(reading) as source, torch.inference_mode():
            return head.candidates(next(iter(source.stream([[Ref(scene_id)]], reading.names))))[0]
    except (NotCachedError, SkippedImage) as error:
        raise NotThereError(str(error)) from error


@lru_cache(maxsize=1)
def _head(evidence: Evidence) -> PersonSearcher:
    if not evidence.head.exists():
        raise NotThereError(f"{evidence.head} is missing; run: diffps train")
    return load_head(evidence.head)


@lru_cache(maxsize=1)
def _intermediates(evidence: Evidence) -> list[dict[str, Grid]]:
    """What the head makes of each scene shown, channels last."""
    head = _head(evidence)
    found: list[dict[str, Grid]] = []
    with torch.inference_mode():
        for features in _stream(evidence, head.taps.names, evidence.params.train.timestep):
            maps = head.intermediates(features)
            found.append({name: _last(maps[name][0]) for name in ("before", "refined") if name in maps})
    return found


def _read(evidence: Evidence, names: Iterable[str], timestep: int) -> dict[str, list[Grid]]:
    """(h, w, c) of every name and scene shown."""
    grids: dict[str, list[Grid]] = {name: [] for name in names}
    for features in _stream(evidence, tuple(grids), timestep):
        for name, feature in features.items():
            grids[name].append(_last(feature.dense()[0]))
    return grids


def _stream(evidence: Evidence, names: Iterable[str], timestep: int) -> Iterator[Mapping[str, Feature]]:
    """One mapping of name to Feature per scene shown. Raises NotThereError where the store does not have it."""
    reading = Reading.of(evidence.params.train, evidence.params.extract).at(names, timestep)
    refs = [[Ref(scene.scene_id)] for scene in shown_scenes(evidence)]
    try:
        with evidence.open_features(reading) as source:
            yield from source.stream(refs, reading.names)
    except (NotCachedError, SkippedImage) as error:
        raise NotThereError(f"figure: {error}") from error


def _last(tensor: torch.Tensor) -> Grid:
    """(C, H, W) as (H, W, C), copied, since a source's buffers are used again."""
    return np.ascontiguousarray(tensor.permute(1, 2, 0).float().numpy()).copy()


def label_of(tap: str) -> str:
    """up-level3-repeat0-vit-block0-self-k as "level 3.0 self-k"."""
    parts = tap.split("-")
    if len(parts) < 6 or parts[0] != "up":
        return tap
    level, repeat = parts[1].removeprefix("level"), parts[2].removeprefix("repeat")
    return f"level {level}.{repeat} {'-'.join(parts[5:])}"
