"""What the text side gives a frozen UNet: one embedding per prompt token, and where a word's tokens lie.

A prompt is padded to the text encoder's length with the checkpoint's own pad token, without an attention mask: the
padding takes part in every cross-attention softmax. All of it is the same for every image: computed once per run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffps.backbone.checkpoint import Checkpoint
from diffps.errors import PromptError


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """A prompt as the UNet gets it.

    ``embedding`` (1, T, D) float32 is the text encoder's output, T the tokenizer's length, padding included; ``ids``
    are the T token ids; ``spans`` maps a word or phrase of the prompt to its tokens, first inclusive, last exclusive.
    """

    text: str
    embedding: Tensor
    ids: tuple[int, ...]
    spans: dict[str, tuple[int, int]]


class PromptEncoder:
    """Tokenizer and text encoder of a checkpoint, on the CPU in float32."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tokenizer = checkpoint.load_tokenizer()
        self._encoder = checkpoint.load_text_encoder()
        self._name = checkpoint.name
        positions = self._encoder.config.max_position_embeddings
        self.length = min(int(self._tokenizer.model_max_length), int(positions))

    @property
    def pad_token(self) -> tuple[str, int]:
        """The token prompts are padded with, and its id: SD 2.x `!`, 0; SD 1.x `<|endoftext|>`, 49407."""
        return str(self._tokenizer.pad_token), int(self._tokenizer.pad_token_id)

    def encode(self, prompt: str, words: Iterable[str] = ()) -> EncodedPrompt:
        """Encode ``prompt`` and find ``words`` in it.

        Raises PromptError for a word that is not there (whole tokens), or a prompt longer than the encoder takes.
        """
        ids = self._tokens(prompt)
        spans = {word: self._span(word, ids, prompt) for word in words}
        return EncodedPrompt(prompt, self._embed(ids), tuple(ids), spans)

    def word_embeddings(self, words: Sequence[str]) -> Tensor:
        """(W, D) float32: each word or phrase as a prompt of its own, the encoder's output averaged over its tokens."""
        encoded = (self.encode(word, [word]) for word in words)
        rows = [prompt.embedding[0, slice(*prompt.spans[prompt.text])].mean(0) for prompt in encoded]
        return torch.stack(rows) if rows else torch.zeros(0, self._encoder.config.hidden_size)

    def _tokens(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt, verbose=False)["input_ids"]
        if len(ids) > self.length:
            raise PromptError(f"prompt {prompt!r}: {len(ids)} tokens, the text encoder takes {self.length}; shorten it")
        return ids + [self.pad_token[1]] * (self.length - len(ids))

    def _span(self, word: str, ids: list[int], prompt: str) -> tuple[int, int]:
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
    def _embed(self, ids: list[int]) -> Tensor:
        output: Tensor = self._encoder(torch.tensor([ids]), return_dict=True).last_hidden_state
        return output.float().clone()
