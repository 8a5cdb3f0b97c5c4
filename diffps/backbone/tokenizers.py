"""Tokenizers of text encoders, from the folders of a checkpoint; nothing is fetched."""

from importlib.util import find_spec
from pathlib import Path

from diffps.backbone.headers import one_line
from diffps.backbone.parts import DiffusersModel
from diffps.backbone.weights import read_json
from diffps.errors import CheckpointError


def clip_tokenizer(folder: Path, checkpoint: str, vocabulary: int) -> DiffusersModel:
    """CLIP's tokenizer with the pad token its files name: special_tokens_map.json's where it exists.

    ``vocabulary``: how many tokens the text encoder has embeddings of. Raises CheckpointError when the pad token is
    none of them: the padding changes every attention map.
    """
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers do
        raise CheckpointError(f"checkpoint {checkpoint}: {folder.name}/ does not load: {one_line(error)}") from error
    named = next((token for token in map(_pad_token, _special_files(folder)) if token is not None), None)
    if named is None:
        raise CheckpointError(f"checkpoint {checkpoint}: the files of {folder.name}/ name no pad_token")
    if tokenizer.pad_token != named:
        tokenizer.pad_token = named
    # An unknown one the library adds behind the others.
    if tokenizer.pad_token_id >= vocabulary:
        raise CheckpointError(f"checkpoint {checkpoint}: pad token {named!r} is not in the text encoder's vocabulary")
    return tokenizer


def t5_tokenizer(folder: Path, checkpoint: str) -> DiffusersModel:
    """T5's tokenizer, from tokenizer.json or, with sentencepiece, from spiece.model. Raises CheckpointError."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        if not (folder / "spiece.model").is_file():
            raise CheckpointError(f"checkpoint {checkpoint}: {folder} has neither tokenizer.json nor spiece.model")
        if find_spec("sentencepiece") is None or find_spec("google.protobuf") is None:
            raise CheckpointError(
                f"checkpoint {checkpoint}: {folder.name}/ has T5's tokenizer as spiece.model alone; reading it takes "
                "`pip install 'diffps[t5]'`"
            )
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers raises whatever its parsers do
        raise CheckpointError(f"checkpoint {checkpoint}: {folder.name}/ does not load: {one_line(error)}") from error


def _special_files(folder: Path) -> list[Path]:
    names = ("special_tokens_map.json", "tokenizer_config.json")
    return [folder / name for name in names if (folder / name).is_file()]


def _pad_token(path: Path) -> str | None:
    token = read_json(path).get("pad_token")
    content = token.get("content") if isinstance(token, dict) else token
    if content is not None and not isinstance(content, str):
        raise CheckpointError(f"{path}: pad_token is {str(content)[:40]}; expected a token")
    return content
