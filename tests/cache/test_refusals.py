"""Whatever the system refuses, in whatever call, is one line that names the file and the way out; nothing is lost.

A child with preloaded faults goes through the whole table, since starting one costs more than all of its cases.
"""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from cache import CacheError, FeatureStore
from cache.errors import DamagedError, StoreFullError
from cache.forget import forget
from cache.garbage import find_garbage, remove
from cache.repair import rebuild_rows
from cache.system import refusal
from cache.traces import find_traces
from cache.verify import verify
from tests.cache.builders import check, images, spec, tree, write
from tests.faults import shim

SPECS = [spec("int8"), spec("project:4", tap="other")]
ROWS = images(6)


def fill(store: FeatureStore) -> None:
    write(store, SPECS, ROWS)


def look(store: FeatureStore) -> None:
    assert store.missing(SPECS, ROWS[:4]).nothing
    check(store, SPECS, ROWS[:4])
    store.status()
    store.check(store.root / "manifests/x.json")


def check_all(store: FeatureStore) -> None:
    damages = verify(store.root, store.arrays())
    if damages:  # what cannot be read is damage, by file
        raise DamagedError(f"{damages[0].file}: {damages[0].what}; no matter")


def describe(store: FeatureStore) -> None:
    store.write_manifest(store.root / "manifests/y.json", SPECS, {"train": ROWS[:4]}, store.root / "manifests")


def drop(store: FeatureStore) -> None:
    forget(store.root, find_traces(store.root, "train", scene_ids=[ROWS[1][0]]))


def collect(store: FeatureStore) -> None:
    remove(store.root, find_garbage(store.root, {(SPECS[0].path, SPECS[0].id)}))


def rebuild(store: FeatureStore) -> None:
    rebuild_rows(store.root, "train", ROWS)


ACTIONS: list[Callable[[FeatureStore], None]] = [fill, look, check_all, describe, drop, collect, rebuild]
CALLS = {
    "open": [errno.EIO, errno.EACCES, errno.EMFILE, errno.ESTALE],
    "create": [errno.EROFS, errno.EACCES, errno.EMFILE, errno.EDQUOT, errno.ENOSPC, errno.ESTALE],
    "read": [errno.EIO, errno.ESTALE],
    "write": [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG],
    "fsync": [errno.EIO, errno.ENOSPC, errno.EDQUOT],
    "rename": [errno.EXDEV, errno.EIO, errno.EACCES, errno.ENOSPC, errno.EROFS],
    "mkdir": [errno.EROFS, errno.EACCES, errno.ENOSPC],
    "unlink": [errno.EROFS, errno.EACCES, errno.EIO],
    "stat": [errno.EIO, errno.ESTALE, errno.EACCES],
    "statvfs": [errno.EIO],
    "touch": [errno.EROFS, errno.EACCES],
    "list": [errno.EIO, errno.EACCES, errno.EMFILE],
    "flock": [errno.EIO, errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP],
    "link": [errno.EPERM],
}
TIMES = (1, 7)


def template(root: Path) -> FeatureStore:
    store = FeatureStore(root)
    write(store, SPECS, ROWS[:4])
    store.write_manifest(root / "manifests/x.json", SPECS, {"train": ROWS[:4]})
    return store


def outcome(action: Callable[[FeatureStore], None], store: FeatureStore) -> str:
    """What a user would see: nothing, or an error."""
    try:
        action(store)
    except CacheError as error:
        return f"{type(error).__name__} {error}"
    except BaseException as error:
        return f"TRACEBACK {type(error).__name__} {error}"
    return ""


def main(folder: str, times: str) -> None:
    """The child: one line of JSON a case."""
    faults, whole = shim.Faults(), template(Path(folder) / "template")
    for action in ACTIONS:
        reference = Path(folder) / f"after {action.__name__}"
        shutil.copytree(whole.root, reference)
        action(FeatureStore(reference))
        for call, errors in CALLS.items():
            for number in errors:
                every = range(1, 500) if action is look and number == errno.EIO else map(int, times.split(","))
                for nth in every:
                    root = Path(folder) / "case"
                    shutil.copytree(whole.root, root)
                    faults.arm(call, number, f"{root}*", nth=nth)
                    said = outcome(action, FeatureStore(root))
                    hits = faults.disarm()
                    if "/locks/" in said:  # a lock that could not be given back: its owner is dead by the story
                        for lock in root.glob("locks/*.json"):
                            lock.unlink()
                    again = outcome(action, FeatureStore(root))
                    same = tree(root) == tree(reference)
                    left = [str(path) for path in root.rglob("*.tmp")] + [str(p) for p in root.glob("locks/*.json")]
                    case = {"action": action.__name__, "call": call, "errno": errno.errorcode[number], "nth": nth}
                    print(json.dumps({**case, "said": said, "hits": hits, "again": again, "same": same, "left": left}))
                    shutil.rmtree(root)
                    if not hits:
                        break


def table(times: tuple[int, ...]) -> list[dict[str, Any]]:
    script = "import sys; from tests.cache.test_refusals import main; main(*sys.argv[1:])"
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # thousands of fsyncs that need no disk
    with TemporaryDirectory(dir=memory) as folder:
        done = shim.run(script, folder, ",".join(map(str, times)))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def is_told_well(case: dict[str, Any]) -> bool:
    """One line that names a file of the store and, behind a semicolon, the way out."""
    said = case["said"]
    told = "/case" in said and ";" in said and "\n" not in said and "[Errno" not in said
    return told and not said.startswith("TRACEBACK") and bool(case["hits"])


def judge(cases: list[dict[str, Any]]) -> None:
    """Every failure is told well, and the same command then ends as if there had been none."""
    badly_told = [case for case in cases if case["said"] and not is_told_well(case)]
    badly_ended = [case for case in cases if case["again"] or not case["same"] or case["left"]]
    wrong = [json.dumps(case) for case in (*badly_told, *badly_ended)]
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:30])


@pytest.mark.slow
def test_every_refusal_is_one_line_and_the_same_command_then_ends_well() -> None:
    cases = table(TIMES)
    assert sum(bool(case["hits"]) for case in cases) > 500
    judge(cases)


@pytest.mark.slow
def test_every_refusal_at_many_moments_is_one_line() -> None:
    cases = table((1, 2, 3, 5, 8, 13, 21, 34, 55, 89))
    assert sum(bool(case["hits"]) for case in cases) > 1000
    judge(cases)


def test_what_is_like_another_is_told_apart(tmp_path: Path) -> None:
    """A quota is no full disk, and an unknown error is told in the system's words."""
    lines = {}
    for number in [*sorted(errno.errorcode), 0, 9999]:
        found = refusal(OSError(number, "the system's words"), tmp_path / "x", "written")
        assert isinstance(found, CacheError)
        assert found.errno == number
        assert "\n" not in str(found)
        assert str(found).startswith(f"{tmp_path}/x: ")
        assert ";" in str(found)
        assert isinstance(found, StoreFullError) == (number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
        lines[number] = str(found)
    assert "quota" in lines[errno.EDQUOT]
    assert "quota" not in lines[errno.ENOSPC]
    assert "ulimit -f" in lines[errno.EFBIG]
    assert "the system's words" in lines[9999]
    named = {number for call in CALLS.values() for number in call} - {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}
    assert not [lines[number] for number in named if "the system's words" in lines[number]]
