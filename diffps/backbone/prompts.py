"""What the text side gives a frozen UNet: one embedding per prompt token, and where a word's tokens lie.

A prompt is padded to the text encoder's length with the checkpoint's own pad token, without an attention mask: the
padding takes part in every cross-attention softmax. All of it is the same for every image: computed once per run.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from diffps.backbone.checkpoint import Checkpoint, Part
from diffps.backbone.parts import DiffusersModel
from diffps.errors import ConfigError, PromptError


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the UNet gets it.

    ``embedding`` (1, T, D) float32 is the text encoder's output, T the tokenizer's length, padding included; ``ids``
    are the T token ids; ``spans`` maps a word or phrase of the prompt to its tokens, first inclusive, last exclusive.
    Of SDXL ``embedding`` is that of both encoders' last layer but one, side by side, ``ids`` are the first's, and
    ``pooled`` (1, P) is the second's of the prompt as a whole.
    """

    text: str
    embedding: Tensor
    ids: tuple[int, ...]
    spans: dict[str, tuple[int, int]]
    pooled: Tensor | None = None


class TextSide:
    """One tokenizer and its text encoder, which ``load`` loads in float32 on the CPU once it is needed.

    ``name`` is what errors call the checkpoint, ``width`` the embedding's, ``length`` the most tokens of a prompt.
    ``last_but_one``: the embedding is the output of the last layer but one, as SDXL and SD 3 take it. ``pads``: prompts
    are padded to ``length``.
    """

    def __init__(
        self,
        name: str,
        tokenizer: DiffusersModel,
        load: Callable[[], DiffusersModel],
        *,
        width: int,
        length: int,
        last_but_one: bool = False,
        pads: bool = True,
    ) -> None:
        self.width, self.length, self._pads = width, length, pads
        self._name, self._tokenizer, self._load, self._last_but_one = name, tokenizer, load, last_but_one

    @property
    def pad_token(self) -> tuple[str, int]:
        """The token prompts are padded with, and its id."""
        return str(self._tokenizer.pad_token), int(self._tokenizer.pad_token_id)

    def tokens(self, prompt: str, length: int | None = None) -> list[int]:
        """Token ids of ``prompt``, padded to ``length`` (default: the side's own). Raises PromptError for more."""
        ids: list[int] = self._tokenizer(prompt, verbose=False)["input_ids"]
        length = length or self.length
        if len(ids) > length:
            raise PromptError(f"prompt {prompt!r}: {len(ids)} tokens, the text encoder takes {length}; shorten it")
        return ids + [self.pad_token[1]] * (length - len(ids)) if self._pads else ids

    def span(self, word: str, ids: list[int], prompt: str) -> tuple[int, int]:
        """Where ``word`` lies in the ``ids`` of ``prompt``. Raises PromptError where it does not."""
        wanted: list[int] = self._tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        if not wanted:
            raise PromptError(f"word {word!r}: the tokenizer finds no token in it")
        if self._tokenizer.unk_token_id in wanted:
            raise PromptError(f"word {word!r}: not in the vocabulary of {self._name}")
        end = ids.index(self._tokenizer.eos_token_id)
        for start in range(end - len(wanted) + 1):
            if ids[start : start + len(wanted)] == wanted:
                return start, start + len(wanted)
        tokens = self._tokenizer.convert_ids_to_tokens(ids[ids[0] == self._tokenizer.bos_token_id : end])
        raise PromptError(f"word {word!r}: not in the prompt {prompt!r}, whose tokens are {' '.join(tokens)}")

    @torch.inference_mode()
    def embed(self, ids: list[int]) -> tuple[Tensor, Tensor | None]:
        """(1, T, D) of each token, and (1, P) of all where this encoder projects it."""
        found = self._encoder(input_ids=torch.tensor([ids]), output_hidden_states=self._last_but_one, return_dict=True)
        output: Tensor = found.hidden_states[-2] if self._last_but_one else found.last_hidden_state
        pooled: Tensor | None = getattr(found, "text_embeds", None)
        return output.float().clone(), None if pooled is None else pooled.float().clone()

    @cached_property
    def _encoder(self) -> DiffusersModel:
        return self._load()


def embed_words(sides: Sequence[TextSide], words: Sequence[str], encoder: int, length: int | None = None) -> Tensor:
    """(W, D) float32: each word or phrase as a prompt of its own, the encoder's output averaged over its tokens.

    ``encoder`` counts ``sides`` from 1; ``length`` as in :meth:`TextSide.tokens`. Raises ConfigError for an encoder
    that is not there.
    """
    if not 1 <= encoder <= len(sides):
        known = "1" if len(sides) == 1 else f"1 to {len(sides)}"
        raise ConfigError(f"encode.text_encoder {encoder}: this checkpoint has {known}")
    side, rows = sides[encoder - 1], []
    for word in words:
        ids = side.tokens(word, length)
        rows.append(side.embed(ids)[0][0, slice(*side.span(word, ids, word))].mean(0))
    return torch.stack(rows) if rows else torch.zeros(0, side.width)


class PromptEncoder:
    """Tokenizers and text encoders of a checkpoint, on the CPU in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._sides = [_clip_side(checkpoint, part) for part in checkpoint.text_parts]
        self.length = min(side.length for side in self._sides)

    @property
    def pad_token(self) -> tuple[str, int]:
        """The token prompts are padded with, and its id: SD 2.x `!`, 0; SD 1.x `<|endoftext|>`, 49407."""
        return self._sides[0].pad_token

    @property
    def pad_tokens(self) -> list[tuple[str, int]]:
        """Those of every text encoder: SDXL's first pads like SD 1.x, its second like SD 2.x."""
        return [side.pad_token for side in self._sides]

    def encode(self, prompt: str, words: Iterable[str] = ()) -> EncodedPrompt:
        """Encode ``prompt`` and find ``words`` in it.

        Raises PromptError for a word that is not there (whole tokens), or a prompt longer than the encoder takes.
        """
        found = [side.tokens(prompt, self.length) for side in self._sides]
        spans = clip_spans(self._sides, found, words, prompt)
        embedded = [side.embed(ids) for side, ids in zip(self._sides, found, strict=True)]
        whole = torch.cat([embedding for embedding, _ in embedded], -1)
        return EncodedPrompt(prompt, whole, tuple(found[0]), spans, embedded[-1][1])

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> Tensor:
        """See :func:`embed_words`."""
        return embed_words(self._sides, words, encoder, self.length)


def clip_spans(
    sides: Sequence[TextSide], found: Sequence[list[int]], words: Iterable[str], prompt: str
) -> dict[str, tuple[int, int]]:
    """Where ``words`` lie in the ids ``found`` of ``prompt``, of encoders side by side. Raises PromptError."""
    spans = {word: sides[0].span(word, found[0], prompt) for word in words}
    for side, ids in zip(sides[1:], found[1:], strict=True):
        for word, span in spans.items():
            if side.span(word, ids, prompt) != span:
                raise PromptError(f"word {word!r}: the two text encoders have it at different tokens")
    return spans


def _clip_side(checkpoint: Checkpoint, part: Part) -> TextSide:
    tokenizer, config = checkpoint.load_tokenizer(part), checkpoint.config(part)
    return TextSide(
        checkpoint.name,
        tokenizer,
        lambda: checkpoint.load_text_encoder(part),
        width=int(config["hidden_size"]),
        length=min(int(tokenizer.model_max_length), int(config["max_position_embeddings"])),
        last_but_one=checkpoint.is_xl,
    )
