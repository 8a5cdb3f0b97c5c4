"""MATLAB files beside scipy's reader: time and memory of gallery files, and what a changed byte does to each.

    python benchmarks/datasets_mat.py            # galleries of 100 and 4000, 2000 damages: some minutes
    python benchmarks/datasets_mat.py --quick

Gallery files are made up in TestG's layout. Both ways end in the same list of image names and boxes of positives, in a
process of its own each, in turns; processor seconds, since those say more than the clock on a busy machine. A damage is
one to four changes of a small file, read in a process that may be killed by it.
"""

import argparse
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy.io import loadmat, savemat

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from diffps.datasets.matlab import reading  # noqa: E402
from diffps.datasets.protocols import read_protocol  # noqa: E402
from diffps.errors import DatasetError  # noqa: E402
from tests.datasets.mutation import mutate_bytes  # noqa: E402
from tests.datasets.trees import structs  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "datasets_mat.json"
IMAGES = 6978
MEMORY = 4 << 30  # bytes that a process with a damaged file may ask for


def write(path: Path, lines: int, gallery: int) -> None:
    """A file of ``lines`` queries with ``gallery`` images each, two of them positives."""
    rng = np.random.default_rng(0)
    box = np.array([[430, 121, 93, 266]], np.uint16)
    rows = []
    for line in range(lines):
        names = rng.choice(IMAGES, gallery, replace=False)
        places = [
            {"imname": f"s{name}.jpg", "idlocate": box if row < 2 else np.empty((1, 0)), "ishard": np.uint8(0)}
            for row, name in enumerate(names)
        ]
        query = [{"imname": "s1.jpg", "idlocate": box, "ishard": np.uint8(0), "idname": f"p{line}"}]
        rows.append({"Query": structs(query), "Gallery": structs(places)})
    savemat(path, {path.stem: structs(rows)}, do_compression=True)


def ours(path: Path) -> tuple[int, int]:
    """(images, positives) listed."""
    lines = read_protocol(path, path.stem)
    return sum(len(line.images) for line in lines), sum(len(line.positives) for line in lines)


def scipys(path: Path) -> tuple[int, int]:
    """The same by scipy's reader and a direct pass over what it returns."""
    names: dict[str, str] = {}
    images, positives = [], []
    for row in np.ravel(loadmat(path)[path.stem]):
        gallery = np.ravel(row["Gallery"])
        listed = [names.setdefault(str(name[0]), str(name[0])) for name in gallery["imname"]]
        images.append(listed)
        boxes = zip(listed, gallery["idlocate"], strict=True)
        positives.append([(name, box[0].astype(np.float64)) for name, box in boxes if box.size])
    return sum(map(len, images)), sum(map(len, positives))


WAYS = {"ours": ours, "scipy": scipys}


def measure(way: str, path: Path) -> dict[str, Any]:
    """Processor seconds and peak memory of one way in a process of its own."""
    command = [sys.executable, __file__, "--one", way, str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def one(way: str, path: Path) -> None:
    started = time.process_time()
    images, positives = WAYS[way](path)
    seconds = time.process_time() - started
    # getrusage would tell the parent's peak as well, from before this program was started.
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
    print(json.dumps({"seconds": seconds, "peak_mb": peak, "images": images, "positives": positives}))


def damage(way: str, path: Path, count: int) -> dict[str, int]:
    """Outcomes of reading ``count`` damaged copies, each in a forked process."""
    whole = path.read_bytes()
    outcomes: Counter[str] = Counter()
    for seed in range(count):
        path.write_bytes(mutate_bytes(random.Random(seed), whole))
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            os._exit(_code(way, path))
        _, status, usage = os.wait4(child, 0)
        if os.WIFSIGNALED(status):
            outcomes[f"killed by signal {os.WTERMSIG(status)}"] += 1
        else:
            outcomes[("read", "refused", "other exceptions", "out of memory")[os.WEXITSTATUS(status)]] += 1
        outcomes["over 1 GB"] += usage.ru_maxrss > 1 << 20
    path.write_bytes(whole)
    return dict(sorted(outcomes.items()))


def _code(way: str, path: Path) -> int:
    try:
        with reading(path, "X"):
            ours(path) if way == "ours" else loadmat(path)
    except DatasetError:
        return 1
    except MemoryError:
        return 3
    except Exception:
        return 2
    return 0


def main(quick: bool) -> None:
    cases = [(100, 200), (1000, 20)] if quick else [(100, 2900), (4000, 200)]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for gallery, lines in cases:
            path = Path(folder) / f"TestG{gallery}.mat"
            write(path, lines, gallery)
            runs = [{way: measure(way, path) for way in WAYS} for _ in range(2 if quick else 5)]
            assert all(run["ours"]["images"] == run["scipy"]["images"] == gallery * lines for run in runs)
            assert all(run["ours"]["positives"] == run["scipy"]["positives"] for run in runs)
            ratios = sorted(run["ours"]["seconds"] / run["scipy"]["seconds"] for run in runs)
            results.append({"gallery": gallery, "lines": lines, "ratio": statistics.median(ratios), "ratios": ratios})
            for way in WAYS:
                results[-1][way] = {
                    "seconds": statistics.median(run[way]["seconds"] for run in runs),
                    "peak_mb": max(run[way]["peak_mb"] for run in runs),
                }
            print(json.dumps(results[-1]))
        path = Path(folder) / "TestG50.mat"
        savemat(path, {"TestG50": _small()})
        damages = {way: damage(way, path, 200 if quick else 2000) for way in WAYS}
        print(json.dumps(damages))
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    if not quick:
        RESULTS.write_text(json.dumps({"machine": machine, "galleries": results, "damages": damages}, indent=2) + "\n")


def _small() -> np.ndarray:
    """Three lines, stored without compression: a changed byte is a changed value or length."""
    box = np.array([[30, 21, 93, 200]], np.uint8)
    query = structs([{"imname": "s1.jpg", "idlocate": box, "ishard": np.uint8(0), "idname": "p7"}])
    places = [
        {"imname": f"s{n}.jpg", "idlocate": box if n < 2 else np.empty((1, 0)), "ishard": np.uint8(0)} for n in range(4)
    ]
    return structs([{"Query": query, "Gallery": structs(places)}] * 3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--one", nargs=2)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one[0], Path(arguments.one[1]))
    else:
        main(arguments.quick)
