"""After a power cut at any moment the same command ends with the bytes of an uninterrupted run."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.errors import NotCachedError
from cache.files import write_folder
from cache.repair import damaged_tables
from cache.sealed import read_json, write_json
from cache.verify import verify
from tests.cache import test_forget
from tests.cache.builders import check, tree, write
from tests.cache.test_interruption import ROWS, RUN, SPECS
from tests.faults.powercut import Disk

ROOT = Path(__file__).resolve().parents[2]
FOR_EVER = """
import itertools, sys
from pathlib import Path
from cache.files import write_folder
from cache.sealed import write_json
root = Path(sys.argv[1])
print("started", flush=True)
for number in itertools.count():
    write_json(root / "deep/value.json", {"number": number, "again": [number] * 100})
    write_folder(root / "folder", lambda path: [write_json(path / f"{n}.json", {"number": number}) for n in range(3)])
    print(number, flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path) as disk:
        yield disk


def start(script: str, root: Path) -> "subprocess.Popen[str]":
    """A child that says when its imports are over."""
    command = [sys.executable, "-c", script, str(root)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def end(process: "subprocess.Popen[str]") -> str:
    """What it said after that; it is killed, unless it ended by itself."""
    process.kill()
    said, _ = process.communicate()
    return said


def test_the_harness_loses_what_was_not_synced(disk: Disk) -> None:
    write_json(disk.path / "synced.json", {})
    (disk.path / "not synced").write_text("lost")
    disk.cut()
    disk.restore()
    assert {path.name for path in disk.path.iterdir()} == {"synced.json", "lost+found"}


@pytest.mark.slow
def test_files_and_folders_are_whole_and_no_older_than_was_promised(disk: Disk) -> None:
    moments = random.Random(0)
    for _ in range(12):
        process = start(FOR_EVER, disk.path)
        time.sleep(moments.uniform(0.05, 0.8))
        disk.cut()
        promised = [int(line) for line in end(process).split()]
        disk.restore()
        found = -1
        try:
            value = read_json(disk.path / "deep/value.json", "nothing")
            found = value["number"]
            assert value["again"] == [found] * 100
            inside = {read_json(disk.path / f"folder/{n}.json", "nothing")["number"] for n in range(3)}
            assert len(inside) == 1
            assert found - 1 <= inside.pop() <= found
        except NotCachedError:
            assert found <= 0
        assert found >= max(promised, default=-1)
        write_folder(disk.path / "folder", lambda path: None)
        write_json(disk.path / "deep/value.json", {})
        assert not list(disk.path.rglob("*.tmp"))
        for path in disk.path.rglob("*.json"):
            path.unlink()


@pytest.mark.slow
def test_a_store_ends_as_if_there_had_been_none(disk: Disk, tmp_path: Path) -> None:
    whole = FeatureStore(tmp_path / "whole")
    began = time.monotonic()
    end_by_itself(start(RUN, whole.root))
    duration, moments, reference, early = time.monotonic() - began, random.Random(1), tree(whole.root), 0
    for number in range(12):
        store = FeatureStore(disk.path / str(number))
        process = start(RUN, store.root)
        time.sleep(moments.uniform(0, duration))
        disk.cut()
        end(process)
        disk.restore()
        early += not store.missing(SPECS, ROWS).nothing
        assert damaged_tables(store.root) == {}
        assert verify(store.root, store.arrays()) == []
        write(store, SPECS, ROWS)
        check(store, SPECS, ROWS)
        assert tree(store.root) == reference
        assert not list(store.root.rglob("*.tmp"))
    assert early >= 3


@pytest.mark.slow
def test_forgetting_ends_as_if_there_had_been_none(disk: Disk, tmp_path: Path) -> None:
    whole = test_forget.fill(tmp_path / "whole/features")
    began = time.monotonic()
    end_by_itself(start(test_forget.RUN, whole.root))
    duration, moments, reference = time.monotonic() - began, random.Random(2), tree(whole.root)
    for number in range(8):
        store = test_forget.fill(disk.path / str(number) / "features")
        process = start(test_forget.RUN, store.root)
        time.sleep(moments.uniform(0, duration))
        disk.cut()
        end(process)
        disk.restore()
        test_forget.chunks(store, test_forget.KEPT)  # the others can be read
        end_by_itself(start(test_forget.RUN, store.root))
        assert tree(store.root) == reference
        assert verify(store.root, store.arrays()) == []


def end_by_itself(process: "subprocess.Popen[str]") -> None:
    process.communicate()
    assert process.returncode == 0
