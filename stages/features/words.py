"""Text embeddings of ``encode.words``, which SFAN compares RoIs with."""

import json
from collections.abc import Sequence

from safetensors.torch import load, save
from torch import Tensor

from cache.files import read_bytes, write_bytes
from cache.sealed import check, tensors_bytes
from diffps.backbone.checkpoint import Checkpoint
from diffps.backbone.prompts import PromptEncoder
from diffps.errors import ConfigError
from stages.places import WORDS


def write_words(checkpoint: Checkpoint, words: Sequence[str]) -> None:
    """Embed ``words``, each as a prompt of its own: ``embeddings`` (W, D) float32. An equal file stays as it is."""
    embeddings = PromptEncoder(checkpoint).word_embeddings(words)
    data = tensors_bytes(save({"embeddings": embeddings}, {"words": json.dumps(list(words))}))
    if not WORDS.is_file() or read_bytes(WORDS) != data:
        write_bytes(WORDS, data)


def read_words() -> Tensor:
    """Embeddings (W, D) of ``encode.words``. Raises ConfigError where encode has not run, DamagedError."""
    if not WORDS.exists():
        raise ConfigError(f"{WORDS} is missing: run `diffps encode` first")
    data = read_bytes(WORDS)
    check(data, WORDS, "`diffps encode`")
    return load(data)["embeddings"]
