"""Eight heads in one pass against eight runs one after another, and the time from one more ablation to its row.

Three cases: features from this disk; the same behind a simulated slow disk, so slow that reading takes twice as long as
all eight heads compute; features in memory, so that computing decides. Wanted: a pass takes at most 1.15 times
max(one reading, sum of the heads' compute). ``--dvc`` adds eight ``dvc exp run`` (minutes).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Queue
from shutil import copytree, rmtree
from typing import Any

import torch
from training_common import ROOT, make_project, new_head, open_train, summary, training_data, write

from diffps.features import Feature, FeatureShape, FeatureSource, Ref
from stages.head.data import TrainingSet
from stages.head.loop import train_all
from stages.job import QuietJob, Runtime
from stages.params import Params, override

RUNTIME = Runtime()

HEADS = 8
READ_AHEAD = 3  # batches, as the store's own ring


class InMemory:
    """Features of every scene, read once before anything is timed."""

    def __init__(self, source: FeatureSource, scene_ids: Sequence[str], names: Sequence[str]) -> None:
        self.shapes: Mapping[str, FeatureShape] = source.shapes
        self.recipe, self.skipped = source.recipe, source.skipped
        batches = ([Ref(scene_id)] for scene_id in scene_ids)
        self._kept = {}
        for scene_id, features in zip(scene_ids, source.stream(batches, names), strict=True):
            self._kept[scene_id] = {name: feature.coefficients().clone() for name, feature in features.items()}

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        for refs in batches:
            joined = {name: torch.cat([self._kept[ref.scene_id][name] for ref in refs]) for name in names}
            yield {name: Feature(value.permute(0, 2, 3, 1).contiguous()) for name, value in joined.items()}


class SlowDisk:
    """A source behind a disk that needs ``seconds`` per batch; reads ahead in a thread, as the store's reader does."""

    def __init__(self, source: FeatureSource, seconds: float) -> None:
        self.shapes, self.recipe, self.skipped = source.shapes, source.recipe, source.skipped
        self._source, self._seconds = source, seconds

    def stream(self, batches: Iterable[Sequence[Ref]], names: Sequence[str]) -> Iterator[Mapping[str, Feature]]:
        ready: Queue[Mapping[str, Feature] | None] = Queue(READ_AHEAD)

        def read() -> None:
            for features in self._source.stream(batches, names):
                time.sleep(self._seconds)
                ready.put(features)
            ready.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (features := ready.get()) is not None:
            yield features


def train(params: Sequence[Params], data: TrainingSet, source: FeatureSource, folder: Path) -> tuple[float, float]:
    """Train heads together; (wall seconds, seconds of their steps)."""
    rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    runs = {
        str(number): new_head(one, data, source, folder / str(number), RUNTIME) for number, one in enumerate(params)
    }
    train_all(runs, source, QuietJob(), lambda _: None)
    wall = time.perf_counter() - began
    return wall, sum(result.seconds for run in runs.values() for result in run.trainer.history)


def reading(params: Params, data: TrainingSet, source: FeatureSource) -> float:
    """Seconds to read everything one training reads, and do nothing with it."""
    batches = data.order.batches(0, params.train.epochs * data.order.batches_per_epoch)
    refs = ([Ref(sample.scene_id) for sample in batch] for batch in batches)
    began = time.perf_counter()
    for _ in source.stream(refs, params.train.taps.names):
        pass
    return time.perf_counter() - began


def compare(params: Sequence[Params], data: TrainingSet, source: FeatureSource, repeats: int) -> dict[str, Any]:
    """One case, both ways in turn."""
    together, alone, ratios, computes, readings = [], [], [], [], []
    for _ in range(repeats):
        read = reading(params[0], data, source)
        wall, compute = train(params, data, source, Path("pass"))
        together.append(wall)
        alone.append(sum(train([one], data, source, Path("alone"))[0] for one in params))
        ratios.append(wall / max(read, compute))
        computes.append(compute)
        readings.append(read)
    return {
        "one_pass_s": summary(together),
        "one_after_another_s": summary(alone),
        "one_reading_s": summary(readings),
        "compute_of_all_s": summary(computes),
        "over_bound": summary(ratios),
        "wanted_over_bound": 1.15,
    }


