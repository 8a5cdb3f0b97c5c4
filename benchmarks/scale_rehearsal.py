"""Every stage at PRW's real number of images: what an image costs that has nothing to do with its pixels.

PRW's ground truth (two COCO files, train_pid.json and test_pid.json) is written in PRW's own layout, with a tiny blank
JPEG for each of the 11,816 frames and the boxes scaled down alike; a checkpoint of sixteen channels extracts on a
canvas of 64. Every command is a process of its own, timed with its peak memory.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ruamel.yaml import YAML
from scipy.io import savemat

ROOT = Path(__file__).parents[1]
SCALE = 12  # divides 1920 x 1080 and 720 x 576, the sizes of PRW's frames
QUERIES = 2057
# The files do not say which 450 of the 544 identities in test frames are PRW's test identities, nor which boxes are
# the queries: the first 450 numbers, and each one's first sightings by every camera, then the second ones.
TEST_IDENTITIES = 450
CODE = ("cache", "diffps", "stages")  # what dvc.yaml follows
TAPS = {
    "detection": "up-level1-repeat0-vit-block0-self-k",
    "guidance": "up-level1-repeat0-vit-block0-cross-map.person",
    "level1": ["up-level1-repeat0-vit-block0-self-k"],
    "level2": ["up-level0-repeat1-res-out"],
    "level3": ["down-level1-repeat0-vit-out"],
}
CHANGES: dict[str, Any] = {
    "index": {"tolerate": 1.0},  # queries of a sample of the frames have nobody to find
    "encode": {"checkpoint": "models/tiny", "canvas": [64, 64], "dtype": "float32"},
    "extract": {
        "head": "mean",
        "taps": [
            "up-level1-repeat0-vit-block0-cross-map",
            "up-level1-repeat0-vit-block0-self-k",
            "up-level0-repeat1-res-out",
            "down-level1-repeat0-vit-out",
        ],
        "dtype": "float32",
    },
    "train": {"taps": TAPS, "epochs": 1, "milestones": [], "precision": "float32", "scenes": 100, "init": "v1"},
    "model": {"channels": 16, "head_channels": 32, "head_blocks": 1, "head_weights": "random"},
    "rpn": {"samples": 16, "train_after_nms": 10, "test_before_nms": 50, "test_after_nms": 16},
    "box": {"samples": 8, "score_threshold": 0.0, "detections": 8, "grid": [4, 4]},
    "reid": {"samples": 8, "grid": [6, 3]},
    "embedding": {"size": 256},
    "evaluate": {"score_threshold": 0.0},  # a head that learned nothing: all of its detections, as many as a real one's
    "runtime": {"device": "cpu", "threads": 1},
}


@dataclass(frozen=True, slots=True)
class Frame:
    """``persons``: rows pid, x, y, w, h in pixels of the real frame."""

    name: str
    size: tuple[int, int]
    persons: list[list[float]]


def main() -> None:
    """Build the tree, run every command, write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotations", type=Path, required=True, help="folder of train_pid.json and test_pid.json")
    parser.add_argument("--frames", type=int, help="only so many frames of each split")
    parser.add_argument("--folder", type=Path, help="work here and leave it; else in a temporary folder")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/scale_rehearsal.json")
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True)
        content = rehearse(arguments.folder, arguments.annotations, arguments.frames)
    else:
        with tempfile.TemporaryDirectory() as folder:
            content = rehearse(Path(folder), arguments.annotations, arguments.frames)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")


