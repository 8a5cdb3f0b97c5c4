"""Prompts: padding, spans, embeddings; and which pad token a tokenizer's files mean."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from diffps.backbone.checkpoint import Checkpoint, load_checkpoint
from diffps.backbone.prompts import PromptEncoder
from diffps.backbone.tokenizers import clip_tokenizer, t5_tokenizer
from diffps.errors import CheckpointError, PromptError


@pytest.fixture(scope="module")
def encoder(checkpoint: Checkpoint) -> PromptEncoder:
    return PromptEncoder(checkpoint)


def test_a_prompt_is_padded_with_the_checkpoint_s_own_token(encoder: PromptEncoder) -> None:
    prompt = encoder.encode("person")
    assert encoder.pad_token == ("!", 0)
    assert len(prompt.ids) == encoder.length == prompt.embedding.shape[1]
    assert set(prompt.ids[3:]) == {0}
    assert prompt.embedding.dtype == torch.float32


def test_spans_of_words_and_phrases_are_found_wherever_they_stand(encoder: PromptEncoder) -> None:
    prompt = encoder.encode("a person in a red shirt", ["person", "red shirt", "in"])
    assert prompt.spans == {"person": (2, 3), "red shirt": (5, 8), "in": (3, 4)}
    assert encoder.encode("person", ["person"]).spans == {"person": (1, 2)}
    first = encoder.encode("person and person", ["person"])
    assert first.spans == {"person": (1, 2)}


def test_a_word_that_is_not_in_the_prompt_is_refused_with_its_tokens(encoder: PromptEncoder) -> None:
    with pytest.raises(PromptError, match=r"'shoes': not in the prompt 'a person', whose tokens are a\S* person\S*$"):
        encoder.encode("a person", ["shoes"])
    with pytest.raises(PromptError, match="no token"):
        encoder.encode("a person", ["  "])


def test_a_prompt_that_is_too_long_is_refused(encoder: PromptEncoder) -> None:
    with pytest.raises(PromptError, match=f"takes {encoder.length}"):
        encoder.encode("person " * (encoder.length - 1))
    fullest = encoder.encode("person " * (encoder.length - 2), ["person"])
    assert (len(fullest.ids), fullest.ids.count(fullest.ids[1])) == (encoder.length, encoder.length - 2)


def test_a_word_s_embedding_is_the_encoder_s_output_at_its_token(encoder: PromptEncoder) -> None:
    rows = encoder.word_embeddings(["head", "shoes"])
    assert torch.equal(rows[1], encoder.encode("shoes").embedding[0, 1])
    assert encoder.word_embeddings([]).shape == (0, rows.shape[1])


def test_special_tokens_map_decides_the_pad_token(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    config = json.loads((copy / "tokenizer/tokenizer_config.json").read_text())
    (copy / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "!"}}))
    (copy / "tokenizer/tokenizer_config.json").write_text(json.dumps({**config, "pad_token": "<|endoftext|>"}))
    assert PromptEncoder(load_checkpoint(str(copy))).pad_token == ("!", 0)
    (copy / "tokenizer/special_tokens_map.json").unlink()
    assert PromptEncoder(load_checkpoint(str(copy))).pad_token[0] == "<|endoftext|>"
    (copy / "tokenizer/tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if key != "pad_token"})
    )
    with pytest.raises(CheckpointError, match="the files of tokenizer/ name no pad_token"):
        load_checkpoint(str(copy)).load_tokenizer()
    (copy / "tokenizer/special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "nowhere"}}))
    with pytest.raises(CheckpointError, match="pad token 'nowhere' is not in the text encoder's vocabulary$"):
        load_checkpoint(str(copy)).load_tokenizer()


def test_a_tokenizer_without_a_limit_has_the_encoder_s(folder: Path, encoder: PromptEncoder, tmp_path: Path) -> None:
    """Published ones say 10^30 where nobody set a length."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    config = copy / "tokenizer/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_max_length": int(1e30)}))
    unlimited = PromptEncoder(load_checkpoint(str(copy)))
    assert unlimited.length == encoder.length
    assert torch.equal(unlimited.encode("person").embedding, encoder.encode("person").embedding)


def test_tokenizers_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="checkpoint x: .*t5 has neither tokenizer.json nor spiece.model"):
        t5_tokenizer(tmp_path / "t5", "x")
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5/tokenizer.json").write_text("{}")
    (tmp_path / "t5/tokenizer_config.json").write_text("{")
    for read in (t5_tokenizer, lambda *given: clip_tokenizer(*given, 9)):
        with pytest.raises(CheckpointError, match="checkpoint x: t5/ does not load: ") as caught:
            read(tmp_path / "t5", "x")
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(find_spec("sentencepiece") is not None, reason="sentencepiece is here")
def test_a_tokenizer_that_needs_another_library_says_which(tmp_path: Path) -> None:
    (tmp_path / "spiece.model").touch()
    with pytest.raises(CheckpointError, match=r"as spiece.model alone; reading it takes `pip install 'diffps\[t5\]'`"):
        t5_tokenizer(tmp_path, "x")
