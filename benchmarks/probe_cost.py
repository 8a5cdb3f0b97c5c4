"""What probing every tap costs beside the UNet's forward, and what `diffps probe` takes on the demo's data.

    python benchmarks/probe_cost.py                 # minutes; writes results/probe_cost.json
    python benchmarks/probe_cost.py --only demo     # or "demo, two threads", narrow, commands: other parts stay
    python benchmarks/probe_cost.py --quick         # seconds, writes nothing

In one pass: a plain forward of the whole UNet with nothing kept, the same with every grid tap and word map kept, and
that with the probe, of a batch that is fitted and of one that is scored. Sides take turns on the same latents, in an
order drawn anew each round; processor seconds stand beside the clock's, as they depend less on what else runs. Wanted:
at most 1.5 times the plain forward, half of the scenes being fitted and half scored.

The command: `diffps probe` with all taps at one timestep on drawn scenes, each number of scenes a process of its own,
the control left out. Wanted: 300 scenes in at most 5 minutes and 3 GB on two cores; memory that does not grow with
scenes.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from backbone_common import NARROW, RESULTS, SPAN, TINY, TOKENS, make_unet, spread, twin, write
from ruamel.yaml import YAML

from diffps.backbone.capture import Request, TapReader, fixed_context
from diffps.backbone.checkpoint import load_checkpoint
from diffps.geometry import Canvas
from diffps.probe.collect import HELD, Collector, People, fit_readouts
from diffps.probe.config import ProbeRules
from diffps.probe.plan import reads
from diffps.probe.windows import WINDOWS
from diffps.taps import tap_table
from stages.probing.setting import read_probe_file

ROOT = Path(__file__).parents[1]
PLAIN, KEPT, FIT, SCORE = "plain forward, whole", "every tap kept", "probed, fitted", "probed, scored"
PERSONS = 4  # in a scene


def measure_pass(
    unet: Any, name: str, canvas: int, batch: int, text: int, rules: ProbeRules, rounds: int
) -> dict[str, Any]:
    """Seconds of one batch, by the clock and of the processor."""
    torch.manual_seed(0)
    table = tap_table(unet.config)
    read = reads(table, None, ["person"], Canvas(canvas, canvas))
    maps = tuple(dict.fromkeys(feature.partition(".")[0] for feature in read.maps))
    request = Request((*read.taps, *maps), {"person": SPAN})
    latents, context = torch.randn(batch, 4, canvas // 8, canvas // 8), torch.randn(1, TOKENS, text)
    step, people = torch.zeros(1), [_people(canvas, row) for row in range(batch)]
    shapes, frame = {**read.taps, **read.maps}, Canvas(canvas, canvas)
    hooked = twin(unet)
    with torch.inference_mode(), fixed_context(hooked, context), TapReader(hooked, table, request) as reader:

        def plain() -> None:
            unet(latents, step, encoder_hidden_states=context.expand(batch, -1, -1), return_dict=False)

        def kept() -> dict[str, torch.Tensor]:
            return reader.run(latents, step, context)

        fitting = Collector(shapes, read.maps, frame, rules)
        fitting.add(kept(), people)
        scoring = Collector(shapes, read.maps, frame, rules, fit_readouts(fitting.take().sums, read.taps))
        # What several batches gave is added to the sums at once.
        batches = math.ceil(HELD / (batch * WINDOWS))
        ways: dict[str, Callable[[], object]] = {
            PLAIN: plain,
            KEPT: kept,
            FIT: lambda: [fitting.add(kept(), people) for _ in range(batches)],
            SCORE: lambda: scoring.add(kept(), people),
        }
        plain()  # the others have run
        scoring.add(kept(), people)
        seconds = take_turns(ways, rounds)
    for values in seconds.values():
        values[FIT] = [each / batches for each in values[FIT]]
    found: dict[str, Any] = {"unet": name, "canvas": canvas, "batch": batch, "width": rules.width, "rounds": rounds}
    for clock, values in seconds.items():
        probed = [(fit + score) / 2 for fit, score in zip(values[FIT], values[SCORE], strict=True)]
        sides = {KEPT: values[KEPT], FIT: values[FIT], SCORE: values[SCORE], "probed": probed}
        found[f"{clock} seconds an image"] = {
            way: spread([each / batch for each in all_]) for way, all_ in values.items()
        }
        found[f"{clock} to plain"] = {
            way: spread([mine / plain for mine, plain in zip(all_, values[PLAIN], strict=True)])
            for way, all_ in sides.items()
        }
    return found | {"wanted": 1.5}


def measure_demo(threads: int = 1) -> dict[str, Any]:
    """One pass of the demo's UNet, by the rules of its probe file."""
    torch.set_num_threads(threads)
    numba.set_num_threads(threads)
    demo, rules = load_checkpoint("builtin:streets"), read_probe_file(ROOT / "presets/probe/demo.yaml").rules
    text = int(demo.unet_config["cross_attention_dim"])
    try:
        found = measure_pass(demo.load_unet(torch.float32), "builtin:streets", 256, 4, text, rules, 9)
    finally:
        torch.set_num_threads(1)
        numba.set_num_threads(1)
    return found | {"threads": threads}