def one_more(params: Params) -> dict[str, float]:
    """Wall seconds of `diffps sweep` for two heads, and again after a third is added to the file."""
    diffps = [str(Path(sys.executable).parent / "diffps"), "sweep", "--params", "params.yaml"]
    variants = ["  a: {}", "  b: {model.dgrpn: null}", "  c: {model.sfan: null}"]
    seconds = []
    for count in (2, 3):
        Path("sweep.yaml").write_text(
            "\n".join(["base: {epochs: 1, milestones: []}", "variants:", *variants[:count], ""])
        )
        began = time.perf_counter()
        subprocess.run(diffps, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - began)
    return {"two_heads_s": seconds[0], "one_more_s": seconds[1]}


def write_params(params: Params) -> None:
    """params.yaml for the command line."""
    import json
    from dataclasses import asdict

    from ruamel.yaml import YAML

    with Path("params.yaml").open("w") as file:
        YAML().dump(json.loads(json.dumps(asdict(params))), file)


def with_dvc(heads: int) -> list[float]:
    """Seconds of each of ``heads`` `dvc exp run` of stage train with another seed, in this project as a repository."""
    for name in ("diffps", "cache", "stages"):
        copytree(ROOT / name, name, dirs_exist_ok=True)
    for name in ("dvc.yaml", ".gitignore", ".dvcignore"):
        Path(name).write_bytes((ROOT / name).read_bytes())
    copytree(ROOT / ".dvc", ".dvc", dirs_exist_ok=True, ignore=lambda *_: ["cache", "tmp"])
    git = ["git", "-c", "user.name=b", "-c", "user.email=b@b"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], [*git, "commit", "-qm", "benchmark"]):
        subprocess.run(command, check=True)
    programs = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}  # dvc.yaml calls diffps by name
    seconds = []
    for seed in range(1, heads + 1):
        began = time.perf_counter()
        command = [str(programs / "dvc"), "exp", "run", "-q", "train", "-S", f"train.seed={seed}"]
        subprocess.run(command, check=True, env=environment)
        seconds.append(time.perf_counter() - began)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--heads", type=int, default=HEADS)
    parser.add_argument("--canvas", type=int, default=128)
    parser.add_argument("--scenes", type=int, default=24)
    parser.add_argument("--dvc", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        changes = {"encode.canvas": [options.canvas] * 2, "index.streets.train_scenes": options.scenes}
        base = make_project(Path(temporary), changes)
        params = [override(base, {"train.seed": seed}, "benchmark") for seed in range(1, options.heads + 1)]
        data = training_data(base)
        found: dict[str, Any] = {"heads": options.heads, "repeats": options.repeats, "canvas": options.canvas}
        with open_train(base, RUNTIME) as disk:
            found["this_disk"] = compare(params, data, disk, options.repeats)
            memory = InMemory(disk, data.order.scene_ids, base.train.taps.names)
        found["compute_bound"] = compare(params, data, memory, options.repeats)
        batches = base.train.epochs * data.order.batches_per_epoch
        slow = 2 * found["compute_bound"]["compute_of_all_s"]["median"] / batches
        found["read_bound"] = {"seconds_per_batch": slow}
        # Eight slow readings one after another would take the benchmark minutes: once is enough for a sleep.
        found["read_bound"] |= compare(params, data, SlowDisk(memory, slow), 1)
        write_params(base)
        found["one_more_ablation"] = one_more(base)
        write("sweep_pass", found)
        if options.dvc:
            found["dvc_exp_run_s"] = with_dvc(options.heads)
            write("sweep_pass", found)


if __name__ == "__main__":
    main()
