"""Run in a child with the shim preloaded: one fault after another in every stage of a finished project.

Arguments: the project, a scratch folder, and a JSON list of cases {stage, call, error, pattern, nth, lasting}. Prints
one JSON object a case: how often the fault struck, the kind of error and what a user is told; None where the stage
went on.
"""

import json
import os
import shutil
import sys
from importlib import import_module
from pathlib import Path

from pipeline.cli import told_to_user
from pipeline.config import load_params
from stages.job import QuietJob
from tests.faults.shim import Faults

# What each stage makes: it is taken away first, so that there is something to do.
MAKES = {
    "index": ["data/index", "data/known-files.parquet"],
    "encode": ["data/encode", "data/manifests", "data/inputs", "data/features"],
    "extract": ["data/manifests/extract", "data/inputs"],
    "train": ["results/train"],
    "evaluate": ["results/evaluate"],
    "sweep": ["results/sweep"],
    "report": ["results/report"],
}


def run(stage: str) -> None:
    params, runtime = load_params(Path("params.yaml"))
    import_module(f"stages.{stage}").run(params, runtime, QuietJob())


def prepare(whole: Path, here: Path, stage: str) -> None:
    os.chdir(here.parent)
    shutil.rmtree(here, ignore_errors=True)
    shutil.copytree(whole, here)
    os.chdir(here)
    for name in MAKES[stage]:
        path = here / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if stage == "extract":  # the moments stay
        for path in [*here.glob("data/features/features.zarr/*/*/*/t*"), *here.glob("data/features/receipts/*/*/*/t*")]:
            shutil.rmtree(path)


def main() -> None:
    whole, scratch, cases = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    for name in {case["stage"] for case in cases}:  # imports and caches are not what is under test
        prepare(whole, scratch / "warm", name)
        run(name)
    faults = Faults()
    for case in cases:
        prepare(whole, scratch / "project", case["stage"])
        kind = told = None
        faults.arm(case["call"], case["error"], case["pattern"], nth=case["nth"], lasting=case["lasting"])
        try:
            run(case["stage"])
        except Exception as error:
            kind, told = type(error).__name__, told_to_user(error)
            raw = str(error)
        else:
            raw = ""
        hits = faults.disarm()
        again = None
        try:
            if hits:
                run(case["stage"])
        except Exception as error:
            again = f"{type(error).__name__}: {error}"
        print(json.dumps({**case, "hits": hits, "kind": kind, "told": told, "raw": raw, "again": again}), flush=True)


main()
