"""The identity of a head: only what was made under equal settings is gone on from or taken over."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import diffps
from stages.config_data import EncodeConfig, ExtractConfig
from stages.config_heads import TrainConfig
from stages.features.inputs import weights_of
from stages.features.reading import Reading
from stages.places import INDEX
from stages.text import placeless

# Code that computes the weights; a change of it asks for a new training, as it does for DVC.
CODE = tuple(
    f"diffps/{name}"
    for name in ("features.py", "model.py", "schedule.py", "suppression.py", "training.py", "heads/*.py")
)
# Code that a head's scores come from beside that: a change of it asks for new scores of the same head.
SCORING = ("diffps/metrics/*.py", "stages/search/*.py")
ROOT = Path(diffps.__file__).parents[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadIdentity:
    """``settings`` are plain JSON values that decide the weights, but for the training data itself; ``reading`` is what
    the head is fed; ``dataset`` names whom it learns from, for its card. ``backbone``: sections ``encode`` and
    ``extract`` as plain JSON values, by which whoever has the head and the checkpoint makes its features anew."""

    settings: Mapping[str, Any]
    reading: Reading
    dataset: str
    backbone: Mapping[str, Any]

    @classmethod
    def of(cls, dataset: str, train: TrainConfig, encode: EncodeConfig, extract: ExtractConfig) -> "HeadIdentity":
        """The head that these sections train on the features that lie in the store now."""
        reading = Reading.of(train, extract)
        made_from = {"store": reading.digest(["train"]), "code": code_digest()}
        return cls(
            settings=head_settings(train, encode, extract) | made_from,
            reading=reading,
            dataset=dataset,
            backbone=_plain(_carried(encode, reading.asked_of(extract))),
        )


def _carried(encode: EncodeConfig, asked: ExtractConfig) -> dict[str, Any]:
    """Both sections as they may leave this machine: weights in a folder by its name alone."""
    names = {"checkpoint": placeless(encode.checkpoint)}
    unet = None if asked.unet is None else placeless(asked.unet)
    return {"encode": asdict(encode) | names, "extract": asdict(asked) | {"unet": unet}}


def head_settings(train: TrainConfig, encode: EncodeConfig, extract: ExtractConfig) -> dict[str, Any]:
    """Section ``train`` and what decides the features it reads, as plain JSON values: weights by their digests, however
    they are called."""
    own = asdict(train)
    del own["source"]  # live and cached features are the same
    features = asdict(extract)
    for what_else_is_stored in ("name", "taps", "timesteps", "transcode", "words", "unet"):
        del features[what_else_is_stored]
    found = {
        "train": own,
        "features": features,
        "weights": weights_of(encode, extract),
        "canvas": encode.canvas,
        "words": encode.words,
        **({} if encode.text_encoder == 1 else {"text_encoder": encode.text_encoder}),
    }
    return _plain(found)


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def index_digest() -> str:
    """Ten hex digits over the index: other boxes, queries or galleries, another digest."""
    stats = [(str(path.absolute()), path.stat()) for path in sorted(INDEX.glob("*.parquet"))]
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
    return digest_of_code(CODE, ROOT)


@cache
def scoring_digest() -> str:
    """Ten hex digits over the code that makes scores of what a head finds."""
    return digest_of_code(SCORING, ROOT)


def digest_of_code(patterns: Sequence[str], root: Path) -> str:
    """Ten hex digits over the files below ``root`` that ``patterns`` match."""
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