def measure_narrow() -> dict[str, Any]:
    """One of SD 2.1's shape, narrower."""
    return measure_pass(make_unet(NARROW), NARROW.name, 512, 1, NARROW.text, ProbeRules(), 3)


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """{"clock", "processor"}: seconds of each way, once a round."""
    rng = np.random.default_rng(0)
    seconds: dict[str, dict[str, list[float]]] = {clock: {way: [] for way in ways} for clock in ("clock", "processor")}
    for _ in range(rounds):
        for way in rng.permutation(list(ways)).tolist():
            clock, processor = time.perf_counter(), time.process_time()
            ways[way]()
            seconds["clock"][way].append(time.perf_counter() - clock)
            seconds["processor"][way].append(time.process_time() - processor)
    return seconds


def measure_command(counts: Sequence[int]) -> list[dict[str, Any]]:
    """`diffps probe` on so many scenes."""
    found = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        probe = YAML(typ="safe").load(ROOT / "presets/probe/demo.yaml") | {"control": None}
        for count in counts:
            with (folder / "probe.yaml").open("w") as file:
                YAML().dump(probe | {"scenes": count}, file)
            changes = [
                f"index.root=data/streets{count}",
                f"index.streets.train_scenes={count}",
                "index.streets.test_scenes=20",
                "probe.file=probe.yaml",
            ]
            run(folder, "index", changes)
            found.append({"scenes": count, **run(folder, "probe", changes)})
            stored = folder / "data/features"
            found[-1]["stored_bytes"] = sum(path.stat().st_size for path in stored.rglob("*")) if stored.exists() else 0
            print(found[-1], flush=True)
    return found


def run(folder: Path, stage: str, changes: Sequence[str]) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of one command."""
    command = [sys.executable, "-m", "pipeline", stage, "--params", str(ROOT / "presets/demo.yaml")]
    command += [part for change in changes for part in ("--set", change)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    with (folder / f"{stage}.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit((folder / f"{stage}.log").read_text())
    return {
        "seconds": round(time.perf_counter() - start, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss / 1000),
    }


def _people(canvas: int, row: int) -> People:
    rng = np.random.default_rng(row)
    corners = rng.uniform(0, 0.7, (PERSONS, 2))
    sizes = rng.uniform((0.08, 0.16), (0.16, 0.3), (PERSONS, 2))
    return People(f"scene {row}", (canvas * np.concatenate([corners, corners + sizes], 1)).astype(np.float32))


def main() -> None:
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parts: dict[str, Callable[[], Any]] = {
        "demo": measure_demo,
        "demo, two threads": lambda: measure_demo(2),
        "narrow": measure_narrow,
        "commands": lambda: measure_command([75, 300]),
    }
    parser.add_argument("--only", choices=list(parts))
    options = parser.parse_args()
    if options.quick:
        tiny = measure_pass(make_unet(TINY), TINY.name, 128, 2, TINY.text, ProbeRules(), 2)
        return write("probe_cost", {"tiny": tiny, "commands": measure_command([8])}, quick=True)
    file = RESULTS / "probe_cost.json"
    known = json.loads(file.read_text()) if file.exists() else {}
    content = {part: known[part] for part in parts if part in known}
    for part, measure in parts.items():
        if options.only in (None, part):
            content[part] = measure()
            write("probe_cost", content, quick=False)


if __name__ == "__main__":
    main()
