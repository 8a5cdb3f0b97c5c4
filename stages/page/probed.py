"""The probe on the page: where good taps lie, what they cost, what they share, and what may be concluded."""

import math
from collections.abc import Sequence

from diffps.figures.sheets import Chart, Heat, Line, Picture
from stages.page.content import Table, share
from stages.page.evidence import Evidence, Json
from stages.text import percent

SCORES = {"reid_map": "re-ID mAP", "detection_precision": "AP of windows"}
FRACTIONS = {
    *("reid_map", "reid_top1", "reid_whole", "reid_cosine", "detection_precision", "detection_recall"),
    *("precision", "hit"),
}
SHARED = 24  # taps in the matrix of what they share


def charts(evidence: Evidence) -> list[Picture]:
    """Heat maps of blocks and modules, scores against bytes, scores over timesteps, and redundancy. Raises
    NotThereError."""
    rows = _taps(evidence)
    best = _best_timestep(rows)
    shown = [row for row in rows if row["timestep"] == best]
    scores = {column: label for column, label in SCORES.items() if _known(shown, column)}
    found: list[Picture] = [_heat(shown, column, label) for column, label in scores.items()]
    found += [_against_bytes(shown, column, label) for column, label in scores.items()]
    if len({row["timestep"] for row in rows}) > 1:
        found += [_over_timesteps(rows, column, label) for column, label in scores.items()]
    if _known(shown, "reid_map"):
        found.append(_shared(evidence, shown))
    return found


def sentences(evidence: Evidence) -> list[str]:
    """What may be concluded."""
    return evidence.probe_sentences


def tables(evidence: Evidence) -> list[Table]:
    """Every tap, the sets and references beside them, and the word maps."""
    columns = {
        "name": "Tap",
        "timestep": "Timestep",
        "megabytes": "MB an image",
        "reid_map": "Re-ID mAP",
        "reid_top1": "Top-1",
        "reid_whole": "Whole box",
        "reid_cosine": "Cosine",
        "detection_precision": "AP of windows",
        "detection_recall": "Persons found",
    }
    rows = [row for row in evidence.probe if row["checkpoint"] == _checkpoint(evidence)]
    references = [row for row in rows if row["kind"] != "tap"] + _blank(evidence)
    maps = {"name": "Map", "timestep": "Timestep", "precision": "AP of positions", "hit": "Strongest hits"}
    made = [
        _table("Sets, colours, and the best tap of the control", references, {**columns, "name": "What"}),
        _table("Taps", _taps(evidence), columns),
        _table("Word maps", evidence.probe_maps, maps),
    ]
    return [table for table in made if table.rows]


def _taps(evidence: Evidence) -> list[Json]:
    """Rows of the checkpoint that was probed, not of the control."""
    return [row for row in evidence.probe if row["kind"] == "tap" and row["checkpoint"] == _checkpoint(evidence)]


def _checkpoint(evidence: Evidence) -> str:
    checkpoint: str = evidence.probe[0]["checkpoint"]
    return checkpoint


def _blank(evidence: Evidence) -> list[Json]:
    others = [row for row in evidence.probe if row["checkpoint"] != _checkpoint(evidence)]
    best = [max(others, key=lambda row: _value(row, column)) for column in SCORES if _known(others, column)]
    named = {row["name"]: {**row, "name": f"{row['checkpoint']}: {row['name']}"} for row in best}
    return list(named.values())


def _heat(rows: Sequence[Json], column: str, label: str) -> Chart:
    blocks = list(dict.fromkeys(row["block"] for row in rows))
    modules = list(dict.fromkeys(_module(row) for row in rows))
    places = {(blocks.index(row["block"]), modules.index(_module(row))): row for row in rows}
    values = [
        [_value(places[at], column) if (at := (r, c)) in places else None for c in range(len(modules))]
        for r in range(len(blocks))
    ]
    known = [value for line in values for value in line if value is not None]
    best = max(rows, key=lambda row: _value(row, column))
    own = frozenset(at for at, row in places.items() if row["own"])
    heat = Heat(rows=blocks, columns=modules, values=values, low=min(known), high=max(known), marked=own)
    return Chart(
        title=f"{label} by block and module",
        x_label="",
        heat=heat,
        note=f"From {percent(min(known))}, palest, to {percent(max(known))}; outlined are the parameters' taps.",
        summary=f"{label} is highest, {percent(_value(best, column))}, at {best['name']}.",
    )


