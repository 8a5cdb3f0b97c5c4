"""Every digest and checksum of the project: what the stages left, and the store."""

from collections.abc import Callable, Iterator
from pathlib import Path

from stages.job import Job, Runtime

Check = tuple[Path, Callable[[], object]]


def run(head: Path, runtime: Runtime, job: Job) -> None:
    """Name every file that is not what was written, and what makes it anew; ``head`` is the one that was scored.

    Raises DamagedError where there is one.
    """
    from cache.errors import CacheError, DamagedError
    from cache.repair import damaged_tables
    from cache.verify import verify
    from stages.features.opening import open_store
    from stages.text import size

    store, problems, checked = open_store(runtime.store), 0, 0
    for path, check in [*results(head), *manifests(store.check)]:
        checked += 1
        try:
            if check() is None:
                job.say(f"{path}: has no digests, so nothing is known of it")
        except CacheError as error:
            problems += 1
            job.say(str(error))
    for damage in damaged_tables(store.root).values():
        problems += 1
        job.say(f"{damage}; `diffps cache verify --repair` makes it anew")
    total = sum(group.nbytes for group in store.status()) if not problems else 0
    with job.track("verify", total, "bytes") as tracker:
        damages = verify(store.root, store.arrays(), progress=lambda nbytes: tracker.advance(nbytes, nbytes))
    for each in damages:
        job.say(f"{each.file}: {each.what}; `diffps cache verify` says what repairs it")
    problems += len(damages)
    if problems:
        raise DamagedError(f"verify: {problems} files are not what was written; the lines above name them")
    job.say(f"verify: {checked} results and {size(total)} of the store are what was written")


def results(head: Path) -> Iterator[Check]:
    """Folders of results that belong together, and files that carry their own digest."""
    from cache.sealed import read_sealed
    from stages.places import (
        EVALUATE,
        EXTRACTED,
        FIGURES,
        INDEX,
        KNOWN_FILES,
        KNOWN_WEIGHTS,
        PROBE,
        REPORT,
        SWEEP,
        TRAIN,
        WORDS,
        calibration_file,
        similarity_file,
    )
    from stages.together import remake, together

    def folder(path: Path, stage: str) -> Check:
        def check() -> object:
            found = together(path, stage)
            if found is not None:
                found.check()
            return found

        return path, check

    for path, stage in (
        (INDEX, "index"),
        (TRAIN, "train"),
        (EVALUATE, "evaluate"),
        (PROBE, "probe"),
        (REPORT, "report"),
    ):
        if path.is_dir():
            yield folder(path, stage)
    for path in sorted({TRAIN / "head", head}):
        if path.is_dir():
            yield folder(path, "train")
    for path in (SWEEP, FIGURES, *(p for p in sorted(SWEEP.glob("heads/*")) if p.is_dir())):
        stage = "figure" if path == FIGURES else "sweep"
        parts = [path] if path in (SWEEP, FIGURES) else [path, path / "head", path / "evaluate"]
        yield from (folder(part, stage) for part in parts if any(part.glob("*.*")))
    sealed = {KNOWN_FILES: "index", WORDS: "encode", similarity_file(head): "report"}
    for folder_of_json in (EXTRACTED / "checkpoints", KNOWN_WEIGHTS):
        sealed |= dict.fromkeys(sorted(folder_of_json.glob("*.json")), "extract")
    sealed |= dict.fromkeys(sorted(TRAIN.glob("checkpoint/*.safetensors")), "train")
    sealed |= dict.fromkeys(sorted(PROBE.glob("parts/*/*/*.npz")), "probe")
    sealed |= dict.fromkeys((path for path in (calibration_file(head),) if path.parent != head), "head calibrate")
    for pattern in ("heads/*/checkpoint/*.safetensors", "heads/*/result.json"):
        sealed |= dict.fromkeys(sorted(SWEEP.glob(pattern)), "sweep")
    for file, stage in sealed.items():
        if file.is_file():
            yield file, lambda file=file, stage=stage: read_sealed(file, remake(stage))  # type: ignore[misc]


def manifests(check: Callable[[Path, Path], object]) -> Iterator[Check]:
    """Manifests against the store."""
    from cache.identity import FILE, store_id
    from cache.system import files_below
    from stages.places import ENCODED, EXTRACTED, INPUTS

    for folder in (ENCODED, EXTRACTED, INPUTS):
        for path in files_below(folder):
            if path.name == FILE:
                yield path, lambda folder=folder: store_id(folder)  # type: ignore[misc]
            elif path.suffix == ".json" and path.parent.name != "checkpoints":
                yield path, lambda path=path, folder=folder: check(path, folder)  # type: ignore[misc]
