"""The text of every token, as a reader sees it and not as a vocabulary spells it."""

import pytest

from dsf.loading import token_texts

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_level():
    """The bytes as vocabularies of this kind write them, and one merge: a space with an ``a``."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: at for at, letter in enumerate([*letters, "Ġa"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def texts_of(words):
    tokenizer = byte_level()
    return token_texts(tokenizer, tokenizer(words)["input_ids"])


def test_a_space_is_a_space():
    assert texts_of("b a .") == ["b", " a", " ", "."]


def test_a_line_break_and_a_tab_stay():
    assert texts_of("\n\t") == ["\n", "\t"]


def test_a_part_of_a_character_is_written_as_its_bytes():
    assert texts_of("é!") == ["\\xc3", "\\xa9", "!"]


def test_the_mark_of_a_space_is_a_space():
    """SentencePiece writes a space as ▁, and its decoder strips the one before the first word."""
    words = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2, "_": 3}, [("▁", "a")]))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert token_texts(tokenizer, [2, 1, 0, 3]) == [" a", "a", " ", "_"]


def test_a_mark_that_a_tokenizer_keeps_stays():
    words = Tokenizer(models.WordLevel({"▁a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert token_texts(tokenizer, [0]) == ["▁a"]


def test_without_tokens_there_is_no_text():
    assert texts_of("") == []


def test_pieces_of_words_keep_their_mark():
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "read": 1, "##ing": 2}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]")
    assert token_texts(tokenizer, [1, 2, 0]) == ["read", "##ing", "[UNK]"]
