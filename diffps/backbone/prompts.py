"""What the text side gives a frozen UNet: one embedding per prompt token, and where a word's tokens lie.

A prompt is padded to the text encoder's length with the checkpoint's own pad token, without an attention mask: the
padding takes part in every cross-attention softmax. All of it is the same for every image: computed once per run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffps.backbone.checkpoint import Checkpoint, Part
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


class PromptEncoder:
    """Tokenizers and text encoders of a checkpoint, on the CPU in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._sides = [_Side(checkpoint, part) for part in checkpoint.text_parts]
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
        first, words = self._sides[0], tuple(words)
        found = [side.tokens(prompt, self.length) for side in self._sides]
        spans = {word: first.span(word, found[0], prompt) for word in words}
        for side, ids in zip(self._sides[1:], found[1:], strict=True):
            for word, span in spans.items():
                if side.span(word, ids, prompt) != span:
                    raise PromptError(f"word {word!r}: the two text encoders have it at different tokens")
        embedded = [side.embed(ids) for side, ids in zip(self._sides, found, strict=True)]
        whole = torch.cat([embedding for embedding, _ in embedded], -1)
        return EncodedPrompt(prompt, whole, tuple(found[0]), spans, embedded[-1][1])

    def word_embeddings(self, words: Sequence[str], encoder: int = 1) -> Tensor:
        """(W, D) float32: each word or phrase as a prompt of its own, the encoder's output averaged over its tokens.

        ``encoder`` counts the text encoders from 1. Raises ConfigError for one that the checkpoint does not have.
        """
        if not 1 <= encoder <= len(self._sides):
            known = "1" if len(self._sides) == 1 else f"1 to {len(self._sides)}"
            raise ConfigError(f"encode.text_encoder {encoder}: this checkpoint has {known}")
        side, rows = self._sides[encoder - 1], []
        for word in words:
            ids = side.tokens(word, self.length)
            rows.append(side.embed(ids)[0][0, slice(*side.span(word, ids, word))].mean(0))
        return torch.stack(rows) if rows else torch.zeros(0, side.width)


class _Side:
    """One tokenizer and its text encoder."""

    def __init__(self, checkpoint: Checkpoint, part: Part) -> None:
        self._tokenizer = checkpoint.load_tokenizer(part)
        self._encoder = checkpoint.load_text_encoder(part)
        self._name, self._xl = checkpoint.name, checkpoint.is_xl
        self.width = int(self._encoder.config.hidden_size)
        positions = self._encoder.config.max_position_embeddings
        self.length = min(int(self._tokenizer.model_max_length), int(positions))

    @property
    def pad_token(self) -> tuple[str, int]:
        return str(self._tokenizer.pad_token), int(self._tokenizer.pad_token_id)

    def tokens(self, prompt: str, length: int) -> list[int]:
        ids: list[int] = self._tokenizer(prompt, verbose=False)["input_ids"]
        if len(ids) > length:
            raise PromptError(f"prompt {prompt!r}: {len(ids)} tokens, the text encoder takes {length}; shorten it")
        return ids + [self.pad_token[1]] * (length - len(ids))

    def span(self, word: str, ids: list[int], prompt: str) -> tuple[int, int]:
        wanted: list[int] = self._tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
        if not wanted:
            raise PromptError(f"word {word!r}: the tokenizer finds no token in it")
        if self._tokenizer.unk_token_id in wanted:
            raise PromptError(f"word {word!r}: not in the vocabulary of {self._name}")
        end = ids.index(self._tokenizer.eos_token_id)
        for start in range(1, end - len(wanted) + 1):
            if ids[start : start + len(wanted)] == wanted:
                return start, start + len(wanted)
        tokens = self._tokenizer.convert_ids_to_tokens(ids[1:end])
        raise PromptError(f"word {word!r}: not in the prompt {prompt!r}, whose tokens are {' '.join(tokens)}")

    @torch.inference_mode()
    def embed(self, ids: list[int]) -> tuple[Tensor, Tensor | None]:
        """(1, T, D) of each token, and (1, P) of all where this encoder projects it."""
        found = self._encoder(torch.tensor([ids]), output_hidden_states=self._xl, return_dict=True)
        output: Tensor = found.hidden_states[-2] if self._xl else found.last_hidden_state
        pooled: Tensor | None = getattr(found, "text_embeds", None)
        return output.float().clone(), None if pooled is None else pooled.float().clone()
