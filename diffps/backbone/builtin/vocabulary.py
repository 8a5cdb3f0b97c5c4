"""A CLIP tokenizer whose whole words are those of the drawn streets; anything else falls to its bytes."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from diffps.datasets.streets.captions import WORDS

TOKENS = 77
_START, _END = "<|startoftext|>", "<|endoftext|>"


def byte_pairs(words: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges with which byte-pair encoding makes one token of every one of ``words``.

    Later merges have lower rank, so they never change how an earlier word is built.
    """
    letters = _byte_letters()
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = _merge([*word[:-1], word[-1] + "</w>"], merges)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            tokens.append(pieces[0] + pieces[1])
            pieces = _merge(pieces, merges)
    unique = dict.fromkeys([*tokens, _START, _END])
    return {token: number for number, token in enumerate(unique)}, merges


def make_tokenizer() -> Any:
    """The built-in checkpoints' tokenizer; like SD 2.x it pads with `!`, id 0, to 77 tokens."""
    from transformers import CLIPTokenizer

    vocabulary, merges = byte_pairs(WORDS)
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]
        pad_token="!",
        unk_token=_END,
        bos_token=_START,
        eos_token=_END,
        model_max_length=TOKENS,
    )


def _merge(pieces: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[str]:
    rank = {pair: number for number, pair in enumerate(merges)}
    current = list(pieces)
    while True:
        best = min(pairwise(current), key=lambda pair: rank.get(pair, len(rank)), default=None)
        if best is None or best not in rank:
            return current
        joined: list[str] = []
        for piece in current:
            if joined and joined[-1] == best[0] and piece == best[1]:
                joined[-1] += piece
            else:
                joined.append(piece)
        current = joined


def _byte_letters() -> list[str]:
    """CLIP's printable letter for each byte, `!` first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(rest))]
