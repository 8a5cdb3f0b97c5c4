"""What decides the weights of a head: only what was made under equal settings is gone on from or taken over."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffps.records import Split
from stages.index import INDEX_FOLDER

if TYPE_CHECKING:
    from stages.params import Params

# Code that computes the weights; a change of it asks for a new training, as it does for DVC.
CODE = ("features.py", "model.py", "schedule.py", "training.py", "heads/*.py")
# Code that a head's scores come from beside that: a change of it asks for new scores of the same head.
SCORING = ("diffps/metrics/*.py", "stages/evaluate.py", "stages/inference.py", "stages/scoring.py")


def settings(params: "Params") -> dict[str, Any]:
    """The settings of section ``train`` and of the features it reads, as plain JSON values."""
    train = asdict(params.train)
    del train["source"]  # live and cached features are the same
    features = asdict(params.extract)
    for what_else_is_stored in ("name", "taps", "timesteps", "words"):
        del features[what_else_is_stored]
    encode = asdict(params.encode)
    found = {
        "train": train,
        "features": features,
        "checkpoint": [encode["checkpoint"], encode["revision"]],
        "canvas": encode["canvas"],
        "words": encode["words"],
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def features_digest(params: "Params", splits: Sequence[Split]) -> str:
    """Ten hex digits over the manifests of the features read: other bytes in the store, another digest.

    Empty where there are no manifests (live features of a store that was never filled).
    """
    from stages.extract import manifest_folder, stored_name, views_read
    from stages.job import QuietJob
    from stages.storage import store_root

    config, root = params.extract, store_root(QuietJob(params.runtime))
    found = hashlib.sha256()
    empty = found.hexdigest()
    for split in splits:
        for view in views_read(params, split):
            folder = manifest_folder(root, split, view, config.name, params.train.timestep)
            for name in params.train.taps.names:
                path = folder / f"{stored_name(name, config.encoding, config.head)}.json"
                if path.is_file():
                    found.update(path.read_bytes())
    return "" if found.hexdigest() == empty else found.hexdigest()[:10]


def index_digest() -> str:
    """Ten hex digits over the index: other boxes, queries or galleries, another digest."""
    stats = [(str(path.absolute()), path.stat()) for path in sorted(INDEX_FOLDER.glob("*.parquet"))]
    return _digest_of(tuple((path, stat.st_mtime_ns, stat.st_size) for path, stat in stats))


@cache
def _digest_of(files: tuple[tuple[str, int, int], ...]) -> str:
    found = hashlib.sha256()
    for path, _, _ in files:
        found.update(Path(path).read_bytes())
    return found.hexdigest()[:10]


@cache
def code_digest() -> str:
    """Ten hex digits over the code that computes the weights."""
    return _digest_of_code([f"diffps/{pattern}" for pattern in CODE])


@cache
def scoring_digest() -> str:
    """Ten hex digits over the code that makes scores of what a head finds."""
    return _digest_of_code(SCORING)


def _digest_of_code(patterns: Sequence[str]) -> str:
    import diffps

    root = Path(diffps.__file__).parents[1]
    found = hashlib.sha256()
    for pattern in patterns:
        for path in sorted(root.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()[:10]


def difference(old: Any, new: Any, at: str = "") -> str:
    """The first key under which two nested settings differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            if old.get(key) != new.get(key):
                return difference(old.get(key), new.get(key), f"{at}.{key}" if at else key)
    return f"{at} was {old!r} and is {new!r}"
