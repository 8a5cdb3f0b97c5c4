"""A probe's numbers on disk: a row for every tap and timestep, the word maps, what taps share, and sets to paste."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from ruamel.yaml import YAML

from cache.files import write_file, write_text
from diffps.features import FeatureShape
from diffps.heads.config import TapsConfig
from diffps.probe.intervals import Estimate
from diffps.probe.table import Detection, ReID, WordMap
from diffps.taps import FeatureName
from stages.places import PROBE
from stages.probing.numbers import MeasuredSet, Probed

Row = dict[str, Any]
Kind = Literal["tap", "set", "reference"]
SEEDS = (1, 2, 3)  # of the sweep over the sets
_PLACE = re.compile(r"((?:vit|joint)-block\d+|cnn-stage\d+(?:-block\d+)?|[a-z]+(?:-level\d+)?(?:-repeat\d+)?)-(.+)")


def place_of(tap: str) -> tuple[str, str]:
    """Block and module of a tap: ("up-level3-repeat0", "vit-block0-self-k"), ("vit-block07", "q"); what lies outside of
    blocks has the model as one: ("unet", "after-conv-in"), ("vit", "norm")."""
    found = _PLACE.fullmatch(tap)
    return (found[1], found[2]) if found else (tap, "")


def tap_rows(probed: Probed, own: TapsConfig) -> Iterator[Row]:
    """One row a tap. ``own`` are the taps of the parameters."""
    for name, shape in probed.plan.reads.taps.items():
        block, module = place_of(name)
        place = {"block": block, "module": module, "own": name in own.names}
        scores = _flat("reid", probed.reid[name]) | _flat("detection", probed.detection[name])
        yield _head(probed, "tap", name) | place | _shape(shape) | {"megabytes": probed.megabytes[name]} | scores


def set_rows(probed: Probed, sets: Sequence[MeasuredSet]) -> Iterator[Row]:
    """One row a set; detection is that of the tap that detection reads."""
    for each in sets:
        scores = _flat("reid", ReID(map=each.map)) | _estimate("reid_ahead", each.ahead)
        detection = probed.detection.get(each.taps.detection, Detection())
        taps = {"megabytes": each.megabytes, "taps": ", ".join(each.taps.names)}
        yield _head(probed, "set", each.name) | taps | scores | _flat("detection", detection)


def reference_row(probed: Probed, name: str, reid: ReID) -> Row:
    """What needs no backbone."""
    return _head(probed, "reference", name) | _flat("reid", reid)


def map_rows(probed: Probed) -> Iterator[Row]:
    """One row a word map."""
    for name, scores in probed.maps.items():
        feature = FeatureName.parse(name)
        parts = {"tap": feature.tap, "word": feature.word, "megabytes": probed.megabytes[name]}
        yield _head(probed, "tap", name) | parts | _flat("", scores)


def write_table(rows: Sequence[Row], path: Path) -> None:
    """``rows`` as Parquet, with every column that one of them has; without rows the file goes."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = pa.table({column: [row.get(column) for row in rows] for column in columns})
    write_file(path, lambda temporary: pq.write_table(table, temporary))


def write_redundancy(probed: Sequence[Probed], path: Path) -> None:
    """CKA between taps: a row a tap and timestep, a column a tap."""
    rows = []
    for each in probed:
        taps = list(each.plan.reads.taps)
        for tap, values in zip(taps, each.redundancy, strict=True):
            rows.append(_head(each, "tap", tap) | dict(zip(taps, values.tolist(), strict=True)))
    write_table(rows, path)


def write_sets(probed: Probed, sets: Sequence[MeasuredSet], own: TapsConfig, folder: Path = PROBE) -> list[Path]:
    """Every chosen set as a block to paste into the parameters, and a sweep that trains all of them beside the
    parameters' ``own``; the files written."""
    chosen = [each for each in sets if each.name != "train.taps"]
    written = []
    for each in chosen:
        path = folder / f"taps-{each.name.split()[1]}MB.yaml"
        note = f"# {each.megabytes:.3g} MB per image; re-ID score of the probe {each.map.value:.3f}\n"
        block = {
            "extract": {"taps": _stored(each.taps)},
            "train": {"timestep": probed.timestep, "taps": _plain(each.taps)},
        }
        write_text(path, note + _yaml(block))
        written.append(path)
    if chosen:
        every = list(dict.fromkeys(tap for taps in (own, *(each.taps for each in sets)) for tap in _stored(taps)))
        timestep = probed.timestep
        sweep = folder / "sweep.yaml"
        note = (
            "# The chosen sets beside the parameters' own, three seeds each. First store what they read:\n"
            f"#   diffps extract --set 'extract.taps=[{', '.join(every)}]' --set 'extract.timesteps=[{timestep}]'\n"
            f"# then the same --set for `diffps sweep`, with --set sweep.file={sweep}\n"
        )
        different = {each.taps: each for each in reversed(sets)}  # a larger budget may give the same set
        variants = {
            each.name.replace(" ", "-"): {f"taps.{key}": value for key, value in _plain(taps).items()}
            for taps, each in reversed(different.items())
        }
        grid = {"base": {"timestep": timestep}, "variants": variants, "grid": {"seed": list(SEEDS)}}
        write_text(sweep, note + _yaml(grid))
        written.append(sweep)
    return written


def _head(probed: Probed, kind: Kind, name: str) -> Row:
    checkpoint = probed.plan.unet.encode.checkpoint
    return {"checkpoint": checkpoint, "timestep": probed.timestep, "kind": kind, "name": name}


def _shape(shape: FeatureShape) -> Row:
    return {"height": shape.height, "width": shape.width, "channels": shape.channels}


def _flat(prefix: str, scores: ReID | Detection | WordMap) -> Row:
    found: Row = {}
    for field in fields(scores):
        name = f"{prefix}_{field.name}" if prefix else field.name
        value = getattr(scores, field.name)
        found |= _estimate(name, value) if isinstance(value, Estimate) else {name: value}
    return found


def _estimate(name: str, value: Estimate) -> Row:
    return {name: value.value, f"{name}_low": value.low, f"{name}_high": value.high}


def _stored(taps: TapsConfig) -> list[str]:
    """As ``extract.taps`` names them: a map by its tap."""
    return list(dict.fromkeys(FeatureName.parse(name).tap for name in taps.names))


def _plain(taps: TapsConfig) -> Mapping[str, Any]:
    levels = {level: list(getattr(taps, level)) for level in ("level1", "level2", "level3")}
    return {"detection": taps.detection, "guidance": taps.guidance, **levels}


def _yaml(content: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = YAML()
    writer.width = 1000
    writer.dump(dict(content), text)
    return text.getvalue()
