"""Text embeddings of ``encode.words``, which SFAN compares RoIs with."""

import json
from collections.abc import Sequence

from safetensors.torch import load, save
from torch import Tensor

from cache.files import read_bytes, write_bytes
from cache.sealed import check, tensors_bytes, tensors_metadata
from diffps.backbone.prior import Prior
from diffps.errors import ConfigError
from stages.config_data import EncodeConfig
from stages.features.priors import prior_of
from stages.places import WORDS


def write_words(prior: Prior, words: Sequence[str], encoder: int) -> None:
    """Embed ``words``, each as a prompt of its own, by the text ``encoder`` of that number: ``embeddings`` (W, D)
    float32. An equal file stays as it is.

    Of a prior without text there is no file.
    """
    embeddings = prior.word_embeddings(words, encoder)
    if embeddings is None:
        WORDS.parent.mkdir(parents=True, exist_ok=True)
        WORDS.unlink(missing_ok=True)
        return
    data = tensors_bytes(save({"embeddings": embeddings}, {"words": json.dumps(list(words))}))
    if not WORDS.is_file() or read_bytes(WORDS) != data:
        write_bytes(WORDS, data)


def embed_words(encode: EncodeConfig) -> Tensor:
    """What ``write_words`` writes for ``encode``, without a file: for heads on another pass than the params'. Raises
    CheckpointError, ConfigError."""
    embeddings = prior_of(encode).word_embeddings(encode.words, encode.text_encoder)
    if embeddings is None:
        raise ConfigError(f"{encode.checkpoint} has no text; set train.model.sfan: null")
    return embeddings


def read_words(wanted: Sequence[str]) -> Tensor:
    """Embeddings (W, D) of ``wanted``, which are ``encode.words``. Raises ConfigError where encode has not run, or ran
    for other words; DamagedError."""
    if not WORDS.exists():
        raise ConfigError(f"{WORDS} is missing: run `diffps encode` first")
    data = read_bytes(WORDS)
    check(data, WORDS, "`diffps encode`")
    found = json.loads(tensors_metadata(data).get("words", "null"))
    if found not in (None, list(wanted)):  # older files do not say
        raise ConfigError(f"{WORDS}: is of the words {found}, encode.words are {list(wanted)}: run `diffps encode`")
    return load(data)["embeddings"]
