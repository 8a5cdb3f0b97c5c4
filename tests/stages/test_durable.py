"""Nothing counts before it is on the disk: what every stage writes, seen from the system's calls, in their order."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults import shim
from tests.world import ROOT

COMMAND = """
import sys
from importlib import import_module
from pathlib import Path
from pipeline.config import load_params
from stages.job import QuietJob

params, runtime = load_params(Path("params.yaml"))
for name in sys.argv[1:]:
    import_module(f"stages.{name}").run(params, runtime, QuietJob())
"""
STAGES = ("index", "encode", "extract", "train", "evaluate", "sweep", "report")
# Appended line by line while others read them, or only there while a process lives.
IN_PLACE = ("losses.csv", "log.jsonl", "*.lock", "lock.json")
# What says that something is done; until then it does not count.
PROOFS = ("receipts", "manifests", "inputs", "digests.json")

MAKING = "data/features/tmp"

Call = tuple[str, Path, Path | None]


@pytest.fixture(scope="module")
def calls(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Call]]:
    """Every write, fsync and rename of all stages in a fresh project."""
    here = tmp_path_factory.mktemp("durable") / "project"
    here.mkdir()
    for name in ("params.yaml", "one.yaml"):
        shutil.copy(whole / name, here)
    shutil.copytree(whole / "data/streets", here / "data/streets")
    log = here.parent / "calls"
    env = shim.recording(log) | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", COMMAND, *STAGES], cwd=here, env=env, check=True)
    return here, shim.recorded(log, here)


def is_temporary(path: Path, below: Path) -> bool:
    """Of one writer, who clears it away: beside the target, or in the store's folder for what is being made."""
    inside = path.relative_to(below)
    return any(re.match(r"\.(diffps|random)-|\.tmp", part) for part in inside.parts) or inside.is_relative_to(MAKING)


def test_nothing_is_written_under_its_own_name(calls: tuple[Path, list[Call]]) -> None:
    here, made = calls
    places = {path for call, path, _ in made if call == "write" and not is_temporary(path, here)}
    apart = {path for path in places if any(path.match(pattern) for pattern in IN_PLACE)}
    assert places - apart == set()
    assert len({path for call, path, _ in made if call == "write"}) > 50


def test_content_is_on_the_disk_before_it_takes_its_name(calls: tuple[Path, list[Call]]) -> None:
    here, made = calls
    unsynced: set[Path] = set()
    named = 0
    for call, path, target in made:
        if call == "write":
            unsynced.add(path)
        elif call == "fsync":
            unsynced.discard(path)
            # safetensors names its file by a call of the kernel that is not seen.
            if path.suffix == ".safetensors":
                unsynced -= {other for other in unsynced if other.parent == path.parent and other.name[:4] == ".tmp"}
        elif target is not None:
            late = {other for other in unsynced if other == path or path in other.parents}
            if not is_temporary(target, here):
                assert not late, f"{target.relative_to(here)} took its name before its content was synced"
                named += 1
            unsynced = unsynced - late | {target / other.relative_to(path) for other in late}
    assert named > 50


def test_a_name_is_on_the_disk_before_anything_says_so(calls: tuple[Path, list[Call]]) -> None:
    """The folder of whatever took its name is synced before the next receipt, manifest or digest, or the end."""
    here, made = calls
    unsynced: set[Path] = set()
    proofs = 0
    for call, path, target in made:
        if call == "fsync":
            unsynced = {other for other in unsynced if other.parent != path}
        elif target is not None and not is_temporary(target, here):
            if any(part in PROOFS for part in target.relative_to(here).parts):
                assert not unsynced, f"{target.relative_to(here)} says what it says before {unsynced} are there"
                proofs += 1
            unsynced.add(target)
    assert not unsynced
    assert proofs > 10


def test_a_receipt_comes_after_the_shard_it_speaks_of(calls: tuple[Path, list[Call]]) -> None:
    _, made = calls
    shards = {to: at for at, (_, _, to) in enumerate(made) if to is not None and "/c/" in str(to)}
    receipts = {to: at for at, (_, _, to) in enumerate(made) if to is not None and "receipts" in to.parts}
    assert shards
    assert receipts
    for receipt, at in receipts.items():
        group = str(receipt.parent).replace("receipts", "features.zarr")
        spoken_of = [when for shard, when in shards.items() if str(shard).startswith(group)]
        assert spoken_of, receipt
        assert min(spoken_of) < at