def rehearse(folder: Path, annotations: Path, frames: int | None = None) -> dict[str, Any]:
    """Everything in ``folder``, which is empty; what the commands took, in their order."""
    started = time.perf_counter()
    # In a process of its own: a command's peak memory begins with that of the process that starts it.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        images = pool.submit(make_project, folder, annotations, frames).result()
    print(f"tree of {images} images in {time.perf_counter() - started:.0f} s", flush=True)
    load = [os.getloadavg()[0]]
    commands = {}
    for name, command in {
        "index": "diffps index",
        "plan": "diffps cache plan --measure",
        "encode": "diffps encode",
        "encode again": "diffps encode",
        "extract": "diffps extract",
        "extract again": "diffps extract",
        "status": "diffps cache status",
        "verify": "diffps cache verify",
        "train": "diffps train",
        "evaluate": "diffps evaluate",
        "dvc takes it over": "dvc repro evaluate",
        "dvc finds nothing": "dvc repro evaluate",
    }.items():
        commands[name] = measured(folder, command)
        load.append(os.getloadavg()[0])
        print(name, commands[name], flush=True)
    metrics = json.loads((folder / "results/evaluate/metrics.json").read_text())
    report = json.loads((folder / "data/index/report.json").read_text())
    return {
        "machine": {"cpus": os.cpu_count(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")},
        "load": {"least": min(load), "most": max(load)},
        "images": images,
        "report": report,
        "queries_scored": metrics["search"]["queries"],
        "commands": commands,
        "files": {path: size_of(folder / path) for path in ("data/index", "data/encode", "data/features", ".dvc")},
        "results": size_of(folder / "results/evaluate"),
    }


def measured(folder: Path, command: str) -> dict[str, Any]:
    """Seconds on the clock and of processors, and peak memory in MB of the process and of its children's largest."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "DVC_NO_ANALYTICS": "1", "HF_HUB_OFFLINE": "1"}
    log = folder / "commands.log"
    before = size_of(folder / "data")
    started = time.perf_counter()
    with log.open("a") as out:
        process = subprocess.Popen(command.split(), cwd=folder, env=environment, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{command} failed:\n{log.read_text()[-3000:]}")
    after = size_of(folder / "data")
    return {
        "command": command,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1000),
        "new_files": after["files"] - before["files"],
        "new_mb": round((after["bytes"] - before["bytes"]) / 1e6, 1),
    }


def make_project(folder: Path, annotations: Path, frames: int | None) -> int:
    """A repository with the data, the checkpoint and the parameters; number of images."""
    from shutil import copy, copytree

    from diffps.backbone.builtin.topology import Widths, make_random

    splits = {split: read_frames(annotations / f"{split}_pid.json", frames) for split in ("train", "test")}
    write_prw(folder / "data/prw", splits)
    tiny = Widths(unet=(16, 16, 16, 16), heads=(1, 1, 1, 1), text=16)  # one channel a group has no variance at 1 x 1
    make_random(folder / "models/tiny", tiny)
    raw = YAML(typ="safe", pure=True).load(ROOT / "presets/prw.yaml")
    model = raw["train"]["model"]
    places = {"model": model, **{name: model[name] for name in ("rpn", "box", "reid", "embedding")}}
    for section, changes in CHANGES.items():
        (raw | places)[section].update(changes)
    with (folder / "params.yaml").open("w") as file:
        YAML().dump(raw, file)
    for name in CODE:
        copytree(ROOT / name, folder / name)
    copytree(ROOT / "presets", folder / "presets")
    for name in ("dvc.yaml", ".dvcignore", ".gitignore"):
        copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    for name in ("config", ".gitignore"):
        copy(ROOT / ".dvc" / name, folder / ".dvc" / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return sum(len(split) for split in splits.values())


def read_frames(path: Path, count: int | None) -> list[Frame]:
    """Frames with their persons; unlabelled ones are -2, PRW's own mark."""
    content = json.loads(path.read_text())
    persons: dict[int, list[list[float]]] = defaultdict(list)
    for person in content["annotations"]:
        pid = person["person_id"]
        persons[person["image_id"]].append([pid if pid >= 0 else -2, *person["bbox"]])
    return [
        Frame(image["file_name"].removesuffix(".jpg"), (image["width"], image["height"]), persons[image["id"]])
        for image in content["images"][:count]
    ]


def write_prw(root: Path, splits: dict[str, list[Frame]]) -> None:
    """The layout PRW comes in."""
    for part in ("frames", "annotations"):
        (root / part).mkdir(parents=True)
    for split, frames in splits.items():
        for frame in frames:
            blank = Image.new("RGB", (frame.size[0] // SCALE, frame.size[1] // SCALE), (128, 128, 128))
            # The comment makes every file another one, as photographs are.
            blank.save(root / "frames" / f"{frame.name}.jpg", comment=frame.name.encode())
            rows = np.array(frame.persons, np.float64).reshape(-1, 5) / [1, SCALE, SCALE, SCALE, SCALE]
            savemat(root / "annotations" / f"{frame.name}.jpg.mat", {"box_new": rows})
        cells = np.empty((len(frames), 1), object)
        cells[:, 0] = [frame.name for frame in frames]
        savemat(root / f"frame_{split}.mat", {f"img_index_{split}": cells})
    train = sorted({row[0] for frame in splits["train"] for row in frame.persons if row[0] >= 0})
    test = sorted({row[0] for frame in splits["test"] for row in frame.persons if row[0] >= 0})[:TEST_IDENTITIES]
    savemat(root / "ID_train.mat", {"ID_train": np.array(train)})
    savemat(root / "ID_test.mat", {"ID_test2": np.array(test)})
    lines = list(queries(splits["test"], set(test)))[:QUERIES]
    (root / "query_info.txt").write_text("".join(f"{line}\n" for line in lines))


def queries(frames: list[Frame], identities: set[float]) -> Iterator[str]:
    """Lines of query_info.txt: each identity's first sighting by every camera, then the second ones, and so on."""
    sightings: dict[tuple[float, str], list[str]] = defaultdict(list)
    for frame in frames:
        for pid, *box in frame.persons:
            if pid in identities:
                numbers = " ".join(f"{value / SCALE:.6f}" for value in box)
                sightings[pid, frame.name[:2]].append(f"{pid:.0f} {numbers} {frame.name}")
    for turn in range(max(map(len, sightings.values()), default=0)):
        yield from (lines[turn] for lines in sightings.values() if turn < len(lines))


def size_of(folder: Path) -> dict[str, int]:
    """Number and bytes of the files below ``folder``."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return {"files": len(sizes), "bytes": sum(sizes)}


if __name__ == "__main__":
    main()
