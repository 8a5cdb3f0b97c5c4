"""`kill -9` of the commands themselves while they write; the same command continues, to the same bytes."""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cache import FeatureStore
from cache.verify import verify
from tests.world import write_params

KILLS = 100
ANY_MOMENT = 10  # every so many kills come at any moment at all; the others while shards are written
STARTING = 5.0  # seconds in which a process imports and loads, roughly
SHARDS = 6  # that a process may finish before it is killed
WRITING = 0.1  # a shard's time
STORE = Path("data/features")
CHANGES = {
    "encode": {"canvas": [64, 64]},
    "extract": {
        "taps": ["down-level1-repeat0-vit-out", "down-level1-repeat0-vit-block0-cross-map"],
        "timesteps": [0, 10, 20, 30],
    },
    "train": {
        "taps": {
            "detection": "down-level1-repeat0-vit-out",
            "guidance": "down-level1-repeat0-vit-block0-cross-map.person",
            "level1": ["down-level1-repeat0-vit-out"],
            "level2": ["down-level1-repeat0-vit-out"],
            "level3": ["down-level1-repeat0-vit-out"],
        }
    },
    "runtime": {"shard": 2, "batch": 2, "vae_batch": 2},
}


class Place:
    """A folder in which the commands run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / STORE
        self.stages: dict[str, int] = {"encode": 0, "extract": 0}  # kills

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment.pop("DVC_ROOT", None)
        executable = Path(sys.executable).with_name("diffps")
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [executable, *command], cwd=self.folder, env=environment, stdout=output, stderr=output
            )

    def run(self, *command: str) -> None:
        with self.start(*command) as process:
            assert process.wait(300) == 0, (self.folder / "output.txt").read_text()[-2000:]

    def unfinished(self) -> list[Path]:
        """Shards that have only their temporary names."""
        # os.walk, as folders vanish meanwhile.
        return [
            Path(folder) / name for folder, _, names in os.walk(self.store / "tmp") for name in names if "-" in name
        ]

    def receipts(self) -> int:
        names = (name for _, _, names in os.walk(self.store / "receipts") for name in names)
        return sum(name.endswith(".json") for name in names)

    def files(self) -> dict[str, bytes]:
        zarr = self.store / "features.zarr"
        return {str(path.relative_to(zarr)): path.read_bytes() for path in sorted(zarr.rglob("*")) if path.is_file()}

    def manifests(self) -> dict[str, bytes]:
        paths = [*(self.store / "manifests").rglob("*.json"), *(self.store / "inputs").rglob("*.json")]
        return {str(path.relative_to(self.store)): path.read_bytes() for path in sorted(paths)}

    def kill(self, stage: str, moment: random.Random, anywhere: bool) -> bool | None:
        """Start ``stage`` and kill it; whether a shard was being written, None when it was done before."""
        before, process = self.receipts(), self.start(stage)
        try:
            if anywhere:
                time.sleep(moment.uniform(0, STARTING))
            else:
                written = before + moment.randrange(SHARDS)
                while process.poll() is None and (self.receipts() < written or not self.unfinished()):
                    time.sleep(0.004)
                time.sleep(moment.uniform(0, WRITING))
        finally:
            process.kill()
        if process.wait() == 0:
            return None
        assert process.returncode == -9, (self.folder / "output.txt").read_text()[-2000:]
        self.stages[stage] += 1
        return bool(self.unfinished())


@pytest.mark.slow
def test_a_hundred_kills_leave_a_store_that_ends_up_the_same(tmp_path: Path) -> None:
    whole, killed = Place(tmp_path / "whole"), Place(tmp_path / "killed")
    whole.folder.mkdir()
    write_params(whole.folder, CHANGES)
    whole.run("index")
    shutil.copytree(whole.folder, killed.folder)
    for stage in whole.stages:
        whole.run(stage)
    moment = random.Random(0)
    kills = inside = rounds = 0
    while kills < KILLS:
        shutil.rmtree(killed.store, ignore_errors=True)
        for stage in killed.stages:
            done = False
            while not done and kills < KILLS:
                found = killed.kill(stage, moment, anywhere=kills % ANY_MOMENT == ANY_MOMENT - 1)
                done = found is None
                kills += not done
                inside += bool(found)
                print(f"{kills} kills {killed.stages}, {inside} of them inside a shard", flush=True)
            killed.run(stage)
        rounds += 1
        assert verify(killed.store, FeatureStore(killed.store).arrays()) == []
        killed.run("cache", "verify")
        assert not killed.unfinished()
        assert killed.files() == whole.files()
        assert killed.manifests() == whole.manifests()
        print(f"{rounds} stores ended up the same", flush=True)
    assert inside >= KILLS // 3, "too few kills fell while a shard was being written to say anything"
