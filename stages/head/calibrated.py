"""What a head's similarities mean, measured on people it was not trained on: kept beside the head."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cache.files import read_bytes
from cache.sealed import check, is_sealed, write_json
from diffps.errors import CalibrationError
from diffps.search.calibration import Calibration
from diffps.search.openset import HeldOut, calibrate, several_pictures
from stages.head.saved import head_digest
from stages.places import calibration_file

MOST_PICTURES = 3  # of a person that a search is calibrated for


def calibrations_of(held_out: HeldOut) -> tuple[Calibration, ...]:
    """For searches by one picture, and by two and three where enough people are seen often enough.

    Raises CalibrationError where they are too few for one.
    """
    found = [calibrate(held_out)]
    for pictures in range(2, MOST_PICTURES + 1):
        try:
            found.append(calibrate(several_pictures(held_out, pictures, np.random.default_rng(0))))
        except CalibrationError:
            break
    return tuple(found)


def keep_calibrations(head: Path, found: Sequence[Calibration], people: Mapping[str, Any]) -> Path:
    """Write them beside the head. ``people`` says in plain values whom they were measured on."""
    path = calibration_file(head)
    records = [record.to_json() for record in found]
    write_json(path, {"head": head_digest(head), "people": dict(people), "calibrations": records})
    return path


def said_of(found: Sequence[Calibration]) -> list[str]:
    """Lines for people: what the first of them costs in galleries of several sizes, and what all were measured on."""
    lines = []
    for row in found[0].table():
        known = "" if row["measured"] else " (extrapolated)"
        lines.append(
            f"among {row['boxes']:,} boxes: one in {round(1 / row['fpir'])} strangers finds somebody of similarity "
            f"{row['threshold']:.3f}; {row['fnir']:.0%} of the pictures of a person lie below{known}"
        )
    pictures = "one picture" if len(found) == 1 else f"1 to {len(found)} pictures"
    return [*lines, f"for searches by {pictures}, measured on {found[0].identities} people"]


def read_calibrations(head: Path) -> tuple[Calibration, ...]:
    """Those of a head; none where it has none. Raises CalibrationError for a file that is not this head's,
    DamagedError for one that is not what was written."""
    path = calibration_file(head)
    if not path.is_file():
        return ()
    data = read_bytes(path)
    if is_sealed(data):  # those made by hand are not
        check(data, path, "`diffps head calibrate`")
    try:
        content = json.loads(data)
        made_for, records = content["head"], list(content["calibrations"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CalibrationError(f"{path}: is no calibration; delete it, or calibrate again") from error
    if made_for != head_digest(head):
        raise CalibrationError(
            f"{path}: was measured with other weights than those of {head}; run `diffps head calibrate` again, or "
            "delete it to search without"
        )
    return tuple(Calibration.from_json(record) for record in records)
