"""Where everything lies, each place once: the index, the words, manifests, results, and the store."""

import os
from pathlib import Path

from diffps.records import Split, View

INDEX = Path("data/index")
KNOWN_WEIGHTS = Path("data/known-weights")  # of files whose digests were taken; only saves time
KNOWN_FILES = Path("data/known-files.parquet")  # of images measured before; only saves time
# Manifests stand for the store, wherever it lies: DVC follows these.
ENCODED = Path("data/manifests/encode")
EXTRACTED = Path("data/manifests/extract")
INPUTS = Path("data/inputs")
GALLERIES = Path("data/galleries")  # what heads found in folders of photographs
WORDS = Path("data/encode/words.safetensors")
TRAIN = Path("results/train")
EVALUATE = Path("results/evaluate")
SEARCH = Path("results/search")
SWEEP = Path("results/sweep")
PROBE = Path("results/probe")
REPORT = Path("results/report")
FIGURES = Path("results/figures")


def checkout() -> Path:
    """The folder DVC was called in: its temporary experiments run elsewhere and say so in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT", ""))


def store_root(store: str) -> Path:
    """Folder of ``runtime.store``; a temporary experiment uses the checkout's."""
    return checkout() / store


def images_root(root: str) -> Path:
    """Folder of ``index.root``; the checkout's where a temporary experiment has no photographs of its own."""
    here = Path(root)
    return here if here.is_absolute() or here.exists() else checkout() / root


def moments_manifest(split: Split, view: View) -> Path:
    """Manifest of a split's moments."""
    return ENCODED / split / f"{view}.json"


def pass_manifests(split: Split, view: View, name: str, timestep: int) -> Path:
    """Folder of the manifests of the pass ``name`` at one timestep."""
    return EXTRACTED / split / view / name / f"t{timestep}"


def checkpoint_record(name: str) -> Path:
    """Which checkpoint the pass ``name`` was last made with or found complete for."""
    return EXTRACTED / "checkpoints" / f"{name}.json"


def inputs_manifest(section: str) -> Path:
    """Manifest of exactly what section ``train`` or ``evaluate`` reads."""
    return INPUTS / f"{section}.json"


def similarity_file(head: Path) -> Path:
    """Threshold of a head's similarities: beside its folder, for everybody who reads its scores."""
    return head.with_name(f"{head.name}-similarity.json")


def calibration_file(head: Path) -> Path:
    """What a head's similarities mean: beside its folder, which stays what train wrote. Where a head was fetched, its
    folder has the file inside."""
    inside = head / "calibration.json"
    return inside if inside.is_file() else head.with_name(f"{head.name}-calibration.json")
