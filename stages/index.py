"""Read a dataset as it lies on disk and write it as Parquet: every later stage starts from these files."""

from pathlib import Path

from stages.job import Job, Runtime
from stages.params import Params


def run(params: Params, runtime: Runtime, job: Job, *, check: bool = False) -> None:
    """Write data/index/*.parquet and report.json, streets first where they are absent; with ``check`` only say what
    would be in the index.

    Raises DatasetError, also where more than the share ``index.tolerate`` is doubtful; ImageError for a file that is no
    image unless ``runtime.skip_unreadable``: then its scene stays, with a size that holds its boxes.
    """
    from cache.files import write_folder
    from cache.sealed import seal_folder
    from diffps.datasets.files import UNREADABLE
    from diffps.datasets.findings import require_plausible
    from diffps.datasets.streets import draw
    from diffps.datasets.tables import write_index
    from diffps.errors import DatasetError
    from stages.dataset.identity import with_identity
    from stages.dataset.known import KnownFiles
    from stages.dataset.read import read_dataset
    from stages.dataset.told import describe, findings_of
    from stages.places import INDEX, KNOWN_FILES, images_root

    config, known = params.index, KnownFiles(KNOWN_FILES)
    root = images_root(config.root)
    if config.dataset == "streets" and not check:
        draw(config.streets, root)
    elif config.dataset == "streets" and not root.is_dir():
        raise DatasetError(f"{config.root}: no streets are drawn yet; `diffps index` without --check draws them")
    index = read_dataset(config, root, known, job, skip_unreadable=runtime.skip_unreadable)
    for line in describe(index):
        job.say(line)
    # What cannot be read was let pass where skipping is allowed; anything else is judged by its share.
    judged = [each for each in findings_of(index) if not (runtime.skip_unreadable and each.reason == UNREADABLE)]
    require_plausible(judged, config.tolerate)
    if check:
        return
    known.keep()
    named = with_identity(index, config, INDEX)

    def write(folder: Path) -> None:
        write_index(named, folder)
        seal_folder(folder)

    write_folder(INDEX, write)


def dry_run(params: Params, runtime: Runtime, job: Job) -> str:
    """What would be read and written."""
    from stages.places import INDEX, images_root

    config = params.index
    root = images_root(config.root)
    state = "is there" if root.is_dir() else "will be drawn" if config.dataset == "streets" else "is MISSING"
    return f"index: {config.dataset} at {config.root} ({state}) -> {INDEX}/*.parquet, report.json"
