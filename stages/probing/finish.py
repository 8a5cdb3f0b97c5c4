"""From finished parts to the files of results/probe."""

from collections.abc import Sequence

from cache.files import write_text
from diffps.heads.config import TapsConfig
from stages.config_probe import ProbeFile
from stages.head.identity import index_digest
from stages.images import ImageFolder
from stages.places import PROBE
from stages.probing.conclusions import sentences
from stages.probing.export import (
    map_rows,
    reference_row,
    set_rows,
    tap_rows,
    write_redundancy,
    write_sets,
    write_table,
)
from stages.probing.numbers import Probed, measure, measure_colours, measure_sets
from stages.probing.setting import ProbePlan
from stages.together import begin, finish

TABLES = ("table.parquet", "words.parquet", "redundancy.parquet")


def write_results(plans: Sequence[ProbePlan], config: ProbeFile, own: TapsConfig, images: ImageFolder) -> list[str]:
    """Measure every plan at every timestep and write what was found; ``own`` are the taps of the parameters. The lines
    that say what may be concluded."""
    first, *controls = plans
    probed = [measure(first, timestep) for timestep in config.timesteps]
    blank = [measure(plan, timestep) for plan in controls for timestep in config.timesteps]
    best = max(probed, key=_promise)
    sets, colours = measure_sets(best, config, own), measure_colours(best, images)
    rows = [row for each in (*probed, *blank) for row in tap_rows(each, own)]
    rows += set_rows(best, sets)
    rows.append(reference_row(best, "colours of true boxes", colours))
    begin(PROBE)
    write_table(rows, PROBE / "table.parquet")
    write_table([row for each in probed for row in map_rows(each)], PROBE / "words.parquet")
    write_redundancy(probed, PROBE / "redundancy.parquet")
    files = write_sets(best, sets, own)
    lines: list[str] = []
    for each in probed:
        control = next((other for other in blank if other.timestep == each.timestep), None)
        lines += sentences(each, sets if each is best else [], colours, control)
    lines.append(f"{PROBE / 'table.parquet'}, and to paste: {', '.join(map(str, files)) or 'nothing'}")
    write_text(PROBE / "summary.txt", "\n".join(lines) + "\n")
    tables = [PROBE / name for name in TABLES if (PROBE / name).exists()]
    finish(PROBE, [path.name for path in (*tables, *files, PROBE / "summary.txt")], {"index": index_digest()})
    return lines


def _promise(probed: Probed) -> float:
    """Of a timestep: the best re-ID score of a tap, or of detection where there is no re-ID."""
    if probed.task is None:
        return max(score.precision.value for score in probed.detection.values())
    return max(score.map.value for score in probed.reid.values())