def _against_bytes(rows: Sequence[Json], column: str, label: str) -> Chart:
    points = sorted(
        ((row["megabytes"], _value(row, column), row["name"]) for row in rows), key=lambda point: (point[0], -point[1])
    )
    front: list[tuple[float, float, str]] = []
    for point in points:
        if not front or point[1] > front[-1][1]:
            front.append(point)
    own = [(row["megabytes"], _value(row, column)) for row in rows if row["own"]]
    lines = [
        Line(label="taps", x=[x for x, *_ in points], y=[y for _, y, _ in points], points=True, joined=False),
        Line(label="best for its bytes", x=[x for x, *_ in front], y=[y for _, y, _ in front], points=True, steps=True),
    ]
    if own:
        lines.append(Line(label="parameters", x=[x for x, _ in own], y=[y for _, y in own], points=True, joined=False))
    return Chart(
        title=f"{label} against bytes",
        x_label="MB an image",
        y_label=label,
        shares="y",
        note="A point is a tap. On the stepped line lies the best that so many bytes or fewer can buy.",
        lines=tuple(lines),
        summary="Best for its bytes: " + ", ".join(f"{name} {percent(y)} at {x:.3g} MB" for x, y, name in front) + ".",
    )


def _over_timesteps(rows: Sequence[Json], column: str, label: str) -> Chart:
    steps = sorted({row["timestep"] for row in rows})
    best = max(rows, key=lambda row: _value(row, column))["name"]
    chosen = {"best tap of each": None, best: best}
    lines = []
    for name, tap in chosen.items():
        values = [
            max(_value(row, column) for row in rows if row["timestep"] == step and tap in (None, row["name"]))
            for step in steps
        ]
        lines.append(Line(label=name, x=steps, y=values, points=True))
    return Chart(
        title=f"{label} over timesteps",
        x_label="timestep",
        y_label=label,
        shares="y",
        note="The timestep is the noise level the UNet is told, from 0 to 999.",
        lines=tuple(lines),
        summary=", ".join(f"{percent(value)} at {step}" for step, value in zip(steps, lines[0].y, strict=True)) + ".",
    )


def _shared(evidence: Evidence, rows: Sequence[Json]) -> Chart:
    """CKA between the taps that are best for re-ID and those of the parameters."""
    ranked = sorted(rows, key=lambda row: _value(row, "reid_map"), reverse=True)
    chosen = sorted(ranked, key=lambda row: not row["own"])[:SHARED]
    names = [row["name"] for row in ranked if row in chosen]
    labels, timestep = [_short(name) for name in names], rows[0]["timestep"]
    found = {row["name"]: row for row in evidence.redundancy if row["timestep"] == timestep}
    values = [[found[one][other] for other in names] for one in names]
    clean = [[None if value is None or math.isnan(value) else value for value in line] for line in values]
    return Chart(
        title="What taps share",
        x_label="",
        heat=Heat(rows=labels, columns=labels, values=clean, low=0.0, high=1.0),
        note="Linear CKA of the persons’ vectors, debiased: full where two taps say the same. The best for re-ID come "
        "first; up3.2 is up-level3-repeat2.",
        summary=f"Similarity between {len(names)} taps.",
    )


def _table(caption: str, rows: Sequence[Json], columns: dict[str, str]) -> Table:
    kept = {name: label for name, label in columns.items() if _known(rows, name) or name in ("name", "timestep")}
    cells = [[_cell(name, row.get(name)) for name in kept] for row in rows]
    return Table(caption=caption, columns=list(kept.values()), rows=cells)


def _cell(column: str, value: object) -> object:
    if isinstance(value, float) and math.isnan(value):
        return None
    return share(value) if column in FRACTIONS and isinstance(value, int | float) else value


def _best_timestep(rows: Sequence[Json]) -> int:
    column = next((column for column in SCORES if _known(rows, column)), "timestep")
    timestep: int = max(rows, key=lambda row: _value(row, column))["timestep"]
    return timestep


def _known(rows: Sequence[Json], column: str) -> bool:
    return any(math.isfinite(_value(row, column)) for row in rows)


def _value(row: Json, column: str) -> float:
    value = row.get(column)
    return -math.inf if not isinstance(value, int | float) or math.isnan(value) else float(value)


def _module(row: Json) -> str:
    module: str = row["module"]
    return {"vit-block0-out": "block-out"}.get(module, module.removeprefix("vit-block0-"))


def _short(tap: str) -> str:
    """up-level3-repeat2-vit-block0-self-k as up3.2-self-k: 24 of them stand beside each other."""
    return tap.replace("-vit-block0", "").replace("-level", "").replace("-repeat", ".")
